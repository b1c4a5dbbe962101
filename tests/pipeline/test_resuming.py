"""Training that is killed, stopped, damaged or out of disk goes on to the same bits."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gsm8k_grpo.common.errors import NOT_FINISHED_STATUS
from small_run import (
    assert_the_same,
    ended,
    fails,
    listed_checkpoints,
    read,
    train,
    wait_for,
    wait_for_checkpoint,
    weights,
)

pytestmark = pytest.mark.slow


def test_a_training_killed_at_random_points_resumes_to_the_same_bits(finished, tmp_path):
    """Kills while starting, and shortly after the steps 1, 2 and 3: in a rollout, an update or a save."""
    output, random, kills = tmp_path / "training", np.random.default_rng(), 0
    for lines, seconds in ((-1, 4.0), (0, 0.1), (1, 0.5), (2, 1.0)):
        killed = train(finished, output)
        wait_for(killed, output, "metrics.jsonl" if lines >= 0 else "inputs.json", more_than=lines)
        time.sleep(seconds * random.random())
        killed.send_signal(signal.SIGKILL)
        killed.communicate()
        kills += killed.returncode != 0  # 0: it had come to its end
    assert kills >= 2
    assert "ERROR" not in ended(train(finished, output))
    assert_the_same(finished / "results/tiny/training", output)


def test_a_second_trainer_waits_for_the_first_and_goes_on_where_that_ended(finished, tmp_path):
    """As after a kill of Snakemake alone, `snakemake --unlock` and the same command."""
    output, long = tmp_path / "training", {"max_steps": 200, "checkpoint_interval_steps": 2}
    first = train(finished, output, **long)
    wait_for_checkpoint(first, output)
    second = train(finished, output, **long)
    said = next(line for line in second.stdout if "works in this folder" in line)
    assert f"process {first.pid} on " in said and first.poll() is None
    first.kill()
    first.communicate()
    (run,) = output.glob("runs/*")
    step = max(map(int, listed_checkpoints(run)))
    assert f"resuming after step {step} of 200" in next(line for line in second.stdout if "resuming" in line)
    second.kill()
    second.communicate()


def test_sigterm_saves_the_newest_step_and_ends_within_seconds(finished, tmp_path):
    output = tmp_path / "training"
    stopped = train(finished, output)
    wait_for(stopped, output, "metrics.jsonl")
    signalled = time.monotonic()
    stopped.send_signal(signal.SIGTERM)
    printed = ended(stopped, 128 + signal.SIGTERM)
    assert time.monotonic() - signalled < 20
    (run,) = output.glob("runs/*")
    saved = max(map(int, listed_checkpoints(run)))
    assert f"SIGTERM: step {saved} is saved; the same command resumes from there" in printed
    assert f"resuming after step {saved} of 4" in ended(train(finished, output))
    assert_the_same(finished / "results/tiny/training", output)
    assert sorted(listed_checkpoints(run)) == ["2", "4"]  # the one between is gone
    assert read(output / "summary.json")["starts"] == [0, saved]


def test_training_in_sessions_of_one_step_ends_in_the_same_bits(finished, tmp_path):
    output = tmp_path / "training"
    for step in (1, 2, 3):
        printed = ended(train(finished, output, arguments=("--stop-after", "0")), NOT_FINISHED_STATUS)
        assert f"step {step} of 4 is saved, the other {4 - step} take about " in printed
        (run,) = output.glob("runs/*")
        # Of the steps that only a session's end saved, the newest alone is left.
        assert list(listed_checkpoints(run)) == {1: ["1"], 2: ["2"], 3: ["2", "3"]}[step]
        assert not (output / "summary.json").exists()
    assert "NOT FINISHED" not in ended(train(finished, output, arguments=("--stop-after", "0")))
    assert_the_same(finished / "results/tiny/training", output)
    assert read(output / "summary.json")["starts"] == [0, 1, 2, 3]


def test_few_kept_checkpoints_take_the_place_of_older_ones_and_change_no_bit(finished, tmp_path):
    output = tmp_path / "training"
    few = {"checkpoint_interval_steps": 1, "keep_checkpoints": 2}
    for step in (1, 2):
        ended(train(finished, output, arguments=("--stop-after", "0"), **few), NOT_FINISHED_STATUS)
        (run,) = output.glob("runs/*")
        kept = [str(each) for each in (step - 1, step) if each]
        assert list(listed_checkpoints(run)) == kept
        assert len(list((run / "checkpoints/actor").iterdir())) == len(kept)
    ended(train(finished, output, **few))
    assert [kept["name"] for kept in read(output / "checkpoints.json")["checkpoints"]] == ["step-3", "final"]
    assert len(list((run / "checkpoints/actor").iterdir())) == 2
    assert weights(output) == weights(finished / "results/tiny/training")


def test_a_reward_that_ends_its_process_ends_training_with_a_sentence_and_the_checkpoints_stay(finished, tmp_path):
    (tmp_path / "mine.py").write_text(
        "batches = []\ndef own(completions, **batch):\n    batches.append(1)\n    if len(batches) > 3:\n"
        "        import os; os._exit(0)\n    return [len(text) / 100 for text in completions]\n"
    )
    output, rewards = tmp_path / "training", [f"{tmp_path}/mine.py:own"]
    printed = ended(train(finished, output, rewards=rewards), 1)
    assert f"ERROR: training.rewards: {rewards[0]} ended its process (status 0) at the 4 completions" in printed
    assert "Traceback" not in printed
    (run,) = output.glob("runs/*")
    assert list(listed_checkpoints(run)) == ["2"]
    ended(train(finished, output, rewards=rewards))  # two more batches, of another process
    assert read(output / "summary.json")["starts"] == [0, 2]


def test_a_signal_to_all_processes_saves_too_and_the_log_says_so(finished, tmp_path):
    """As Ctrl-C and preempted machines send it, through Snakemake, to the whole process group."""
    folder = tmp_path / "project"
    kept_out = shutil.ignore_patterns("runs", "evaluations", "training")
    shutil.copytree(finished, folder, ignore=kept_out)
    command = [sys.executable, "-m", "snakemake", "results/tiny/training/checkpoints.json", "--cores", "1"]
    command += [
        "--configfile",
        "smallest.yaml",
        "--config",
        "training={max_steps: 200, checkpoint_interval_steps: 200}",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(command, cwd=folder, env={**os.environ, "PATH": path}, start_new_session=True, **pipes)
    wait_for(process, folder / "results/tiny/training", "metrics.jsonl", more_than=2)
    os.killpg(process.pid, signal.SIGTERM)
    process.communicate(timeout=120)
    log = folder / "results/logs/tiny/train.log"
    deadline = time.monotonic() + 30
    while "SIGTERM: step" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)
    (run,) = folder.glob("results/tiny/training/runs/*")
    assert max(map(int, listed_checkpoints(run))) >= 3


def test_sigterm_on_a_full_disk_says_so(finished, tmp_path):
    output = tmp_path / "training"
    started = train(finished, output, max_steps=200, checkpoint_interval_steps=200)
    started.kill()
    started.communicate()
    limited = f"ulimit -f 20; exec {sys.executable} scripts/train.py --settings {output.with_suffix('.yaml')}"
    limited += f" --output {output} --rows results/tiny/prompts/train.jsonl --model results/models/tiny"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    stopped = subprocess.Popen(["bash", "-c", limited], cwd=finished, **pipes)
    wait_for(stopped, output, "metrics.jsonl")
    stopped.send_signal(signal.SIGTERM)
    printed = ended(stopped, 128 + signal.SIGTERM)
    assert "ERROR: SIGTERM: " in printed and "cannot be written (File too large)" in printed, printed


def test_a_finished_run_trains_nothing_more_and_leaves_the_same_artifacts(finished, tmp_path):
    output = tmp_path / "training"
    shutil.copytree(finished / "results/tiny/training", output)
    before = {name: (output / name).read_bytes() for name in ("metrics.csv", "samples.jsonl", "checkpoints.json")}
    printed = ended(train(finished, output))
    assert "steps/s" not in printed and "LoRA parameters" not in printed
    assert {name: (output / name).read_bytes() for name in before} == before


def test_another_setting_is_another_run_and_a_longer_one_goes_on_only_where_the_schedule_allows(finished, tmp_path):
    output = tmp_path / "training"
    ended(train(finished, output, schedule_steps=6))
    (first,) = output.glob("runs/*")
    printed = ended(train(finished, output, schedule_steps=6, max_steps=6))
    assert "resuming after step 4 of 6" in printed
    assert [kept["name"] for kept in read(output / "checkpoints.json")["checkpoints"]] == ["step-2", "step-4", "final"]
    assert list(output.glob("runs/*")) == [first]
    at_once = tmp_path / "at-once"
    ended(train(finished, at_once, schedule_steps=6, max_steps=6))
    assert_the_same(at_once, output)

    printed = ended(train(finished, output, max_steps=2, beta=0.0))
    assert f"another run than {first.name}, which stays as it is: settings.training.beta: 0.04, now 0.0" in printed
    assert "resuming" not in printed
    metrics = pd.read_csv(output / "metrics.csv")
    assert metrics["step"].tolist() == [1, 2]
    assert metrics["kl"].isna().all() and (metrics["reference_seconds"] == 0).all()


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_used(finished, tmp_path):
    output = tmp_path / "training"
    shutil.copytree(finished / "results/tiny/training", output)
    (damaged,) = output.glob("runs/*/checkpoints/actor/8/model_params/manifest.ocdbt")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    evaluate = ("scripts/evaluate.py", "--settings", "results/tiny/settings.yaml", "--output", str(tmp_path / "final"))
    prompts = ("--rows", "results/tiny/prompts/test.jsonl")
    checkpoint = ("--checkpoint", "final", "--checkpoints", str(output / "checkpoints.json"))
    error = fails(finished, *evaluate, *prompts, "--model", "results/models/tiny", *checkpoint)
    assert "actor/8" in error and "--forcerun train" in error
    printed = ended(train(finished, output))
    assert "checkpoints/actor/8: is damaged" in printed and "set aside as" in printed
    assert "resuming after step 2 of 4" in printed
    assert_the_same(finished / "results/tiny/training", output)


def test_a_full_disk_is_one_clear_error_and_the_checkpoints_before_stand(finished, tmp_path):
    output = tmp_path / "training"
    stopped = train(finished, output)
    wait_for_checkpoint(stopped, output)
    stopped.send_signal(signal.SIGKILL)
    ended(stopped, -signal.SIGKILL)
    (run,) = output.glob("runs/*")
    before = listed_checkpoints(run)
    assert list(before) == ["2"]
    # No file may grow beyond 20 kB: what the disk answers then is what it answers when it is full, in the same calls.
    chosen = output.with_suffix(".yaml")
    limited = f"ulimit -f 20; exec {sys.executable} scripts/train.py --settings {chosen} --output {output}"
    limited += " --rows results/tiny/prompts/train.jsonl --model results/models/tiny"
    done = subprocess.run(["bash", "-c", limited], cwd=finished, capture_output=True, text=True)
    error = next(line for line in done.stderr.splitlines() if line.startswith("ERROR: "))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert (
        "checkpoints/actor/8: the checkpoint of step 4 cannot be written (File too large)" in error
        and "the ones before it stay" in error
    )
    assert listed_checkpoints(run) == before
    assert "resuming after step 2 of 4" in ended(train(finished, output))
    assert_the_same(finished / "results/tiny/training", output)
