"""The one prompt builder, for pretraining, training and evaluation, and the output format that prompts ask for."""

from collections.abc import Callable, Mapping

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import gsm8k
from gsm8k_grpo.models import families
from gsm8k_grpo.rewards.answers import GOLD_KEYS, Tags


def build_prompt(
    system: str, question: str, template: families.Template = families.GEMMA, layout: str | None = None
) -> str:
    """One question in the family's published chat template, or in `layout`, up to where the model speaks.

    The prompt has no <bos>: the sampler puts exactly one before each prompt, if the family has one.
    """
    if layout is not None:
        return layout.format(system=system.strip(), question=question)
    system = template.system.format(system=system.strip()) if system.strip() else template.no_system
    return template.text.format(system=system, question=question.strip() if template.strips else question)


def format_completion(reasoning: str, answer: str, tags: Tags) -> str:
    """A completion in the recipe's format: the reasoning block, a new line, the answer block."""
    return f"{tags.reasoning_start}{reasoning}{tags.reasoning_end}\n{tags.answer_start}{answer}{tags.answer_end}"


def split_rows(train: list[dict], test: list[dict], dev_rows: int) -> dict[str, list[dict]]:
    """Rows by split: the last `dev_rows` of the train rows become `dev`."""
    if len(train) <= dev_rows:
        raise PipelineError(
            f"prompt.dev_rows: holds out {dev_rows} of the {len(train)} train rows, which leaves none to train on; "
            "hold out fewer"
        )
    return {"train": train[:-dev_rows], "dev": train[-dev_rows:], "test": test}


def build_prompts(
    rows: list[dict],
    split: str,
    prompt_settings: Mapping,
    template: families.Template,
    count_tokens: Callable[[str], int],
) -> tuple[list[dict], dict]:
    """The prompts of one split, and their summary (`rows`, `longest_tokens`, `left_out`).

    Rows have `id`, `question` and `answer`; prompts have `id`, `prompt`, `answer`, `prompt_tokens`, and what their row
    has of `answer_as_published` and `group`. Those of train have `warm_start_prompt` too, if its layout is set. A row
    with a prompt longer than `max_tokens` is left out, never cut. `count_tokens` gives the tokens of a prompt, with its
    <bos>.
    """
    limit_tokens, system = prompt_settings["max_tokens"], prompt_settings["system"]
    layouts = {"prompt": prompt_settings["layout"]}
    if split == "train" and prompt_settings["warm_start_layout"]:
        layouts["warm_start_prompt"] = prompt_settings["warm_start_layout"]
    kept, too_long = [], []
    for row in rows:
        texts = {key: build_prompt(system, row["question"], template, layout) for key, layout in layouts.items()}
        tokens = {key: count_tokens(text) for key, text in texts.items()}
        longest = max(tokens.values())
        if longest > limit_tokens:
            too_long.append({"id": row["id"], "prompt_tokens": longest})
        else:
            gold = {key: row[key] for key in GOLD_KEYS if key in row}
            made = {"id": row["id"], **texts, **gold, "prompt_tokens": tokens["prompt"]}
            kept.append(made | gsm8k.group_of(row))
    if all(row.get("answer", "") is None for row in kept):  # a row that no number answers has no accuracy
        raise PipelineError(
            f"prompt.max_tokens: none of the {len(rows)} {split} prompts fits into {limit_tokens} tokens; the shortest "
            f"takes {min(row['prompt_tokens'] for row in too_long)}"
        )
    longest = max(row["prompt_tokens"] for row in kept)
    return kept, {"rows": len(kept), "longest_tokens": longest, "left_out": too_long}
