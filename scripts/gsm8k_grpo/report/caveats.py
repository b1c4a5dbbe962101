"""Caveats of a result: the warnings of all stages, and what the numbers and the provenance show."""

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from gsm8k_grpo.common.provenance import WITHOUT_JAX
from gsm8k_grpo.evaluation.comparison import BETTER, verdict
from gsm8k_grpo.report import numbers, sentences

FEW_ROWS = 200
NEAR_ZERO_SHARE = 0.05  # answer accuracy below which the problems count as unsolved
TRUNCATED_SHARE = 0.05  # of completions cut at the limit
NO_SIGNAL_SHARE = 0.5  # of groups without signal
ANOTHER_MACHINE = "a machine that adds in another order gives other rates, even with the same seed and commit"
# A reward rises between two checkpoints if the last third of the steps between them earns more than the first third:
RISE_ERRORS = 3  # by more standard errors than this, which chance alone does once in 700 times,
RISE_SHARE = 0.1  # and by this share of the run's range of rewards, since a run that is nearly done still creeps up.
FEWEST_STEPS = 4  # fewer in a third give no standard error to rely on


def list_caveats(run: Mapping) -> list[tuple[str, str]]:
    """The caveats of a run, each a heading and a sentence; warnings of stages come first.

    Args:
      run: of `run_summary.summarise_run`.
    """
    if run["settings"] is None:
        return [("not finished", sentence) for sentence in run["missing"]]
    return [*_from_stages(run), *_from_evaluations(run), *_from_training(run), *_from_provenance(run)]


def _from_stages(run: Mapping) -> Iterator[tuple[str, str]]:
    for sentence in run["missing"]:
        yield "not finished", f"{sentence}."
    training, preflight = run["training"], run["preflight"]
    for name in ("format_check", "reward_audit"):
        if run[name] and run[name]["warning"]:
            yield name.replace("_", " "), f"{run[name]['warning']}."
    for sentence in _deduplicated(training["warnings"] if training else []):
        yield "training", f"{sentence}."
    for name in ("dataset", "model"):
        warning = run[name] and run[name]["origin"].get("warning")
        if warning:
            yield "moving revision", f"{warning}."
    if preflight:
        for sentence in (*preflight["warnings"], *preflight.get("reasons", ())):
            yield "preflight", f"{sentence}."


def _deduplicated(warnings: list[str]) -> Iterator[str]:
    """Warnings of grpo/health.py ("step N: kind: …"): the first of each kind, and how often it came."""
    kinds: dict[str, list[str]] = {}
    for sentence in warnings:
        step, _, rest = sentence.partition(": ")
        kinds.setdefault(rest.partition(":")[0] or step, []).append(sentence)
    for first, *more in kinds.values():
        last = more[-1].partition(":")[0] if more else ""
        yield f"{first} ({len(more) + 1} times, the last time at {last})" if more else first


def _from_evaluations(run: Mapping) -> Iterator[tuple[str, str]]:
    base, best, final, compared = (run[name] for name in ("base", "best", "final", "compared"))
    if compared:
        answer = compared["answer"]
        if verdict(answer) == BETTER != verdict(compared["flexible"]):
            yield "format or mathematics", sentences.format_or_mathematics(compared)
        if sentence := sentences.resolution(answer):
            yield "no significant change", sentence
        elif answer["n"] < FEW_ROWS:
            rows = numbers.plural(answer["n"], "row")
            yield "small n", f"{rows} give wide intervals; evaluate more (evaluation.rows)."
    for each in (base, final):
        if each and each["truncated_rate"]["value"] >= TRUNCATED_SHARE:
            cut = f"{numbers.percent(each['truncated_rate']['value'])} of the completions of {each['checkpoint']}"
            yield "cut completions", f"The token limit cut {cut}; raise evaluation.max_completion_tokens."
    if run["unpaired"]:
        rows = f"{numbers.plural(run['unpaired'], 'row')} of the completions"
        yield "rows that do not match", f"{rows} are left out: the evaluations differ in ids or gold answers."
    if base and final and max(each["answer_accuracy"]["value"] for each in (base, final)) < NEAR_ZERO_SHARE:
        yield "near zero", "The model solves these problems neither before nor after; it can only learn the format."
    if final and final["samples"] > 1:
        yield "several samples", "Rates count all samples of a prompt; paired differences count the first of each."
    if best and final and best["checkpoint"] != final["checkpoint"]:
        chosen = f"{best['checkpoint']} is the best of several on dev"
        yield "chosen on dev", f"{chosen}, which flatters its accuracy on dev but not on {best['split']}."


def _from_training(run: Mapping) -> Iterator[tuple[str, str]]:
    last = run["last_steps"] or {}
    if last.get("groups_without_signal", 0.0) > NO_SIGNAL_SHARE:
        flat = f"{numbers.percent(last['groups_without_signal'])} of the groups"
        yield "groups without signal", f"In the last tenth of training, {flat} taught nothing."
    if last.get("truncated_rate", 0.0) >= TRUNCATED_SHARE:
        cut = f"{numbers.percent(last['truncated_rate'])} of the completions"
        yield "cut completions", f"In the last tenth of training, the token limit cut {cut}."
    if sentence := reward_without_accuracy(run["metrics"], run["selection"]):
        yield "reward without accuracy", sentence


