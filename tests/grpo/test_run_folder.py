"""A run's folder: what is kept, what is set aside, where training resumes, and what makes another run."""

import json
import random
import shutil

import pytest

from gsm8k_grpo.common.differences import describe_differences
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.grpo.run_folder import Run, StepLog
from gsm8k_grpo.grpo.run_identity import identity_settings

KEPT = [2, 4, 6]


@pytest.fixture
def finished(tmp_path):
    """A run of six steps of two updates, with a checkpoint after every second step."""
    run = Run(tmp_path, updates_per_step=2)
    log = StepLog(run)
    for step in range(1, 7):
        log.append({"step": step, "loss": step / 2}, [{"step": step, "completion": "x"}] if step in KEPT else [])
        if step in KEPT:
            write(run, step)
    log.close()
    return run


def write(run, step, listed=True):
    folder = run.checkpoint(step)
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_bytes(b"w" * step)
    if listed:
        run.commit_checkpoint(step)


def steps_of(run):
    return [row["step"] for row in run.history(len(run.metrics_file.read_text().splitlines()))]


def test_a_finished_run_stays_as_it_is(finished):
    before = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}
    assert finished.resume(KEPT) == 6
    assert {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()} == before


def test_an_empty_folder_starts_at_step_0(tmp_path):
    run = Run(tmp_path, updates_per_step=1)
    assert run.resume(KEPT) == 0
    assert run.history(0) == [] and run.checkpoint_hashes() == {}


def test_a_longer_run_resumes_after_the_last_step_and_a_shorter_one_is_finished(finished):
    assert finished.resume([2, 4, 6, 8]) == 6
    assert finished.resume([2, 4]) == 4
    assert steps_of(finished) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("fault", ["other bytes", "a file less", "a file more", "gone"])
def test_a_damaged_checkpoint_is_printed_and_set_aside_and_the_one_before_is_used(finished, capsys, fault):
    weights = finished.checkpoint(6) / "model" / "weights"
    if fault == "other bytes":
        weights.write_bytes(b"v" * 6)
    elif fault == "a file less":
        weights.unlink()
    elif fault == "a file more":
        weights.with_name("more").write_text("")
    else:
        weights.unlink()
        weights.parent.rmdir()
        finished.checkpoint(6).rmdir()
    assert finished.resume(KEPT) == 4
    printed = capsys.readouterr().out
    assert f"{finished.checkpoint(6)}: is damaged" in printed
    assert not finished.checkpoint(6).exists() and sorted(finished.checkpoint_hashes()) == [2, 4]
    assert fault == "gone" or (finished.folder / "set-aside" / "12").is_dir()
    assert steps_of(finished) == [1, 2, 3, 4]
    assert [row["step"] for row in finished.samples()] == [2, 4]


def test_checkpoints_after_a_damaged_one_are_made_again(finished):
    (finished.checkpoint(4) / "model" / "weights").write_bytes(b"")
    assert finished.resume(KEPT) == 2
    assert sorted(path.name for path in (finished.folder / "set-aside").iterdir()) == ["12", "8"]
    assert sorted(finished.checkpoint_hashes()) == [2]


def test_a_checkpoint_that_is_not_listed_does_not_count(finished):
    write(finished, 7, listed=False)
    assert finished.resume([2, 4, 6, 8]) == 6
    assert not finished.checkpoint(7).exists() and (finished.folder / "set-aside" / "14").is_dir()


def test_a_checkpoint_between_two_kept_ones_is_resumed_from_and_pruned_at_the_end(finished):
    write(finished, 3)
    assert finished.resume([2, 5]) == 4
    finished.prune([2, 5], 5)
    assert sorted(finished.checkpoint_hashes()) == [2] and not finished.checkpoint(3).exists()


def test_the_newest_checkpoint_stays_even_where_it_is_not_to_be_kept(finished):
    finished.prune([2], 4)
    assert sorted(finished.checkpoint_hashes()) == [2, 4, 6] and finished.checkpoint(4).exists()


def test_training_that_keeps_few_checkpoints_resumes_from_them(finished, capsys):
    finished.prune([4, 6], 6)
    assert "step 2: its checkpoint is deleted, because no setting keeps it\n" in capsys.readouterr().out
    assert sorted(finished.checkpoint_hashes()) == [4, 6]
    assert finished.resume([8, 10]) == 6  # those of the end are not there yet
    assert sorted(finished.checkpoint_hashes()) == [4, 6]


