"""scripts/stage.py: the log of a stage, the mark of its failure, and the check of what it wrote."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start(tmp_path):
    """Starts a stage that is a shell command, in a folder of its own and a process group of its own."""

    def start(command, folder=tmp_path, code="first", inputs=("read",)):
        options = ["--log", "stage.log", "--mark", "failures/stage", "--record", "records/stage.json"]
        options += ["--code", code, "--inputs", *inputs, "--outputs", "made", "also made", "--"]
        return subprocess.Popen(
            [sys.executable, ROOT / "scripts" / "stage.py", *options, "bash", "-c", command],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    return start


def ended(process):
    """(exit status, what was printed)."""
    printed, _ = process.communicate(timeout=60)
    return process.returncode, printed


def test_a_stage_that_writes_its_outputs_succeeds_and_its_log_has_all_that_it_printed(start, tmp_path):
    assert ended(start("echo out; echo err >&2; touch made 'also made'")) == (0, "out\nerr\n")
    assert (tmp_path / "stage.log").read_text() == "out\nerr\n"
    assert not list((tmp_path / "failures").iterdir())


@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        ("echo ERROR: no rows; exit 1", 1, "ERROR: no rows"),
        ("touch made 'also made'; exit 7", 7, ""),
        ("touch made", 1, "ERROR: the stage ended without an error but did not write also made"),
        ("kill -KILL $$", 128 + signal.SIGKILL, "perhaps because memory ran out: it had used up to 0."),
        ("kill -TERM $$", 128 + signal.SIGTERM, "the stage was ended by SIGTERM"),
        ("kill -ABRT $$", 128 + signal.SIGABRT, "the stage was ended by SIGABRT; if it ended itself, the lines above"),
        (
            "echo 'LLVM ERROR: out of memory'; kill -ABRT $$",
            128 + signal.SIGABRT,
            "ERROR: the stage was ended by SIGABRT, because memory ran out (LLVM ERROR: out of memory): it had used",
        ),
        (
            "echo 'OpenBLAS error: Memory allocation still failed after 10 retries'; exit 1",
            1,
            "ERROR: the stage ran out of memory (OpenBLAS error: Memory allocation still failed after 10 retries): ",
        ),
    ],
    ids=["error", "status", "unwritten", "killed", "ended", "aborted", "LLVM", "OpenBLAS"],
)
def test_a_failed_stage_says_why_and_leaves_a_new_mark_each_time(start, tmp_path, command, status, says):
    marks = []
    for _ in range(2):
        code, printed = ended(start(command))
        assert code == status and says in printed and says in (tmp_path / "stage.log").read_text()
        marks.append((tmp_path / "failures" / "stage").read_text())
    assert marks[0].strip().isdecimal() and marks[0] != marks[1]


def test_a_stage_under_ulimit_names_the_limit(tmp_path):
    allocate = f"{sys.executable} -c 'bytearray(2**30)'"
    stage = f"{sys.executable} {ROOT / 'scripts' / 'stage.py'} --log log --mark mark --record record --code c"
    stage += f" --outputs made -- {allocate}"
    done = subprocess.run(
        ["bash", "-c", f"ulimit -v 400000; {stage}"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    said = "ERROR: the stage ran out of memory (MemoryError): raise the limit of 0.4 GiB (ulimit -v), lower training."
    assert done.returncode == 1 and said in done.stdout and said in (tmp_path / "log").read_text()


def test_an_input_that_is_dated_in_the_future_keeps_a_stage_from_running(start, tmp_path):
    given, tomorrow = tmp_path / "a given", time.time() + 86400
    given.touch()
    os.utime(given, (tomorrow, tomorrow))
    status, printed = ended(start("touch made 'also made'", inputs=["a given"]))
    assert status == 1 and not (tmp_path / "made").exists() and (tmp_path / "failures" / "stage").exists()
    assert "ERROR: a given is dated" in printed and "run touch 'a given' and then the same command again" in printed
    given.touch()
    assert ended(start("touch made 'also made'", inputs=["a given", "missing"]))[0] == 0


def test_an_input_from_a_clock_that_is_ahead_by_little_is_waited_for(start, tmp_path):
    given, soon = tmp_path / "given", time.time() + 2
    given.touch()
    os.utime(given, (soon, soon))
    assert ended(start("touch made 'also made'", inputs=["given"])) == (0, "")
    assert (tmp_path / "made").stat().st_mtime >= soon - 0.1  # a file system may count time in steps


def test_the_mark_of_a_stage_that_stopped_itself_says_so(start, tmp_path):
    assert ended(start("exit 75"))[0] == 75
    assert (tmp_path / "failures" / "stage").read_text().strip().endswith("not finished")


def test_files_of_an_earlier_run_do_not_count_as_written(start, tmp_path):
    for name in ("made", "also made"):
        (tmp_path / name).write_text("old")
    time.sleep(0.02)  # a file system may count time in steps
    status, printed = ended(start("exit 0"))
    assert status == 1 and "did not write made" in printed and (tmp_path / "made").read_text() == "old"


def test_outputs_are_taken_over_where_everything_is_as_recorded_and_made_again_where_not(start, tmp_path):
    (tmp_path / "read").write_text("1")
    stage = "echo run; echo $((++n)) > made; cp read 'also made'"
    assert ended(start(stage)) == (0, "run\n")
    for path in (tmp_path / "made", tmp_path / "read"):
        os.utime(path, (1, 1))  # times do not count
    status, printed = ended(start(stage))
    assert status == 0 and printed.startswith("taken over: made has been made from the same settings, code and inputs")
    assert (tmp_path / "made").stat().st_mtime > 1
    assert (tmp_path / "stage.log").read_text() == printed

    def made_again(command=stage, **how):
        status, printed = ended(start(command, **how))
        (why,) = [line for line in printed.splitlines() if "because it differs from its record" in line]
        assert status == 0 and "run" in printed.splitlines()
        assert "taken over" in ended(start(command, **how))[1]
        return why.split("records/stage.json: ")[1]

    (tmp_path / "read").write_text("2")
    assert made_again() == "inputs.read changed" and (tmp_path / "also made").read_text() == "2"
    assert made_again(code="second") == "code: first, now second"
    (tmp_path / "made").write_text("damaged")
    assert made_again(code="second") == "made changed"
    (tmp_path / "also made").unlink()
    assert made_again(code="second") == "also made: is missing"
    (tmp_path / "records" / "stage.json").write_text('{"made_')
    assert ended(start(stage, code="second")) == (0, "run\n")


def test_what_the_user_forces_is_made_again(start, monkeypatch):
    monkeypatch.delenv("GSM8K_GRPO_FORCED", raising=False)
    for forced, said in (("", "run\n"), ("other", "taken over"), ("also made", "run\n"), ("*", "run\n")):
        monkeypatch.setenv("GSM8K_GRPO_FORCED", forced)
        assert ended(start("echo run; touch made 'also made'"))[1].startswith(said)


def test_a_success_keeps_the_mark_of_an_earlier_failure_with_which_the_rule_was_planned(start, tmp_path):
    ended(start("exit 1"))
    mark = (tmp_path / "failures" / "stage").read_text()
    assert ended(start("touch made 'also made'"))[0] == 0
    assert (tmp_path / "failures" / "stage").read_text() == mark
    assert [path.name for path in (tmp_path / "failures").iterdir()] == ["stage"]


def test_a_killed_runner_leaves_a_mark(start, tmp_path):
    process = start("sleep 30")
    while not (tmp_path / "stage.log").exists():
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert (tmp_path / "failures" / "stage").read_text().strip().isdecimal()


SAVES = "trap 'echo saving; sleep 0.3; echo saved; exit 143' TERM INT; echo begun; while true; do sleep 0.05; done"


@pytest.mark.parametrize(
    ("number", "to_group"),
    [(signal.SIGTERM, True), (signal.SIGTERM, False), (signal.SIGINT, True)],
    ids=["preempted", "runner alone", "Ctrl-C"],
)
def test_the_log_outlives_a_signal_to_a_stage_that_still_saves(start, tmp_path, number, to_group):
    process, log = start(SAVES), tmp_path / "stage.log"
    while not (log.exists() and "begun" in log.read_text()):
        time.sleep(0.01)
    if to_group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    status, printed = ended(process)
    assert status == 143 and printed.endswith("saved\n") and log.read_text() == printed


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 64 KiB; only root can make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.getuid() or subprocess.run(mount, stderr=subprocess.DEVNULL).returncode:
        pytest.skip("needs root, to mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_full_disk_the_failure_is_marked_and_the_outputs_of_before_stay(start, small_disk):
    for name in ("made", "also made"):
        (small_disk / name).write_text("old")
    fill = "cat /dev/zero > filling 2>/dev/null; echo full; exit 1"
    status, _ = ended(start(fill, small_disk))
    assert status == 1 and (small_disk / "made").read_text() == "old"
    assert (small_disk / "failures" / "stage").exists()
    # A second failure while the disk is full from the beginning: its mark may be empty, but it is another one.
    first = (small_disk / "failures" / "stage").stat().st_mtime_ns
    status, printed = ended(start("echo again", small_disk))
    assert status == 1 and "Traceback" not in printed and "free some space" in printed
    mark = small_disk / "failures" / "stage"
    assert mark.exists() and mark.stat().st_mtime_ns != first
