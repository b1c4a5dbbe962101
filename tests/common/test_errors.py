"""How an entry point ends: expected failures in one line, faults of ours with their traceback."""

import errno
import os

import pytest

from gsm8k_grpo.common.errors import NotFinished, PipelineError, exit_on_error


def raising(error):
    def stage():
        raise error

    return stage


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PipelineError("x.jsonl, line 2: no key 'a'"), "ERROR: x.jsonl, line 2: no key 'a'"),
        (OSError(errno.ENOSPC, "No space left", "out.json"), "ERROR: out.json cannot be written (No space left): "),
        (PermissionError(errno.EACCES, "Permission denied", "o"), "ERROR: o cannot be written (Permission denied): "),
        (MemoryError(), "ERROR: out of memory (allocation failed): lower training.micro_batch_completions"),
        (RuntimeError("RESOURCE_EXHAUSTED: 5 GiB\nat f"), "ERROR: out of memory (RESOURCE_EXHAUSTED: 5 GiB): lower "),
        (RuntimeError("can't start new thread"), "ERROR: out of memory (can't start new thread): lower "),
        (ImportError("x.so: failed to map segment from shared object"), "ERROR: out of memory (x.so: failed to map "),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "ERROR: out of memory ([Errno 12] Cannot allocate memory): "),
    ],
    ids=["bad input", "disk full", "not permitted", "memory", "accelerator memory", "thread", "library", "system"],
)
def test_an_expected_failure_ends_in_one_line(error, line):
    with pytest.raises(SystemExit) as ended:
        exit_on_error(raising(error))
    assert ended.value.code.startswith(line) and "\n" not in ended.value.code


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("shape"),
        ImportError("no module x"),
        KeyError("a"),
        FileNotFoundError(errno.ENOENT, "none", "x"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_an_unexpected_failure_keeps_its_traceback(error):
    with pytest.raises(type(error)) as ended:
        exit_on_error(raising(error))
    assert ended.value is error


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux's /dev/full")
def test_a_disk_that_is_really_full_ends_in_one_line():
    def stage():
        with open("/dev/full", "w") as full:
            full.write("text")

    with pytest.raises(SystemExit) as ended:
        exit_on_error(stage)
    assert "cannot be written (No space left on device)" in ended.value.code


def test_a_stage_that_stops_itself_before_the_sessions_end_says_so_and_has_a_status_of_its_own(capfd):
    with pytest.raises(SystemExit) as ended:
        exit_on_error(raising(NotFinished("step 7 of 60 is saved")))
    assert ended.value.code == 75
    said = "NOT FINISHED (stop_after_hours): step 7 of 60 is saved; run the same command again to go on\n"
    assert capfd.readouterr().err == said


def test_a_stage_that_ends_well_does_not_exit():
    done = []
    exit_on_error(lambda: done.append(1))
    assert done == [1]
