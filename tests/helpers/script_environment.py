"""An environment of llama.cpp's whose Python is a shell script, for tests of what passes between the processes."""


def make_environment(folder, script):
    """Makes it."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    (folder / ".ready").touch()
