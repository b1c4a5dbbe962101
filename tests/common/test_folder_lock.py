"""Two processes that want one folder: the second waits, says for whom, and goes on when the first is gone."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from gsm8k_grpo.common import folder_lock
from gsm8k_grpo.common.layout import ROOT

ENTER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from gsm8k_grpo.common.folder_lock import only_process
with only_process(Path(sys.argv[1])):
    print("inside", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def enter(tmp_path):
    """Starts a process that stays in the folder until its standard input ends."""
    started = []

    def enter():
        command = [sys.executable, "-c", ENTER, str(tmp_path / "run"), str(ROOT / "scripts")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, **pipes))
        return started[-1]

    yield enter
    for process in started:
        process.kill()
        process.communicate()


def test_the_second_process_names_the_first_and_goes_on_when_it_is_killed(enter, tmp_path):
    first = enter()
    assert first.stdout.readline() == "inside\n"
    second = enter()
    said = second.stdout.readline()
    assert f"{tmp_path}/run: process {first.pid} on {socket.gethostname()}, which began 20" in said
    first.send_signal(signal.SIGKILL)
    assert second.stdout.readline() == f"{tmp_path}/run: it has ended\n"
    assert second.stdout.readline() == "inside\n"
    assert json.loads((tmp_path / "run" / "lock").read_text())["pid"] == second.pid


@pytest.mark.parametrize("left", [json.dumps({"pid": 1, "host": "gone", "since": "2020"}), "", "torn {"])
def test_what_a_dead_process_left_holds_nobody_up(tmp_path, capsys, left):
    (tmp_path / "lock").write_text(left)
    for _ in range(2):
        with folder_lock.only_process(tmp_path):
            assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert capsys.readouterr().out == ""


def test_a_process_that_has_not_said_who_it_is_is_waited_for_too(enter, tmp_path):
    first = enter()
    assert first.stdout.readline() == "inside\n"
    (tmp_path / "run" / "lock").write_text("")
    second = enter()
    assert "run: another process works in this folder; waiting" in second.stdout.readline()
    first.communicate()
    assert second.stdout.readline().endswith("it has ended\n") and second.stdout.readline() == "inside\n"
