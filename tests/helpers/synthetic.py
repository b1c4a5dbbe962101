"""Results folders as large as those of the published recipes, to try the page on: nothing was trained for them.

The texts are made up; all that is said of them (readings, rates, intervals, tests, rewards) comes from the stages' own
code, so that the artifacts have the keys and types of real ones.
"""

import io
import json
import random
import runpy
from pathlib import Path

import pandas as pd
import yaml

from gsm8k_grpo.common import files
from gsm8k_grpo.config.merging import merge
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.data.prompts import build_prompt, format_completion
from gsm8k_grpo.evaluation import stats
from gsm8k_grpo.evaluation.grading import grade_completion
from gsm8k_grpo.evaluation.metrics import COUNTED_VERDICTS, summarise_metrics
from gsm8k_grpo.evaluation.selection import choose_best
from gsm8k_grpo.grpo.checkpoint_names import checkpoint_name, checkpoint_steps
from gsm8k_grpo.rewards import scoring
from gsm8k_grpo.rewards.answers import Tags

ROOT = Path(__file__).parents[2]
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
    """Sentences of about so many characters, as hard to compress as GSM8K's (gzip leaves a third of both)."""
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
    **changed: object,
) -> None:
    """Writes all artifacts of one recipe.

    Args:
      results: the folder of all artifacts.
      recipe: the folder below it; its name is the seed of texts and verdicts. Questions are the same for all.
      rows: test rows.
      steps: of training.
      skill: share of rows that the trained model answers; half of it before.
      hostile: completions that take the place of the first ones, before and after training.
      overtrained: whether the first checkpoint is better than the last one.
      changed: blocks of settings, merged over those of the recipe gemma2-2b-it.
    """
    words, questions, rng = vocabulary(), random.Random(1), random.Random(recipe)
    interval = max(1, min(500, steps // 2))
    own = {"training": {"max_steps": steps, "checkpoint_interval_steps": interval, "warmup_fraction": 0.0}}
    chosen = merge(effective_settings("gemma2-2b-it", own), {"recipes": [recipe], "published": None} | changed)
    folder, tags = results / recipe, Tags(**chosen["prompt"]["tags"])
    as_given = json.loads(files.canonical_json(chosen))  # what Snakemake gives to the stage settings
    files.write_text(folder / "settings.yaml", yaml.safe_dump(as_given, sort_keys=False, allow_unicode=True))
    data = [
        {"id": f"test-{index:05d}", "question": text(questions, words, 235), "answer": str(questions.randint(1, 999))}
        for index in range(rows)
    ]
    files.write_jsonl(results / "data" / "gsm8k" / "test.jsonl", data)
    asked = [
        {**row, "prompt": build_prompt(chosen["prompt"]["system"], row["question"]), "prompt_tokens": 150}
        for row in data
    ]
    files.write_jsonl(
        folder / "prompts" / "test.jsonl", [{key: row[key] for key in ("id", "prompt", "answer")} for row in asked]
    )
    shares = {"base": (skill / 2, 0), "final": (skill, steps)}
    if overtrained:
        shares["best"] = (min(1.0, skill + 0.2), interval)
    for name, (share, step) in shares.items():
        graded = []
        for index, row in enumerate(data):
            said = row["answer"] if rng.random() < share else str(rng.randint(1, 999))
            form = (
                format_completion(text(rng, words, rng.randint(300, 900)), said, tags)
                if rng.random() < (0.98 if step else 0.6)
                else f"{text(rng, words, rng.randint(300, 900))} {said}"
            )
            completion = hostile[index] if index < len(hostile) else form
            graded.append(
                {
                    "id": row["id"],
                    "sample": 0,
                    "completion": completion,
                    "answer": row["answer"],
                    **grade_completion(completion, row["answer"], tags, chosen["evaluation"]["extraction"]),
                    "tokens": 40 + len(completion[:4000]) // 4,
                    "stop_reason": "limit" if len(completion) > 880 else "end_of_turn",
                }
            )
        checkpoint = checkpoint_name(step, steps) if step else "base"
        for place in (name, *(["best"] if name == "final" and not overtrained else [])):
            write_evaluation(folder / "evaluations" / place, graded, checkpoint, step, "test", chosen)
    selection = []
    for step in [0, *checkpoint_steps(steps, interval)]:
        name = checkpoint_name(step, steps) if step else "base"
        share = shares["best"][0] if overtrained and step == interval else skill / 2 + skill / 2 * (step / steps) ** 0.5
        rates = {f"{key}_accuracy": stats.wilson_rate(round(share * 500), 500) for key in ("answer", *COUNTED_VERDICTS)}
        measured = _metrics(rates | {"truncated_rate": stats.wilson_rate(3, 500)}, name, step, "dev", chosen)
        files.write_json(folder / "evaluations-dev" / name / "metrics.json", measured)
        selection.append(measured)
    files.write_json(folder / "best.json", choose_best(selection))
    _compare(folder, chosen, tags, asked)
    _training(folder, chosen, steps, rng)
    _made(results, folder, chosen, rows)


def write_evaluation(folder: Path, graded: list[dict], name: str, step: int, split: str, chosen: dict) -> None:
    """completions.jsonl and metrics.json of one checkpoint."""
    files.write_text(folder / "completions.jsonl", _jsonl(graded))
    found = summarise_metrics(graded, chosen["evaluation"]["extraction"])
    files.write_json(folder / "metrics.json", _metrics(found, name, step, split, chosen))


def _jsonl(rows: list[dict]) -> str:
    """With lone surrogates as escapes, as a model's text may have them."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def _metrics(found: dict, name: str, step: int, split: str, chosen: dict) -> dict:
    kind = {"split": split, "checkpoint": name, "step": step, "decoding": "greedy"}
    rest = {
        "samples": 1,
        "mean_completion_tokens": 180.0,
        "extraction": chosen["evaluation"]["extraction"],
        "starts": 1,
    }
    return {
        **kind,
        **rest,
        **found,
        "seconds": 60.0,
        "tokens_per_second": 900.0,
        "fingerprint": "0",
        "provenance": PROVENANCE,
    }


def _compare(folder: Path, chosen: dict, tags: Tags, asked: list[dict]) -> None:
    paired = runpy.run_path(str(ROOT / "scripts" / "compare.py"))["paired"]
    sides = ("base", "final", "best")
    base, final, best = paths = [folder / "evaluations" / name / "completions.jsonl" for name in sides]
    compared, of_best = (paired(base, path, chosen["evaluation"]["extraction"]) for path in (final, best))
    files.write_json(folder / "comparison.json", {**compared, "best": of_best, "provenance": PROVENANCE})
    names = tuple(chosen["training"]["rewards"])
    given = []
    for path in paths:
        texts = [row["completion"] for row in files.read_jsonl(path)]
        given.append(scoring.score(names, asked, texts, tags))
    scored = [
        {
            "id": row["id"],
            **{side: {name: values[name][index] for name in names} for side, values in zip(sides, given, strict=True)},
        }
        for index, row in enumerate(asked)
    ]
    files.write_jsonl(folder / "rewards.jsonl", scored)


def _training(folder: Path, chosen: dict, steps: int, rng: random.Random) -> None:
    names = [f"reward_{name}" for name in chosen["training"]["rewards"]]
    figures = [
        "loss",
        "gradient_norm",
        "learning_rate",
        "kl",
        "entropy",
        "clip_fraction",
        *names,
        "reward",
        "reward_std",
    ]
    figures += [
        "groups_without_signal",
        "completion_tokens_mean",
        "completion_tokens_max",
        "truncated_rate",
        "groups_replaced",
    ]
    phases = ["rollout_seconds", "reference_seconds", "update_seconds", "checkpoint_seconds"]
    rows = [
        {"step": step, "epoch": step / steps, **{name: rng.random() for name in figures}, "tokens": 1500 * step}
        | {name: rng.random() + (20.0 if step == 1 else 0.0) for name in phases}
        for step in range(1, steps + 1)
    ]
    text = io.StringIO()
    pd.DataFrame(rows).to_csv(text, index=False, lineterminator="\n")
    files.write_text(folder / "training" / "metrics.csv", text.getvalue())
    summary = {name: sum(row[name] for row in rows) for name in phases} | {"step_seconds": 1.5}
    summary |= {"memory": {"held_bytes": 3 * 2**20, "device_peak_bytes": None, "host_peak_bytes": 2**30}}
    files.write_json(
        folder / "training" / "summary.json",
        {"fingerprint": "f" * 16, "inputs": {}, "steps": steps, "prompts": 6973, "starts": [0, steps // 3], **summary}
        | {"warnings": [], "provenance": PROVENANCE},
    )
    kept = [
        {"name": checkpoint_name(step, steps), "step": step, "path": f"runs/x/{step}", "sha256": "c" * 64}
        for step in checkpoint_steps(steps, chosen["training"]["checkpoint_interval_steps"])
    ]
    files.write_json(folder / "training" / "checkpoints.json", {"fingerprint": "f" * 16, "checkpoints": kept})


def _made(results: Path, folder: Path, chosen: dict, rows: int) -> None:
    sha256 = {"train": "a" * 64, "test": "b" * 64}
    files.write_json(
        results / "data" / "gsm8k" / "dataset.json",
        {
            "name": "gsm8k",
            "origin": {"source": "jsonl"},
            "rows": {"train": 7473, "test": rows},
            "sha256": sha256,
            "provenance": PROVENANCE,
        },
    )
    model = results / "models" / chosen["model"]["name"]
    origin = {
        "source": "kaggle",
        "handle": "google/gemma-2/flax/gemma2-2b-it",
        "warning": "model.revision: none is given",
    }
    files.write_json(
        model / "model.json",
        {
            "name": chosen["model"]["name"],
            "origin": origin,
            "architecture": {},
            "dtype": "float32",
            "parameters": 2614341888,
        }
        | {"sha256": {"weights": "d" * 64, "tokenizer": "e" * 64}},
    )
    files.write_json(model / "provenance.json", PROVENANCE)
    splits = {
        name: {"rows": count, "longest_tokens": 250, "left_out": []}
        for name, count in (("train", 6973), ("dev", 500), ("test", rows))
    }
    files.write_json(
        folder / "prompts" / "summary.json", {"max_tokens": 256, "splits": splits, "provenance": PROVENANCE}
    )
    tags = {tag: stats.wilson_rate(20, 48) for tag in chosen["prompt"]["tags"].values()}
    files.write_json(
        folder / "format_check.json",
        {"tags": tags, "exact": stats.wilson_rate(12, 48), "warning": None, "examples": []},
    )


def compare_recipes(results: Path, recipes: list[str]) -> None:
    """Writes what the stage compare_recipes writes."""
    from gsm8k_grpo.evaluation import comparison

    read = runpy.run_path(str(ROOT / "scripts" / "compare_recipes.py"))["read"]
    across = comparison.of_recipes({recipe: read(results, recipe) for recipe in recipes})
    files.write_json(results / "comparison-of-recipes.json", {**across, "provenance": PROVENANCE})
