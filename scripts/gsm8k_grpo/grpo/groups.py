"""The group of completions that a prompt gets, and the metrics of a step's groups."""

import dataclasses
import functools

import numpy as np

from gsm8k_grpo.rewards.answers import Tags
from gsm8k_grpo.rewards.reasoning import reasoning_metrics


@dataclasses.dataclass(frozen=True)
class Group:
    """The G completions of one prompt, in host memory.

    Attributes:
      row: the prompt's row.
      prompt_ids: [P] left-padded.
      completions: G texts.
      completion_ids: G arrays of tokens; the last one is the stop token, unless the limit cut the completion.
      truncated: [G] whether the limit cut the completion.
      rewards: [G] values by the reward's name.
      unsampled: [G] sums over the tokens of the probability that top_k and top_p left out.
    """

    row: dict
    prompt_ids: np.ndarray
    completions: list[str]
    completion_ids: list[np.ndarray]
    truncated: np.ndarray
    rewards: dict[str, np.ndarray]
    unsampled: np.ndarray

    @functools.cached_property
    def total_rewards(self) -> np.ndarray:
        """[G] sums over the rewards."""
        return np.sum(list(self.rewards.values()), axis=0)

    @property
    def has_signal(self) -> bool:
        """Whether some completion is better than another."""
        return bool(np.ptp(self.total_rewards) > 0)


def count_tokens(groups: list[Group]) -> int:
    """The prompt and completion tokens of groups, without padding."""
    generations = len(groups[0].completions)
    return sum(
        generations * group.row["prompt_tokens"] + sum(len(ids) for ids in group.completion_ids) for group in groups
    )


def sampling_metrics(groups: list[Group], advantages: np.ndarray, tags: Tags) -> dict[str, float | None]:
    """Metrics of the completions for a step's own prompts. Replacements for groups without signal do not count.

    Args:
      advantages: [N · G] of the N groups' completions.
    """
    lengths = [len(ids) for group in groups for ids in group.completion_ids]
    totals = np.concatenate([group.total_rewards for group in groups])
    means = {f"reward_{name}": float(np.mean([group.rewards[name] for group in groups])) for name in groups[0].rewards}
    return {
        **means,
        "reward": float(totals.mean()),
        "reward_std": float(totals.std()),
        "groups_without_signal": float(np.mean(~advantages.reshape(len(groups), -1).any(axis=1))),
        "completion_tokens_mean": float(np.mean(lengths)),
        "completion_tokens_max": float(np.max(lengths)),
        "truncated_rate": float(np.mean([group.truncated for group in groups])),
        **reasoning_metrics([text for group in groups for text in group.completions], tags),
        "unsampled_mass": float(np.sum([group.unsampled for group in groups]) / np.sum(lengths)),
    }


def sample_rows(groups: list[Group], advantages: np.ndarray, step: int) -> list[dict]:
    """The completions of a step (0-based) as rows of samples.jsonl."""
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
                    "reward": float(group.total_rewards[index]),
                    "advantage": float(advantages[len(rows)]),
                }
            )
    return rows
