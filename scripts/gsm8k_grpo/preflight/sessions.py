"""How many sessions a training takes, and after which steps they stop.

The rules import this module, so it does not import JAX.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common import files, layout, sealed_rows
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.session_end import SECONDS_PER_HOUR
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.grpo.run_identity import run_inputs
from gsm8k_grpo.grpo.step_time import step_seconds

MEASURED_STEPS = 20  # from so many on, a run's own steps say how long one takes; before, its preflight does
SHOWN_STOPS = 6


def session_sentences(results: Path, runs: Mapping[str, Mapping], hours: float) -> list[str]:
    """A sentence for each run that is left to train, where its preflight or its own steps say how long a step takes.

    Args:
      results: the folder of all artifacts, which need not be there yet.
      runs: the settings of each run, by name.
      hours: of a session (`stop_after_hours`).
    """
    found = []
    for name, settings in runs.items():
        with contextlib.suppress(PipelineError):  # a damaged file; the stage that needs it says so
            found.append(_sentence(results, name, settings, hours))
    return [sentence for sentence in found if sentence]


def _sentence(results: Path, name: str, settings: Mapping, hours: float) -> str | None:
    training, preflight = layout.training_folder(results, name), layout.run_folder(results, name) / "preflight.json"
    if (training / "summary.json").is_file():
        return None
    done, history = _steps_so_far(results, name, settings)
    if len(history) >= MEASURED_STEPS:
        seconds, by, least = step_seconds(history), "as measured", ""
    elif preflight.is_file() and (estimate := files.read_json_object(preflight).get("estimate")):
        seconds, by = estimate["step_seconds"], f"by the preflight, {estimate['is']}"
        least = "at least " if estimate["is"] == "a lower bound" else ""
    else:
        return None
    stops = session_stops(done, settings["training"]["max_steps"], hours, seconds)
    more = " more" if done else ""
    counted = f"{least}{len(stops) + 1}{more} session{'s' if stops else ''} of {hours:g} hours"
    shown = ", ".join(f"{step:,}" for step in stops[:SHOWN_STOPS]) + (", …" if len(stops) > SHOWN_STOPS else "")
    where = f", stop after step{'s' if len(stops) > 1 else ''} {shown}" if stops else ""
    return f"{name}: training takes {counted}{where} ({seconds:,.4g} s a step, {by})"


def session_stops(done: int, steps: int, hours: float, seconds: float) -> list[int]:
    """The steps after which sessions of so many hours stop, where a step takes so many seconds; the last one ends.

    Args:
      done: the step after which the first session begins.
      steps: of the whole training.
    """
    in_a_session = max(1, int(hours * SECONDS_PER_HOUR / seconds))  # each session does one at least
    return list(range(done + in_a_session, steps, in_a_session))


def _steps_so_far(results: Path, name: str, settings: Mapping) -> tuple[int, list[dict]]:
    """(The step of the newest checkpoint, the rows of all steps) of the run that training would go on with."""
    rows = layout.prompts_file(results, name, "train")
    manifest = layout.model_folder(results, settings["model"]["name"]) / "model.json"
    if not (rows.is_file() and manifest.is_file()):
        return 0, []
    blocks = {block: settings[block] for block in ("seed", "mesh", "prompt", "training")}
    inputs = run_inputs(blocks, rows, files.read_json_object(manifest)["sha256"])
    run = Run.of_inputs(layout.training_folder(results, name), inputs, settings["training"]["num_iterations"])
    return max(run.checkpoint_hashes(), default=0), sealed_rows.read(run.metrics_file)[0]
