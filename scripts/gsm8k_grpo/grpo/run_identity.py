"""Which settings make a training run what it is."""

from collections.abc import Mapping

# Settings that change nothing in what a step computes. (max_steps does, by way of schedule_steps.)
NOT_IDENTITY = ("max_steps", "checkpoint_interval_steps", "kept_completions", "wandb_project", "format_check_rows")


def run_identity(settings: Mapping) -> dict:
    """The settings that make a run what it is; with any other value of them, it is another run.

    Args:
      settings: the blocks of the stage `train`, as plain mappings.
    """
    training = settings["training"]
    schedule = {"schedule_steps": training["schedule_steps"] or training["max_steps"]}
    prompt, kept = (
        {key: value for key, value in settings[block].items() if key not in NOT_IDENTITY}
        for block in ("prompt", "training")
    )
    return {**settings, "prompt": prompt, "training": {**kept, **schedule}}


def describe_differences(old: object, new: object, key: str = "") -> list[str]:
    """What differs between two nested mappings, a phrase for each key: `training.beta: 0.04, now 0.08`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = sorted(set(old) | set(new))
        prefix = f"{key}." if key else ""
        return [
            phrase for name in names for phrase in describe_differences(old.get(name), new.get(name), f"{prefix}{name}")
        ]
    if old == new:
        return []
    return [f"{key} changed" if isinstance(old, str) and len(old) == 64 else f"{key}: {old}, now {new}"]
