"""Who answers which rows: before against after training, and recipe against recipe."""

import itertools

from gsm8k_grpo.evaluation import stats


def verdict_keys(extraction: str) -> dict[str, str]:
    """What is compared, and the key of `evaluation.grade` that says it; `answer` is the recipe's own reading."""
    return {
        "answer": f"{extraction}_correct",
        "strict": "strict_correct",
        "flexible": "flexible_correct",
        "cascade": "cascade_correct",
        "partial": "partial_correct",
        "format": "format_correct",
    }


def of_recipes(verdicts: dict[str, dict[tuple, dict[str, bool]]]) -> dict:
    """Every two recipes on the rows that both answered.

    Args:
      verdicts: for each recipe, the verdicts of `verdict_keys` by row: what identifies it (id, question, gold answer).

    Returns:
      `pairs`, for each two recipes with a row in common: `recipes` (two names), for each verdict `stats.paired` of the
      first against the second (`fixed`: rows that only the second has right), and in `answer` also `holm_p`, McNemar's
      p corrected for as many pairs as there are; `apart`, pairs without a row in common.
    """
    pairs, apart = [], []
    for first, second in itertools.combinations(verdicts, 2):
        rows = [row for row in verdicts[first] if row in verdicts[second]]
        if not rows:
            apart.append([first, second])
            continue
        before, after = ([verdicts[recipe][row] for row in rows] for recipe in (first, second))
        paired = {
            name: stats.paired_comparison([row[name] for row in before], [row[name] for row in after])
            for name in before[0]
        }
        pairs.append({"recipes": [first, second], **paired})
    for pair, p in zip(pairs, stats.holm([pair["answer"]["mcnemar_p"] for pair in pairs]), strict=True):
        pair["answer"]["holm_p"] = p
    return {"pairs": pairs, "apart": apart}
