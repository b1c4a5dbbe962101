"""The rewards of training, given to evaluated completions."""

from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.evaluation.artifact_reading import first_completions
from gsm8k_grpo.evaluation.comparison import require_same_rows
from gsm8k_grpo.rewards import scoring
from gsm8k_grpo.rewards.answers import Tags


def score_evaluations(
    completions: Mapping[str, Path], prompts: list[dict], training_settings: Mapping, tags: Tags
) -> list[dict]:
    """The rows of rewards.jsonl: `id`, and for each evaluation its rewards by name.

    Args:
      completions: the completions.jsonl of each evaluation, `base` among them.
      prompts: rows with `id`, `prompt` and `answer`.
      training_settings: the block `training`, for its rewards.
      tags: the tags that the rewards look for.

    Raises:
      PipelineError: a completion belongs to no prompt, the evaluations have different rows, or a reward fails.
    """
    prompts_by_id = {row["id"]: row for row in prompts}
    scores = {name: _score_file(path, prompts_by_id, training_settings, tags) for name, path in completions.items()}
    for name, path in completions.items():
        require_same_rows(completions["base"], scores["base"].keys(), path, scores[name].keys())
    return [{"id": row} | {name: by_id[row] for name, by_id in scores.items()} for row in scores["base"]]


def _score_file(
    path: Path, prompts_by_id: Mapping[str, dict], training_settings: Mapping, tags: Tags
) -> dict[str, dict[str, float]]:
    """The rewards of each prompt's first completion, by the prompt's id and the reward's name."""
    completions = first_completions(path, "completion")
    unknown = [row["id"] for row in completions if row["id"] not in prompts_by_id]
    if unknown:
        raise PipelineError(f"{path}: no prompt has the id {unknown[0]!r}; make prompts and evaluations again")
    rows = [prompts_by_id[row["id"]] for row in completions]
    texts, limit_seconds = [row["completion"] for row in completions], training_settings["custom_reward_limit_seconds"]
    scores = scoring.score(training_settings["rewards"], rows, texts, tags, limit_seconds)
    return {row["id"]: {name: values[index] for name, values in scores.items()} for index, row in enumerate(rows)}
