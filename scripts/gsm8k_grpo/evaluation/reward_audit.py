"""What the rewards of a recipe pay for: honest completions against systematic edits of them, before any training.

Honest completions are right and show their reasoning in the recipe's format. There are two sources of them: the gold
solutions of dev rows, and what the base model itself wrote.
"""

import random
import statistics
from collections.abc import Mapping
from typing import NamedTuple

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data.gsm8k import strip_annotations
from gsm8k_grpo.data.prompts import format_completion
from gsm8k_grpo.evaluation import stats
from gsm8k_grpo.evaluation.reward_edits import EDITS, Material
from gsm8k_grpo.rewards import answers, scoring
from gsm8k_grpo.rewards.answers import Tags

LARGEST_SLIP = 9  # a wrong answer is 1 to 9 too high
EQUAL = 1e-9  # sums of rewards that differ less are equal


class Honest(NamedTuple):
    """A right completion that shows its reasoning."""

    row: dict  # `id`, `prompt`, `answer`
    completion: str
    reasoning: str
    answer: str  # the text of the answer block


def gold_completions(rows: list[dict], solutions: Mapping[str, str], tags: Tags) -> list[Honest]:
    """The solutions of the rows in the recipe's format; a row whose solution is empty is left out.

    Answers are plain numbers, also where the data set writes `1,080`: what a reward makes of commas says nothing about
    what it pays for reasoning.

    Args:
      rows: with `id`, `prompt` and `answer`.
      solutions: the published solution of each row by its id, annotations included.
      tags: the recipe's tags.

    Raises:
      PipelineError: a row has no solution.
    """
    found = []
    for row in rows:
        if row["id"] not in solutions:
            raise PipelineError(
                f"reward audit: no row of the data set has the id {row['id']!r}; make the prompts again"
            )
        reasoning = strip_annotations(solutions[row["id"]])
        if reasoning:
            completion = format_completion(reasoning, row["answer"], tags)
            found.append(Honest(_plain_gold(row), completion, reasoning, row["answer"]))
    return found


def base_completions(rows: list[dict], graded: list[dict], tags: Tags) -> list[Honest]:
    """The base model's completions of the rows that are right, have the format and show some reasoning.

    An answer with a comma becomes a plain number, as in `gold_completions`.

    Args:
      rows: with `id`, `prompt` and `answer`.
      graded: rows of completions.jsonl, the first sample of each prompt. Other prompts are left out.
      tags: the recipe's tags.
    """
    rows_by_id, found = {row["id"]: row for row in rows}, []
    for each in graded:
        text = each["completion"]
        reasoning = text.partition(tags.reasoning_start)[2].partition(tags.reasoning_end)[0].strip()
        if each["id"] in rows_by_id and each["strict_correct"] and each["format_correct"] and reasoning:
            row, answer = _plain_gold(rows_by_id[each["id"]]), answers.answer_block(text, tags)
            if "," in answer:
                before, _, after = text.rpartition(answer)
                text, answer = f"{before}{row['answer']}{after}", row["answer"]
            found.append(Honest(row, text, reasoning, answer))
    return found


def _plain_gold(row: dict) -> dict:
    """The row without the gold answer as the data set writes it, so that rewards compare with the plain number."""
    return {key: value for key, value in row.items() if key != "answer_as_published"}


def audit_rewards(
    sources: Mapping[str, list[Honest]],
    solutions: Mapping[str, str],
    training_settings: Mapping,
    tags: Tags,
    seed: int,
) -> dict:
    """Gives the rewards to honest completions and to each edit of them.

    Args:
      sources: honest completions by where they are from.
      solutions: the published solution of each row by its id; the reasoning of another row is one of them.
      training_settings: the block `training`, for its rewards and the length of completions.
      tags: the recipe's tags.
      seed: every draw derives from it, the edit and the row.

    Returns:
      `edits` (by name: `about`, `reasoning`, `ritual`, and `example`, of the first completion), `sources` (by name:
      `n` rows; `honest`; and by name `edits`), `warning` (a sentence, or None) and `limit` (a sentence on what the
      rewards cannot see, or None). `honest` and each edit have `rewards` (the
      mean of each) and `total` (the mean of their sum); an edit also has `at_least_honest` (the share of rows where
      its sum is not below the honest one's, as `stats.wilson_rate`) and `pays_as_honest`: whether its mean is not
      below the honest one's, or that share is a half or more.

    Raises:
      PipelineError: a reward fails; names the reward, the row and the edit.
    """
    others = [(row, text) for row, solution in solutions.items() if (text := strip_annotations(solution))]
    audited, examples, limit = {}, {}, training_settings["max_completion_tokens"]
    for source, honest in sources.items():
        edited = {
            name: [edit.apply(_material(each, others, tags, limit, seed, name)) for each in honest]
            for name, edit in EDITS.items()
        }
        audited[source] = _audit_source(honest, edited, training_settings, tags)
        if honest and not examples:
            examples = {name: texts[0] for name, texts in edited.items()}
    edits = {
        name: {
            **{"about": edit.about, "reasoning": edit.reasoning, "ritual": edit.ritual},
            "example": examples.get(name),
        }
        for name, edit in EDITS.items()
    }
    return {"edits": edits, "sources": audited, "warning": _warning(audited), "limit": _limit(audited)}


