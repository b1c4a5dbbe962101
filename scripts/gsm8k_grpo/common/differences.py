"""How two records of what something was made from differ, in words."""

from collections.abc import Mapping


def describe_differences(old: object, new: object, key: str = "") -> list[str]:
    """The differences between two nested mappings, a phrase for each key: `training.beta: 0.04, now 0.08`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = sorted(set(old) | set(new))
        prefix = f"{key}." if key else ""
        return [
            phrase for name in names for phrase in describe_differences(old.get(name), new.get(name), f"{prefix}{name}")
        ]
    if old == new:
        return []
    return [f"{key} changed" if isinstance(old, str) and len(old) == 64 else f"{key}: {old}, now {new}"]