def reward_without_accuracy(metrics: pd.DataFrame | None, selection: list[Mapping]) -> str:
    """The longest stretch between two checkpoints in which the reward rises and dev accuracy does not; empty if none.

    Args:
      metrics: training/metrics.csv.
      selection: metrics.json of base and checkpoints on dev, in the order of their steps.
    """
    if metrics is None or "reward" not in metrics:
        return ""
    logged = metrics[metrics["reward"].notna()]
    found = []
    for start, end in itertools.combinations(selection, 2):
        rewards = logged["reward"][(logged["step"] > start["step"]) & (logged["step"] <= end["step"])].to_numpy()
        third = len(rewards) // 3
        if third < FEWEST_STEPS or end["answer_accuracy"]["value"] > start["answer_accuracy"]["value"]:
            continue
        first, last = rewards[:third], rewards[-third:]
        rise, error = last.mean() - first.mean(), np.sqrt((first.var(ddof=1) + last.var(ddof=1)) / third)
        if rise > RISE_ERRORS * error and rise >= RISE_SHARE * np.ptp(logged["reward"]):
            found.append((end["step"] - start["step"], rise, first.mean(), last.mean(), start, end))
    if not found:
        return ""
    *_, first, last, start, end = max(found, key=lambda stretch: stretch[:2])
    rates = [sentences.rate(each["answer_accuracy"]) for each in (start, end)]
    rows = f"{numbers.count(start['answer_accuracy']['n'])} {start['split']} rows"
    return (
        f"From step {start['step']} to step {end['step']} the reward rises ({first:.3g} in the first third of these "
        f"steps, {last:.3g} in the last), but answer accuracy does not: {rates[0]}, then {rates[1]}, of {rows}. The "
        "rewards may pay for something else than right answers; read the completions."
    )


def _from_provenance(run: Mapping) -> Iterator[tuple[str, str]]:
    if run["unknown"]:
        lacking = f"settings.yaml, written by another version of the pipeline, lacks {', '.join(run['unknown'])}"
        yield "settings", f"{lacking}; this page uses the defaults of config.yaml."
    if run["settings"]["seeds"] is None:
        yield "one seed", "One seed does not show how far others differ; train several (seeds: [0, 1, 2])."
    for split, counted in (run["prompts"]["splits"] if run["prompts"] else {}).items():
        if counted["left_out"]:
            rows = numbers.plural(len(counted["left_out"]), "row")
            yield "rows left out", f"{rows} of {split} were left out: their prompts are longer than prompt.max_tokens."
    made = [stage["provenance"] for stage in run["stages"]]
    if any(each["dirty"] for each in made):
        yield "commit", "Tracked files differed from the commit when stages ran, so it alone reproduces nothing."
    if made and any(each["commit"] is None for each in made):
        yield "commit", "Some stages ran outside a git checkout, so their code is unknown."
    if len({each["commit"] for each in made}) > 1:
        yield "commit", "The stages ran from different commits; the table of stages lists them."
    versions = {
        name: {each["versions"].get(name) for each in made} - {None} for each in made for name in each["versions"]
    }
    changed = sorted(name for name, seen in versions.items() if len(seen) > 1)
    if changed:
        yield "versions", f"The stages ran with different versions of {', '.join(changed)}."
    machines = {machine(stage["provenance"]) for stage in run["stages"] if _decides_results(stage)}
    if len(machines) > 1:
        told = "; ".join(sorted(machines))
        yield "machines", f"The stages computed on different machines ({told}), and {ANOTHER_MACHINE}."
    for stage in run["stages"]:
        if (stage["starts"] or 1) > 1:
            times = numbers.plural(stage["starts"] - 1, "time")
            yield "restarts", f"{stage['name']} was restarted {times}; it resumes to the same bits."


def machine(provenance: Mapping) -> str:
    """What computed a stage: the accelerator, or the processor and its cores."""
    device = provenance["device"]
    return provenance.get("processor", device) if device.endswith(" × cpu") else device


def _decides_results(stage: Mapping) -> bool:
    """Whether a stage computes rates or what they depend on; the preflight only compiles."""
    return stage["provenance"]["device"] != WITHOUT_JAX and stage["name"] != "preflight"


def across_machines(runs: list[Mapping]) -> str:
    """A sentence on runs that were trained on different machines or with different versions of jaxlib; empty if none.

    Args:
      runs: of `run_summary.summarise_run`, those that the page compares.
    """
    made = {}
    for run in runs:
        provenance = run["settings"] and (run["training"] or {}).get("provenance")
        if provenance:
            told = f"{machine(provenance)}, jaxlib {provenance['versions'].get('jaxlib')}"
            made.setdefault(told, []).append(run["name"])
    if len(made) < 2:
        return ""
    told = "; ".join(f"{', '.join(names)} on {where}" for where, names in made.items())
    return (
        f"These runs were trained on different machines or versions of jaxlib: {told}. Part of a difference between "
        f"them can come from that: {ANOTHER_MACHINE}."
    )
