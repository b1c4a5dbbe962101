"""What to doubt about a result: the warnings of all stages, and what the numbers themselves give reason for."""

from collections.abc import Iterator, Mapping

from gsm8k_grpo.report import numbers, sentences

FEW_ROWS = 200
TRUNCATED_SHARE = 0.05  # share of completions cut at the limit from which that is said
NO_SIGNAL_SHARE = 0.5  # share of groups without signal


def list_caveats(told: Mapping) -> list[tuple[str, str]]:
    """Each doubt as what it is about and a sentence; warnings of stages come first.

    Args:
      told: of `story.story`.
    """
    if told["settings"] is None:
        return [("not finished", sentence) for sentence in told["missing"]]
    return [*_from_stages(told), *_from_numbers(told), *_from_provenance(told)]


def _from_stages(told: Mapping) -> Iterator[tuple[str, str]]:
    for sentence in told["missing"]:
        yield "not finished", f"{sentence}."
    check, training, preflight = told["format_check"], told["training"], told["preflight"]
    if check and check["warning"]:
        yield "format check", f"{check['warning']}."
    for sentence in _deduplicated(training["warnings"] if training else []):
        yield "training", f"{sentence}."
    for what in ("dataset", "model"):
        moving = told[what] and told[what]["origin"].get("warning")
        if moving:
            yield "moving revision", f"{moving}."
    if preflight:
        for sentence in (*preflight["warnings"], *preflight.get("reasons", ())):
            yield "preflight", f"{sentence}."


def _deduplicated(warnings: list[str]) -> Iterator[str]:
    """Warnings of training (`watch.warnings`: "step N: what it is: …"), each kind once, with how often it was said."""
    kinds: dict[str, list[str]] = {}
    for sentence in warnings:
        step, _, rest = sentence.partition(": ")
        kinds.setdefault(rest.partition(":")[0] or step, []).append(sentence)
    for first, *more in kinds.values():
        last = more[-1].partition(":")[0] if more else ""
        yield f"{first} (said {len(more) + 1} times, the last time at {last})" if more else first


def _from_numbers(told: Mapping) -> Iterator[tuple[str, str]]:
    base, best, final, compared = (told[name] for name in ("base", "best", "final", "compared"))
    if compared:
        answer = compared["answer"]
        if sentences.verdict(answer) == "better" != sentences.verdict(compared["flexible"]):
            yield "format or mathematics", sentences.format_or_mathematics(compared)
        if sentence := sentences.resolution(answer):
            yield "no significant change", sentence
        elif answer["n"] < FEW_ROWS:
            yield (
                "small n",
                f"{numbers.plural(answer['n'], 'row')}: the intervals are wide; evaluate more (evaluation.rows).",
            )
    for each in (base, final):
        if each and each["truncated_rate"]["value"] >= TRUNCATED_SHARE:
            yield (
                "clipped completions",
                f"{numbers.percent(each['truncated_rate']['value'])} of the completions of {each['checkpoint']} were "
                "cut at the limit of tokens, and count as they stood there; raise evaluation.max_completion_tokens.",
            )
    if told["unpaired"]:
        yield (
            "rows that do not match",
            f"{numbers.plural(told['unpaired'], 'row')} of the completions are not in all evaluations with the same gold "
            "answer, and are not shown: were they made on the same rows?",
        )
    if base and final and max(each["answer_accuracy"]["value"] for each in (base, final)) < TRUNCATED_SHARE:
        yield (
            "near zero",
            "The model does not solve these problems, before or after: only the format can be learned from them.",
        )
    if final and final["samples"] > 1:
        yield (
            "several samples",
            "Rates count all samples of a prompt; McNemar's test and the paired differences take the first of each.",
        )
    if best and final and best["checkpoint"] != final["checkpoint"]:
        yield (
            "chosen on dev",
            f"{best['checkpoint']} is the best of several on dev: its figure there is flattered by the choice, that on "
            f"{best['split']} is not.",
        )
    last = told["last_steps"] or {}
    if last.get("groups_without_signal", 0.0) > NO_SIGNAL_SHARE:
        yield (
            "groups without signal",
            f"In the last tenth of training {numbers.percent(last['groups_without_signal'])} of the groups had equal "
            "rewards throughout: they taught nothing.",
        )
    if last.get("truncated_rate", 0.0) >= TRUNCATED_SHARE:
        yield (
            "clipped completions",
            f"In the last tenth of training {numbers.percent(last['truncated_rate'])} of the completions were cut at the "
            "limit (training.truncated_completions says what becomes of them).",
        )


def _from_provenance(told: Mapping) -> Iterator[tuple[str, str]]:
    if told["unknown"]:
        yield (
            "settings",
            f"settings.yaml lacks {', '.join(told['unknown'])}: another version of the pipeline wrote it, and this "
            "page takes the default of config.yaml.",
        )
    if told["settings"]["seeds"] is None:
        yield "one seed", "One seed of training says nothing about how far others would differ (seeds: [0, 1, 2])."
    for split, counted in (told["prompts"]["splits"] if told["prompts"] else {}).items():
        if counted["left_out"]:
            yield (
                "rows left out",
                f"{numbers.plural(len(counted['left_out']), 'row')} of {split} had prompts longer than prompt.max_tokens "
                "and were left out.",
            )
    made = [stage["provenance"] for stage in told["stages"]]
    if any(each["dirty"] for each in made):
        yield (
            "commit",
            "Tracked files differed from the commit when stages ran: the commit alone does not make this again.",
        )
    if made and any(each["commit"] is None for each in made):
        yield "commit", "Stages ran outside of a git checkout: which code made them is not known."
    if len({each["commit"] for each in made}) > 1:
        yield "commit", "The stages ran from different commits (see below which)."
    versions = {
        name: {each["versions"].get(name) for each in made} - {None} for each in made for name in each["versions"]
    }
    changed = sorted(name for name, seen in versions.items() if len(seen) > 1)
    if changed:
        yield "versions", f"The stages ran with different versions of {', '.join(changed)}."
    restarts = [(stage["name"], stage["starts"] - 1) for stage in told["stages"] if (stage["starts"] or 1) > 1]
    for name, often in restarts:
        yield "restarts", f"{name} was restarted {numbers.plural(often, 'time')}; it resumes to the same bits."
