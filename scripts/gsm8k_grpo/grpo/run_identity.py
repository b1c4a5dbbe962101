"""What makes a training run: its inputs."""

from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.common.provenance import library_versions
from gsm8k_grpo.common.source_hash import source_hash
from gsm8k_grpo.config.merging import to_plain
from gsm8k_grpo.rewards import custom

# Settings that do not change what a step computes. (`max_steps` does so only as the default of `schedule_steps`.)
NOT_IDENTITY = (
    "max_steps",
    "checkpoint_interval_steps",
    "keep_checkpoints",
    "kept_completions",
    "custom_reward_limit_seconds",
    "wandb_project",
    "format_check_rows",
)


def run_inputs(settings: Mapping, rows_file: Path, model_sha256: dict) -> dict:
    """Everything that a run depends on: a checkpoint continues only a run with the same inputs.

    Args:
      settings: the blocks of the stage `train`.
      model_sha256: hashes of the base model's files, from its model.json.
    """
    return {
        "settings": identity_settings(to_plain(settings)),
        "rows": files.sha256_file(rows_file),
        "model": model_sha256,
        "code": source_hash("train"),
        "rewards": custom.file_hashes(settings["training"]["rewards"], ROOT),
        "versions": library_versions(),
    }


def identity_settings(settings: Mapping) -> dict:
    """The settings, as plain mappings, that make a run what it is: with another value, it is another run."""
    training = settings["training"]
    schedule = {"schedule_steps": training["schedule_steps"] or training["max_steps"]}
    prompt_identity, training_identity = (
        {key: value for key, value in settings[block].items() if key not in NOT_IDENTITY}
        for block in ("prompt", "training")
    )
    return {**settings, "prompt": prompt_identity, "training": {**training_identity, **schedule}}
