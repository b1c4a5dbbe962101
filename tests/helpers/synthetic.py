"""Artifacts of made-up runs, as large as those of the published recipes, to test the page on.

Only the texts and the figures of training are made up. Readings, rates, intervals, tests and rewards come from the code
of the stages, so the artifacts have the keys and types of real ones.
"""

import json
import random
from pathlib import Path

import pandas as pd
import yaml

from gsm8k_grpo.common import files, layout
from gsm8k_grpo.config.merging import merge, read_yaml
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.config.transfer import read_transfer_set
from gsm8k_grpo.data.gsm8k import group_of
from gsm8k_grpo.data.prompts import build_prompt, format_completion
from gsm8k_grpo.evaluation import comparison, stats
from gsm8k_grpo.evaluation.best_checkpoint import choose_best
from gsm8k_grpo.evaluation.grading import grade_completion, grade_row
from gsm8k_grpo.evaluation.metrics import COUNTED_VERDICTS, summarise_metrics
from gsm8k_grpo.evaluation.reward_audit import audit_rewards, gold_completions
from gsm8k_grpo.evaluation.reward_scores import score_evaluations
from gsm8k_grpo.evaluation.transfer import compare_transfer, set_folder
from gsm8k_grpo.grpo.kept_checkpoints import checkpoint_name, kept_steps
from gsm8k_grpo.report.metric_catalogue import PANELS, PHASES
from gsm8k_grpo.rewards.answers import Tags

ROWS, STEPS = 1319, 3738
PROVENANCE = {
    "seed": 0,
    "seconds": 12.5,
    "python": "3.11.7",
    "platform": "Linux",
    "device": "8 × TPU v5e",
    "versions": {"jax": "0.10.2", "google-tunix": "0.1.7", "snakemake": "9.27.1"},
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "dirty": False,
}


def vocabulary() -> list[str]:
    """Made-up words."""
    rng, syllables = random.Random(0), [first + second for first in "bcdfghklmnprstvw" for second in "aeiou"]
    return ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(600)]


def text(rng: random.Random, words: list[str], length: int) -> str:
    """Sentences of about `length` characters that compress like GSM8K's (gzip leaves a third of both)."""
    parts, size = [], 0
    while size < length:
        word = rng.choice(words) if rng.random() < 0.85 else str(rng.randint(2, 500))
        parts.append(word + (". " if rng.random() < 0.1 else " "))
        size += len(parts[-1])
    return "".join(parts).strip()