@pytest.mark.parametrize("torn", [b'{"step": 5, "lo', b'[5]\n{"step": 6}\n', b'{"step": 6}\n', b"\xff\n"])
def test_a_torn_log_goes_back_to_a_checkpoint_with_all_rows_before_it(finished, capsys, torn):
    lines = finished.metrics_file.read_bytes().splitlines(keepends=True)[:4]
    finished.metrics_file.write_bytes(b"".join(lines) + torn)
    assert finished.resume(KEPT) == 4
    assert "metrics.jsonl: has no whole row for each step up to 6" in capsys.readouterr().out
    assert finished.metrics_file.read_bytes() == b"".join(lines)


def test_rows_beyond_the_checkpoint_are_dropped(finished):
    log = StepLog(finished)
    log.append({"step": 7}, [])
    log.close()
    assert finished.resume([2, 4, 6, 8]) == 6
    assert steps_of(finished) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(PipelineError, match=r"metrics.jsonl: expected 7 whole rows, one for each step, found 6"):
        finished.history(7)


def test_the_most_memory_that_any_process_used_is_kept(finished):
    assert finished.memory() == {}
    finished.add_memory({"held_bytes": 10, "device_peak_bytes": None, "host_peak_bytes": 70})
    assert finished.memory() == {"held_bytes": 10, "device_peak_bytes": None, "host_peak_bytes": 70}
    finished.add_memory({"held_bytes": 9, "device_peak_bytes": 30, "host_peak_bytes": 80})
    assert finished.memory() == {"held_bytes": 10, "device_peak_bytes": 30, "host_peak_bytes": 80}


def identity(**training):
    settings = effective_settings("tiny", {"training": training})
    return identity_settings({name: settings[name] for name in ("seed", "mesh", "prompt", "training")})


def test_only_settings_that_change_a_step_make_another_run():
    same = {
        "checkpoint_interval_steps": 20,
        "keep_checkpoints": 1,
        "kept_completions": 0,
        "wandb_project": "p",
        "schedule_steps": 60,
    }
    assert identity() == identity(**same) == identity(max_steps=40, schedule_steps=60)
    for other in ({"max_steps": 61}, {"beta": 0.05}, {"micro_batch_completions": 32}, {"lora": {"dropout": 0.1}}):
        assert identity() != identity(**other)


def test_differences_between_runs_are_described():
    assert describe_differences(identity(), identity(beta=0.5)) == ["training.beta: 0.04, now 0.5"]
    assert describe_differences({"rows": "0" * 64, "a": {"b": 1}}, {"rows": "1" * 64, "a": {"b": 1}}) == [
        "rows changed"
    ]


def test_another_run_is_announced_with_its_differences(tmp_path, capsys):
    inputs = {"rows": "0" * 64, "settings": identity()}
    first = Run.of_inputs(tmp_path, inputs, 1)
    first.create(inputs)
    assert capsys.readouterr().out == f"run {first.folder.name}\n" and first.inputs() == inputs
    changed = {"rows": "1" * 64, "settings": identity(beta=0.5)}
    Run.of_inputs(tmp_path, changed, 1).create(changed)
    differences = "rows changed; settings.training.beta: 0.04, now 0.5"
    expected = f"another run than {first.folder.name}, which stays as it is: {differences}"
    assert expected in capsys.readouterr().out


def test_the_log_is_json_lines(finished):
    row = json.loads(finished.metrics_file.read_text().splitlines()[2])
    assert len(row.pop("sha256")) == 16 and row == {"step": 3, "loss": 1.5}


def flip(path, line, old, new):
    """Exchanges bytes in one line, as a fault of a disk might; the line stays JSON."""
    lines = path.read_bytes().splitlines(keepends=True)
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    path.write_bytes(b"".join(lines))


