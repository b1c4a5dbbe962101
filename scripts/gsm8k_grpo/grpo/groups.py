"""A group of completions for one prompt, and the figures of a step's groups."""

import dataclasses
import functools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Group:
    """The G completions of one prompt, on the host.

    Attributes:
      row: the prompt's row.
      prompt_ids: [P] left-padded.
      completions: G texts.
      completion_ids: G arrays of tokens, the stop token last where there is one.
      truncated: [G] whether the limit cut it.
      rewards: [G] values by the reward's name.
    """

    row: dict
    prompt_ids: np.ndarray
    completions: list[str]
    completion_ids: list[np.ndarray]
    truncated: np.ndarray
    rewards: dict[str, np.ndarray]

    @functools.cached_property
    def total(self) -> np.ndarray:
        """[G] summed rewards."""
        return np.sum(list(self.rewards.values()), axis=0)

    @property
    def has_signal(self) -> bool:
        """Whether any completion is better than another."""
        return bool(np.ptp(self.total) > 0)


def count_tokens(groups: list[Group]) -> int:
    """Prompt and completion tokens of groups, without padding."""
    generations = len(groups[0].completions)
    return sum(
        generations * group.row["prompt_tokens"] + sum(len(row) for row in group.completion_ids) for group in groups
    )


def sampling_figures(groups: list[Group]) -> dict[str, float]:
    """Of what the policy did with a step's own prompts, before any other was drawn in their place."""
    lengths = [len(row) for group in groups for row in group.completion_ids]
    totals = np.concatenate([group.total for group in groups])
    means = {f"reward_{name}": float(np.mean([group.rewards[name] for group in groups])) for name in groups[0].rewards}
    return {
        **means,
        "reward": float(totals.mean()),
        "reward_std": float(totals.std()),
        "groups_without_signal": float(np.mean([not group.has_signal for group in groups])),
        "completion_tokens_mean": float(np.mean(lengths)),
        "completion_tokens_max": float(np.max(lengths)),
        "truncated_rate": float(np.mean([group.truncated for group in groups])),
    }


def sample_rows(groups: list[Group], advantages: np.ndarray, step: int) -> list[dict]:
    rows = []
    for group in groups:
        for index, completion in enumerate(group.completions):
            rows.append(
                {
                    "step": step + 1,
                    "id": group.row["id"],
                    "completion": completion,
                    "answer": group.row["answer"],
                    "tokens": len(group.completion_ids[index]),
                    "truncated": bool(group.truncated[index]),
                    "rewards": {name: float(values[index]) for name, values in group.rewards.items()},
                    "reward": float(group.total[index]),
                    "advantage": float(advantages[len(rows)]),
                }
            )
    return rows
