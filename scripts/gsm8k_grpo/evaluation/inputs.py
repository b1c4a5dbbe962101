"""What an evaluation depends on: its rows, its checkpoint, and a fingerprint of all. JAX is not imported here."""

from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.provenance import library_versions
from gsm8k_grpo.common.source_hash import source_hash
from gsm8k_grpo.config.merging import to_plain


def read_rows(path: Path, split: str, evaluation_settings: Mapping) -> list[dict]:
    """The rows to evaluate on. Dev has a limit of its own where it only serves to choose a checkpoint."""
    if split not in ("dev", "test"):
        raise PipelineError(f"--split: the name of {path} is no split; give --split dev or --split test")
    limit = "selection_rows" if (split, evaluation_settings["split"]) == ("dev", "test") else "rows"
    rows, wanted = files.read_jsonl(path, keys=("id", "prompt", "answer")), evaluation_settings[limit]
    if wanted and wanted > len(rows):
        raise PipelineError(f"evaluation.{limit}: is {wanted}, but {path} has only {len(rows)} rows; lower it")
    return rows[:wanted]


def find_checkpoint(name: str, checkpoints: Path | None, best: Path | None) -> dict:
    """`name`, `step` and `sha256` of the requested checkpoint; the base model is step 0 and has no hash."""
    if name == "best":
        if not best:
            raise PipelineError("--best: --checkpoint best needs the best.json that names the checkpoint; give it")
        name = files.read_json(best)["checkpoint"]
    if name == "base":
        return {"name": "base", "step": 0, "sha256": None}
    if not checkpoints:
        raise PipelineError(f"--checkpoints: --checkpoint {name} needs the checkpoints.json of its training; give it")
    listed = {each["name"]: each for each in files.read_json(checkpoints)["checkpoints"]}
    if name not in listed:
        raise PipelineError(f"{checkpoints}: has no checkpoint {name!r}; --checkpoint can be base, {', '.join(listed)}")
    return {key: listed[name][key] for key in ("name", "step", "sha256")}


def evaluation_fingerprint(settings: Mapping, rows: list[dict], model_folder: Path, checkpoint: Mapping) -> str:
    """A hash of everything that the graded rows depend on: evaluations with the same one are the same."""
    # Other sets have evaluations of their own.
    own = {key: value for key, value in settings["evaluation"].items() if key != "transfer"}
    inputs = {
        "settings": to_plain({**settings, "evaluation": own}),
        "rows": files.sha256_text(files.canonical_json(rows)),
        "model": files.read_json(model_folder / "model.json")["sha256"],
        "checkpoint": checkpoint["sha256"],
        "code": source_hash("evaluate"),
        "versions": library_versions(),
    }
    return files.sha256_text(files.canonical_json(inputs))