def test_whole_checkpoints_whose_rows_are_lost_are_set_aside_with_a_way_back_that_works(finished, capsys, tmp_path):
    copies = {path: path.read_bytes() for path in (finished.metrics_file, finished.samples_file)}
    flip(finished.metrics_file, 3, b"1.5", b"1.6")
    assert finished.resume(KEPT) == 2
    printed = capsys.readouterr().out
    assert f"{finished.metrics_file}, line 3: is damaged" in printed
    assert "the whole checkpoints of the steps 4, 6 are set aside" in printed and "To get them back instead" in printed
    aside = finished.folder / "set-aside"
    for path, content in copies.items():
        path.write_bytes(content)
    for name in ("8", "12"):
        (aside / name).rename(finished.checkpoints / "actor" / name)
    (aside / "checkpoints.json").rename(finished.folder / "checkpoints.json")
    assert finished.resume(KEPT) == 6 and steps_of(finished) == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_whose_listing_is_lost_is_set_aside_with_a_way_back(finished, capsys):
    (finished.folder / "checkpoints.json").unlink()
    assert finished.resume(KEPT) == 0
    assert "if that file was lost, restore it and move the folder back" in capsys.readouterr().out


def test_an_altered_hash_of_a_checkpoint_condemns_the_listing_and_no_checkpoint(finished):
    digest = finished.checkpoint_hashes()[4].encode()
    flip(finished.folder / "checkpoints.json", 1, digest, digest[::-1])
    with pytest.raises(
        PipelineError, match=r"checkpoints.json: expected the hash of each checkpoint, as training wrote"
    ):
        finished.resume(KEPT)
    assert finished.checkpoint(4).is_dir()


def test_damaged_notes_of_a_finished_run_are_named_and_stop_nothing(finished, capsys):
    finished.add_start(0)
    finished.add_memory({"held_bytes": 10})
    flip(finished.samples_file, 2, b'"x"', b'"y"')
    flip(finished.folder / "starts.json", 1, b"[0]", b"[1]")
    (finished.folder / "memory.json").write_bytes(b"\xff\x00")
    assert finished.resume(KEPT) == 6
    assert [row["step"] for row in finished.samples()] == [2, 6]
    assert (finished.starts(), finished.memory()) == ([], {})
    printed = capsys.readouterr().out
    for name, line in (("samples.jsonl", 2), ("starts.json", 1), ("memory.json", 1)):
        assert f"{finished.folder / name}, line {line}: is damaged" in printed
    finished.add_start(6)
    finished.add_memory({"held_bytes": 5})
    assert (finished.starts(), finished.memory()) == ([6], {"held_bytes": 5})


def test_no_damage_of_any_file_is_used_or_raises_anything_but_a_sentence(finished, tmp_path_factory):
    finished.add_start(0)
    finished.add_memory({"held_bytes": 10})
    before = finished.history(6), finished.samples(), [0], {"held_bytes": 10}
    names = sorted(path.relative_to(finished.folder) for path in finished.folder.rglob("*") if path.is_file())
    chance, copies, refused = random.Random(0), tmp_path_factory.mktemp("damaged"), 0
    for number in range(100):
        run = Run(shutil.copytree(finished.folder, copies / str(number)), updates_per_step=2)
        path = run.folder / chance.choice(names)
        content = bytearray(path.read_bytes())
        place = chance.randrange(len(content))
        if chance.random() < 0.3:
            del content[place:]
        else:
            content[place] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        try:
            step = run.resume(KEPT)
            found = run.history(step), run.samples(), run.starts(), run.memory()
        except PipelineError:
            refused += 1
            assert path.name == "checkpoints.json"
            continue
        assert found[0] == before[0][:step]
        assert all(row in before[1] for row in found[1])
        assert found[2] in ([], before[2]) and found[3] in ({}, before[3])
    assert 0 < refused < 30


@pytest.mark.parametrize("damage", [b"{", b'{"rows": "2"}', b"[]"])
def test_another_run_begins_beside_one_whose_inputs_are_damaged(tmp_path, capsys, damage):
    inputs, others = {"rows": "1"}, {"rows": "3"}
    first = Run.of_inputs(tmp_path, inputs, 1)
    first.create(inputs)
    (first.folder / "inputs.json").write_bytes(damage)
    Run.of_inputs(tmp_path, others, 1).create(others)
    printed = capsys.readouterr().out
    assert first.inputs() == inputs
    assert f"{first.folder / 'inputs.json'}: is damaged" in printed and "with unknown differences" in printed
