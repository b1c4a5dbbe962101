"""Plays Colab's Drive: a folder that outlives the session."""

from pathlib import Path


def mount(mountpoint: str) -> None:
    Path(mountpoint, "MyDrive").mkdir(parents=True, exist_ok=True)
