"""A reward with a hole makes a trained model reason no more, or for show alone; the log says so with the step."""

import json
import re
import statistics

import pytest

from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.grpo import tunix_setup
from gsm8k_grpo.grpo.learner import Learner
from gsm8k_grpo.grpo.loop import train_to_end
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.models.lora import make_policy
from small_reasoner import ROWS, STOP_IDS, TAGS, base_model

TRAINING = {
    **{"max_steps": 30, "checkpoint_interval_steps": 30, "prompts_per_step": 4, "micro_batch_completions": 16},
    **{"num_generations": 4, "max_completion_tokens": 48, "beta": 0, "temperature": 1.0, "learning_rate": 0.01},
    "lora": {"rank": 4, "alpha": 4, "target_modules": ["q_einsum", "down_proj"]},
}
FIGURES = ("reward", "reasoning_words", "calculations", "calculated_answers")


def trained(folder, base, tokenizer, mesh, rewards, **more):
    """The rows of a run with these rewards, and more settings of training."""
    settings = effective_settings("tiny", {"training": {**TRAINING, "rewards": rewards, **more}})["training"]
    run = Run(folder, settings["num_iterations"])
    folder.mkdir()
    run.resume([settings["max_steps"]])
    rl_cluster = tunix_setup.make_rl_cluster(
        make_policy(base, settings["lora"], 0, mesh), None, tokenizer, mesh, settings, 32, STOP_IDS, 0, run
    )
    train_to_end(Learner(rl_cluster, settings, TAGS, ROWS, 0, STOP_IDS), settings, run)
    return [json.loads(line) for line in run.metrics_file.read_text().splitlines()]


def mean(rows):
    """Means of each figure over some steps."""
    return {name: statistics.fmean(row[name] for row in rows) for name in FIGURES}


@pytest.mark.slow
def test_training_with_a_holed_reward_warns_that_the_reasoning_collapses(tmp_path, mesh, capfd):
    base, tokenizer = base_model(tmp_path, cheap="")
    capfd.readouterr()
    rows = trained(tmp_path / "holed", base, tokenizer, mesh, ["tests/helpers/holed_reward.py:pays_for_silence"])
    printed = capfd.readouterr().out
    first, last = mean(rows[:5]), mean(rows[-5:])
    assert first["reasoning_words"] > 2 and first["calculations"] > 0.4 and first["calculated_answers"] > 0.4
    assert last["reasoning_words"] < 1 and last["calculations"] < 0.2 and last["reward"] > first["reward"]
    (step,) = re.findall(r"WARNING: step (\d+): the reasoning collapses: ", printed)
    assert 10 <= int(step) <= 30
    rows = trained(tmp_path / "sound", base, tokenizer, mesh, ["format_exact", "answer"])
    assert "the reasoning collapses" not in capfd.readouterr().out
    assert mean(rows[-5:])["reasoning_words"] > 1.5


@pytest.mark.slow
def test_training_with_a_holed_reward_warns_that_the_reasoning_no_longer_leads_to_the_answer(tmp_path, mesh, capfd):
    base, tokenizer = base_model(tmp_path, cheap="1 + 1 = 2", more=" so", limit_tokens=72)
    longer = {"max_steps": 36, "checkpoint_interval_steps": 36, "schedule_steps": 60}
    capfd.readouterr()
    # It pays for brevity, and the ritual is briefer than the honest reasoning.
    holed = ["tests/helpers/holed_reward.py:pays_for_silence"]
    rows = trained(tmp_path / "holed", base, tokenizer, mesh, holed, **longer)
    printed = capfd.readouterr().out
    first, last = mean(rows[:10]), mean(rows[-10:])
    assert first["calculated_answers"] > 0.4 and last["calculated_answers"] < 0.15
    assert last["reasoning_words"] > 4 and last["calculations"] > 0.8
    step, *_ = re.findall(r"WARNING: step (\d+): the reasoning no longer leads to the answer: ", printed)
    assert 20 <= int(step) <= 36 and "the reasoning collapses" not in printed
    rows = trained(tmp_path / "sound", base, tokenizer, mesh, ["format_exact", "answer"], **longer)
    assert "no longer leads to the answer" not in capfd.readouterr().out