def make(
    results: Path,
    recipe: str,
    rows: int = ROWS,
    steps: int = STEPS,
    skill: float = 0.7,
    hostile: tuple[str, ...] = (),
    overtrained: bool = False,
    groups: tuple[str, ...] = (),
    **changed: object,
) -> None:
    """Writes all artifacts of one recipe.

    Args:
      results: the folder of all artifacts.
      recipe: the folder below it. Its name seeds texts and verdicts; all recipes have the same questions.
      rows: test rows.
      steps: of training.
      skill: share of rows that the trained model answers; the base model answers half of it.
      hostile: completions that replace the first ones, before and after training.
      overtrained: makes the first checkpoint better than the last.
      groups: the groups of rows, in turn.
      changed: blocks of settings, merged over the recipe gemma2-2b-it.
    """
    words, questions, rng = vocabulary(), random.Random(1), random.Random(recipe)
    interval = max(1, min(500, steps // 2))
    own = {"training": {"max_steps": steps, "checkpoint_interval_steps": interval, "warmup_fraction": 0.0}}
    settings = merge(effective_settings("gemma2-2b-it", own), {"recipes": [recipe], "published": None} | changed)
    tags, extraction = Tags.of(settings["prompt"]), settings["evaluation"]["extraction"]
    plain_settings = json.loads(files.canonical_json(settings))
    files.write_text(
        layout.settings_file(results, recipe), yaml.safe_dump(plain_settings, sort_keys=False, allow_unicode=True)
    )
    data = [
        {"id": f"test-{index:05d}", "question": text(questions, words, 235), "answer": str(questions.randint(1, 999))}
        for index in range(rows)
    ]
    data = [row | ({"group": groups[index % len(groups)]} if groups else {}) for index, row in enumerate(data)]
    files.write_jsonl(layout.dataset_rows(results, "gsm8k", "test"), data)
    prompts = [
        {
            "id": row["id"],
            "prompt": build_prompt(settings["prompt"]["system"], row["question"]),
            "answer": row["answer"],
        }
        for row in data
    ]
    files.write_jsonl(layout.prompts_file(results, recipe, "test"), prompts)
    shares = {"base": (skill / 2, 0), "final": (skill, steps)}
    if overtrained:
        shares["best"] = (min(1.0, skill + 0.2), interval)
    for name, (share, step) in shares.items():
        graded = []
        for index, row in enumerate(data):
            answer = row["answer"] if rng.random() < share else str(rng.randint(1, 999))
            completion = (
                format_completion(text(rng, words, rng.randint(300, 900)), answer, tags)
                if rng.random() < (0.98 if step else 0.6)
                else f"{text(rng, words, rng.randint(300, 900))} {answer}"
            )
            completion = hostile[index] if index < len(hostile) else completion
            graded.append(
                {
                    "id": row["id"],
                    **group_of(row),
                    "sample": 0,
                    "completion": completion,
                    "answer": row["answer"],
                    **grade_completion(completion, row["answer"], tags, extraction),
                    "tokens": 40 + len(completion[:4000]) // 4,
                    "stop_reason": "limit" if len(completion) > 880 else "end_of_turn",
                }
            )
        checkpoint = checkpoint_name(step, steps) if step else "base"
        for place in (name, *(["best"] if name == "final" and not overtrained else [])):
            folder = layout.evaluation_folder(results, recipe, place)
            # `json.dumps` escapes lone surrogates, which a model's text can hold.
            files.write_text(folder / "completions.jsonl", "".join(json.dumps(row) + "\n" for row in graded))
            rates = summarise_metrics(graded, extraction)
            files.write_json(folder / "metrics.json", _metrics(rates, checkpoint, step, "test", extraction))
    selection = []
    for step in [0, *kept_steps(settings["training"])]:
        name = checkpoint_name(step, steps) if step else "base"
        share = shares["best"][0] if overtrained and step == interval else skill / 2 + skill / 2 * (step / steps) ** 0.5
        rates = {f"{key}_accuracy": stats.wilson_rate(round(share * 500), 500) for key in ("answer", *COUNTED_VERDICTS)}
        rates |= {"truncated_rate": stats.wilson_rate(3, 500), "samples": 1, "mean_completion_tokens": 180.0}
        metrics = _metrics(rates, name, step, "dev", extraction)
        files.write_json(layout.evaluation_folder(results, recipe, name, on_dev=True) / "metrics.json", metrics)
        selection.append(metrics)
    folder = layout.run_folder(results, recipe)
    files.write_json(folder / "best.json", choose_best(selection))
    completions = {
        name: layout.evaluation_folder(results, recipe, name) / "completions.jsonl"
        for name in ("base", "final", "best")
    }
    compared = comparison.compare_checkpoints(
        *comparison.read_checkpoints(*completions.values(), tags, extraction), extraction
    )
    files.write_json(folder / "comparison.json", {**compared, "provenance": PROVENANCE})
    files.write_jsonl(folder / "rewards.jsonl", score_evaluations(completions, prompts, settings["training"], tags))
    solutions = {row["id"]: text(rng, words, 150) for row in prompts[:10]}
    honest = {"gold": gold_completions(prompts[:10], solutions, tags), "base": []}
    audit = audit_rewards(honest, solutions, settings["training"], tags, 0)
    files.write_json(folder / "reward_audit.json", audit)
    _write_training(results, recipe, settings, steps, rng)
    _write_inputs(results, recipe, settings, rows)


def _metrics(rates: dict, name: str, step: int, split: str, extraction: str) -> dict:
    return {
        **{"split": split, "checkpoint": name, "step": step, "decoding": "greedy", "extraction": extraction},
        **rates,
        **{"seconds": 60.0, "tokens_per_second": 900.0, "starts": 1, "fingerprint": "0", "provenance": PROVENANCE},
    }


def _write_training(results: Path, recipe: str, settings: dict, steps: int, rng: random.Random) -> None:
    folder, phases = layout.training_folder(results, recipe), [f"{name}_seconds" for name in PHASES]
    measured = [f"reward_{name}" for name in settings["training"]["rewards"]]
    measured += [column.name for panel in PANELS for column in panel.columns]
    counted = ("epoch", "tokens", *phases)
    rows = [
        {"step": step, "epoch": step / steps, **{name: rng.random() for name in measured if name not in counted}}
        | {"tokens": 1500 * step, **{name: rng.random() + (20.0 if step == 1 else 0.0) for name in phases}}
        for step in range(1, steps + 1)
    ]
    files.write_text(folder / "metrics.csv", pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))
    kept = [
        {"name": checkpoint_name(step, steps), "step": step, "path": f"runs/x/{step}", "sha256": "c" * 64}
        for step in kept_steps(settings["training"])
    ]
    files.write_json(folder / "checkpoints.json", {"fingerprint": "f" * 16, "checkpoints": kept})
    files.write_json(
        folder / "summary.json",
        {
            **{"fingerprint": "f" * 16, "inputs": {}, "steps": steps, "prompts": 6973, "starts": [0, steps // 3]},
            **{name: sum(row[name] for row in rows) for name in phases},
            "step_seconds": 1.5,
            "memory": {"held_bytes": 3 * 2**20, "device_peak_bytes": None, "host_peak_bytes": 2**30},
            **{"warnings": [], "provenance": PROVENANCE},
        },
    )


def _write_inputs(results: Path, recipe: str, settings: dict, rows: int) -> None:
    """The artifacts of the stages before training."""
    dataset = {"name": "gsm8k", "origin": {"source": "jsonl"}, "rows": {"train": 7473, "test": rows}}
    dataset |= {"sha256": {"train": "a" * 64, "test": "b" * 64}, "provenance": PROVENANCE}
    files.write_json(layout.dataset_folder(results, "gsm8k") / "dataset.json", dataset)
    origin = {"source": "kaggle", "handle": "google/gemma-2/flax/gemma2-2b-it"}
    origin |= {"warning": "model.revision: none is given"}
    name = settings["model"]["name"]
    model = {"name": name, "origin": origin, "architecture": {}, "dtype": "float32", "parameters": 2614341888}
    model |= {"sha256": {"weights": "d" * 64, "tokenizer": "e" * 64}}
    files.write_json(layout.model_folder(results, name) / "model.json", model)
    files.write_json(layout.model_folder(results, name) / "provenance.json", PROVENANCE)
    splits = {
        split: {"rows": count, "longest_tokens": 250, "left_out": []}
        for split, count in (("train", 6973), ("dev", 500), ("test", rows))
    }
    files.write_json(
        layout.prompts_file(results, recipe, "test").with_name("summary.json"),
        {"max_tokens": 256, "splits": splits, "provenance": PROVENANCE},
    )
    tags = {tag: stats.wilson_rate(20, 48) for tag in settings["prompt"]["tags"].values()}
    format_check = {"tags": tags, "exact": stats.wilson_rate(12, 48), "warning": None, "examples": []}
    files.write_json(layout.run_folder(results, recipe) / "format_check.json", format_check)


def add_transfer(
    results: Path,
    recipe: str,
    right: dict[str, tuple[list, list]],
    template_rows: int,
    unanswerable: dict[str, tuple[list[str], list[str]]] | None = None,
) -> dict:
    """Evaluates a finished recipe on other sets; writes and returns its transfer.json.

    Args:
      results: the folder of all artifacts.
      recipe: of `make`.
      right: for each set, which rows base and trained model answer; in their format, unless its name says otherwise.
      template_rows: how many rows of a set come from one template; with 1, its rows have none.
      unanswerable: for each set that has them, what both models answer to rows that no number answers.
    """
    settings = read_yaml(layout.settings_file(results, recipe))
    settings["evaluation"]["transfer"] = [read_transfer_set(f"{{name: {name}, path: {name}.csv}}") for name in right]
    files.write_text(layout.settings_file(results, recipe), yaml.safe_dump(settings, sort_keys=False))
    tags, extraction = Tags.of(settings["prompt"]), settings["evaluation"]["extraction"]
    train = [{"id": "train-00000", "question": "How many?", "solution": "", "answer": "1"}]
    files.write_jsonl(layout.dataset_rows(results, settings["dataset"]["name"], "train"), train)
    for name, (before, after) in right.items():
        template = {"cluster": lambda index: f"template {index // template_rows}"} if template_rows > 1 else {}
        data = [
            {"id": f"{name}-{index:05d}", "question": f"What is {index} + 1?", "solution": "", "answer": str(index + 1)}
            | {key: value(index) for key, value in template.items()}
            for index in range(len(before))
        ]
        apart = (unanswerable or {}).get(name, ([], []))
        data += [
            {"id": f"{name}-x{index}", "question": "How many?", "solution": "", "answer": None, "group": "x"}
            | {key: value(index) for key, value in template.items()}
            for index in range(len(apart[0]))
        ]
        origin = {"source": "file", "path": f"{name}.csv", "as_published": None, "without_number": []}
        files.write_jsonl(layout.dataset_rows(results, name, "test"), data)
        files.write_json(layout.dataset_folder(results, name) / "dataset.json", {"name": name, "origin": origin})
        folder = set_folder(results, recipe, name)
        left_out = [{"id": "x", "prompt_tokens": 999}]
        prompts = {"rows": len(data), "longest_tokens": 99, "left_out": left_out}
        files.write_json(folder / "prompts" / "summary.json", {"splits": {"test": prompts}})
        base, trained = ([*verdicts, *given] for verdicts, given in zip((before, after), apart, strict=True))
        for place, wanted in (("base", base), ("final", trained), ("best", trained)):
            graded = []
            for row, is_right in zip(data, wanted, strict=True):
                answer = is_right if row["answer"] is None else row["answer"] if is_right else "0"
                plain = place == "base" and "format" in name  # right, but the format does not say so
                completion = f"It is {row['answer']}" if plain else format_completion("Adding.", answer, tags)
                verdict = group_of(row) | grade_row(completion, row, tags, extraction)
                completed = {"completion": completion, "tokens": 20, "stop_reason": "end_of_turn"}
                graded.append({"id": row["id"], "sample": 0, "answer": row["answer"], **completed, **verdict})
            files.write_jsonl(folder / place / "completions.jsonl", graded)
            rates = summarise_metrics(graded, extraction)
            checkpoint = "base" if place == "base" else "final"
            files.write_json(folder / place / "metrics.json", _metrics(rates, checkpoint, 0, "test", extraction))
    compared = {**compare_transfer(results, recipe, settings), "provenance": PROVENANCE}
    files.write_json(layout.run_folder(results, recipe) / "transfer.json", compared)
    return compared


def compare_recipes(results: Path, recipes: list[str]) -> None:
    """Writes comparison-of-recipes.json."""
    compared = comparison.compare_recipes({recipe: comparison.read_verdicts(results, recipe) for recipe in recipes})
    files.write_json(results / "comparison-of-recipes.json", {**compared, "provenance": PROVENANCE})
