"""How many sessions a training takes: by the preflight at first, then by the seconds of its own steps."""

import json

import pytest

from gsm8k_grpo.common import layout, sealed_rows
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.grpo.run_identity import run_inputs
from gsm8k_grpo.preflight import sessions

HASHES = {"weights": "0" * 64}


@pytest.fixture
def flagship():
    return effective_settings("gemma2-2b-it", {})


@pytest.fixture
def results(tmp_path, flagship):
    """A folder with what training needs, and a preflight by which a step takes at least 3.2 s."""
    model, prompts = layout.model_folder(tmp_path, "gemma2-2b-it"), layout.prompts_file(tmp_path, "flagship", "train")
    for folder in (model, prompts.parent):
        folder.mkdir(parents=True)
    prompts.write_text("{}\n")
    (model / "model.json").write_text(json.dumps({"sha256": HASHES}))
    preflight = {"estimate": {"step_seconds": 3.2, "is": "a lower bound"}}
    (tmp_path / "flagship/preflight.json").write_text(json.dumps(preflight))
    return tmp_path


def train(results, settings, steps, saved):
    """The log of a training that made so many steps, of 22.8 s each, and saved one of them."""
    blocks = {block: settings[block] for block in ("seed", "mesh", "prompt", "training")}
    inputs = run_inputs(blocks, layout.prompts_file(results, "flagship", "train"), HASHES)
    run = Run.of_inputs(layout.training_folder(results, "flagship"), inputs, 1)
    run.folder.mkdir(parents=True)
    phases = {"rollout_seconds": 20.0, "update_seconds": 2.8, "checkpoint_seconds": 9.0}
    sealed_rows.write(run.metrics_file, [{"step": step, **phases} for step in range(1, steps + 1)])
    sealed_rows.write(run.folder / "checkpoints.json", [{"checkpoints": {str(saved): "0"}}])


def said(results, settings, hours=9.0):
    return sessions.session_sentences(results, {"flagship": settings}, hours)


def test_the_preflights_bound_counts_at_first(results, flagship):
    assert said(results, flagship) == [
        "flagship: training takes at least 1 session of 9 hours (3.2 s a step, by the preflight, a lower bound)"
    ]
    assert "takes at least 2 sessions of 3 hours, stop after step 3,375 (3.2 s" in said(results, flagship, 3)[0]
    (results / "flagship/preflight.json").unlink()
    assert said(results, flagship) == []


def test_the_steps_of_this_very_run_count_once_there_are_enough(results, flagship):
    train(results, flagship, steps=20, saved=20)
    # 9 hours are 1,421 steps of 22.8 s.
    assert said(results, flagship) == [
        "flagship: training takes 3 more sessions of 9 hours, stop after steps 1,441, 2,862 "
        "(22.8 s a step, as measured)"
    ]
    other = effective_settings("gemma2-2b-it", {"training": {"num_generations": 8}})
    assert "at least 1 session of 9 hours (3.2 s a step" in said(results, other)[0]
    (results / "flagship/training/summary.json").touch()
    assert said(results, flagship) == []


def test_fewer_steps_do_not_count_and_what_was_not_saved_is_left_to_do(results, flagship):
    train(results, flagship, steps=19, saved=10)
    assert "takes at least 2 more sessions of 3 hours, stop after step 3,385 (3.2 s" in said(results, flagship, 3)[0]
    (damaged,) = results.glob("flagship/training/runs/*/checkpoints.json")
    damaged.write_text("{")
    assert said(results, flagship) == []


def test_stops_are_whole_steps_and_each_session_makes_one():
    assert sessions.session_stops(0, 3738, 9, 22.8) == [1421, 2842]
    assert sessions.session_stops(0, 3, 0.001, 60) == [1, 2]
    assert sessions.session_stops(0, 100, 1, 36) == []  # just in time
