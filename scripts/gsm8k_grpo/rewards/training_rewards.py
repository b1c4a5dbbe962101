"""What a training run rewards: its recipe's rewards, or a control in their place."""

from collections.abc import Mapping, Sequence

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.rewards import controls, scoring
from gsm8k_grpo.rewards.answers import GOLD_KEYS, Tags


class TrainingRewards:
    """The rewards of a run's completions, a function of texts, rows, seed, step and draw."""

    def __init__(self, training_settings: Mapping, tags: Tags, rows: Sequence[dict], seed: int):
        """
        Args:
          training_settings: the block `training`.
          tags: what rewards look for.
          rows: all rows to train on.
          seed: the run's seed.

        Raises:
          PipelineError: the control is not possible with these rewards or rows.
        """
        self._names, self._control = list(training_settings["rewards"]), training_settings["control"]
        self._tags, self._seed = tags, seed
        self._custom_limit_seconds = training_settings["custom_reward_limit_seconds"]
        self._golds = controls.shuffled_golds(rows, seed) if self._control == "shuffled_gold" else None
        if self._control == "format_only":
            if fault := controls.format_only_fault(self._names):
                raise PipelineError(f"training.control: {fault}")
            self._names = controls.gold_blind(self._names)

    def score(self, rows: list[dict], completions: list[str], step: int, draw: int) -> dict[str, list[float]]:
        """Each reward of each completion.

        Args:
          rows: the row of each of the B completions.
          completions: B texts.
          step, draw: the step (from 0) and the draw within it.

        Returns:
          B finite floats by the reward's name, as `scoring.score`; under `random` alone for that control.

        Raises:
          PipelineError: a fault of a user's own function.
        """
        if self._control == "random":
            return {"random": controls.random_rewards(self._seed, step, draw, len(completions))}
        if self._golds is not None:
            without = [{key: value for key, value in row.items() if key not in GOLD_KEYS} for row in rows]
            rows = [row | self._golds[row["id"]] for row in without]
        return scoring.score(self._names, rows, completions, self._tags, self._custom_limit_seconds)