def _audit_source(
    honest: list[Honest], edited: Mapping[str, list[str]], training_settings: Mapping, tags: Tags
) -> dict:
    if not honest:
        return {"n": 0, "honest": None, "edits": {}}
    rows, edits = [each.row for each in honest], {}
    of_honest, honest_totals = _score("honest", training_settings, rows, [each.completion for each in honest], tags)
    for name, texts in edited.items():
        means, totals = _score(name, training_settings, rows, texts, tags)
        not_below = sum(a >= b - EQUAL for a, b in zip(totals, honest_totals, strict=True))
        share = stats.wilson_rate(not_below, len(rows))
        as_honest = means["total"] >= of_honest["total"] - EQUAL or share["value"] >= 0.5
        edits[name] = means | {"at_least_honest": share, "pays_as_honest": as_honest}
    return {"n": len(rows), "honest": of_honest, "edits": edits}


def _material(
    honest: Honest, others: list[tuple[str, str]], tags: Tags, limit_tokens: int, seed: int, edit: str
) -> Material:
    rng = random.Random(f"reward audit {seed} {edit} {honest.row['id']}")
    wrong = answers.plain(answers.gold_number(honest.row["answer"]) + rng.randint(1, LARGEST_SLIP))
    drawn = rng.randrange(len(others)) if others else 0
    # Where a row draws itself, it takes the one before. A data set without solutions has no other reasoning.
    row, other = others[drawn] if others else ("", "")
    if row == honest.row["id"]:
        other = others[drawn - 1][1]
    return Material(honest.reasoning, honest.answer, wrong, other, limit_tokens, tags, rng)


def _score(
    edit: str, training_settings: Mapping, rows: list[dict], completions: list[str], tags: Tags
) -> tuple[dict, list[float]]:
    """The mean of each reward and of their sum, and the sum of each completion."""
    names, limit_seconds = training_settings["rewards"], training_settings["custom_reward_limit_seconds"]
    try:
        scores = scoring.score(names, rows, completions, tags, limit_seconds)
    except PipelineError as error:
        raise PipelineError(f"{error}; the reward audit gave it the completions {edit!r}, as training may") from error
    totals = [sum(values) for values in zip(*scores.values(), strict=True)]
    means = {name: statistics.fmean(values) for name, values in scores.items()}
    return {"rewards": means, "total": statistics.fmean(totals)}, totals


def _warning(audited: Mapping[str, dict]) -> str | None:
    """A sentence if completions without reasoning earn as much as honest ones, or if nothing could be audited."""
    if not any(found["n"] for found in audited.values()):
        return (
            "reward audit: no dev row has a solution, and the base model wrote no right answer in the format, so it is "
            "unknown what the rewards pay for; read training/samples.jsonl while the run trains"
        )
    paying = _paying(audited, ritual=False)
    if not paying:
        return None
    return (
        f"reward audit: the rewards pay as much without any reasoning as for honest work (mean totals: {paying}). GRPO "
        "makes likelier what pays, so the model may stop reasoning. Change training.rewards, so that an answer without "
        "reasoning earns less"
    )


def _limit(audited: Mapping[str, dict]) -> str | None:
    """A sentence if the mere form of a reasoning earns as much as honest work, and no reasoning at all earns less.

    It is no warning, because rules that judge the form of a reasoning cannot know its problem.
    """
    paying = _paying(audited, ritual=True)
    if not paying or _paying(audited, ritual=False):
        return None
    return (
        "the rewards cannot see whether a reasoning belongs to its problem: its mere form earns as much as honest work "
        f"(mean totals: {paying}). Rewards that judge the form have this limit. Training warns if calculations vanish "
        "or no longer give the answers; read training/samples.jsonl too"
    )


def _paying(audited: Mapping[str, dict], ritual: bool) -> str:
    """The edits without reasoning that earn as much as honest work, with their totals; empty if none does."""
    paying = []
    for source, found in audited.items():
        named = [
            f"{name} {each['total']:.2f}"
            for name, each in found["edits"].items()
            if each["pays_as_honest"] and not EDITS[name].reasoning and EDITS[name].ritual == ritual
        ]
        if named:
            honest = f"{found['n']} honest completions {found['honest']['total']:.2f}"
            paying.append(f"{source}: {honest}, {', '.join(named)}")
    return "; ".join(paying)
