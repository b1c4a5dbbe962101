"""Rewards of a user's own: their names, the checks that do not run them, and the message of each fault."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.rewards import custom, custom_process, scoring
from gsm8k_grpo.rewards.answers import Tags

ROWS = [{"id": f"train-{index}", "prompt": f"{index}?", "answer": str(index)} for index in range(3)]
TEXTS = ["one", "two words", "three words here"]
TAGS = Tags("<r>", "</r>", "<a>", "</a>")


@pytest.fixture
def own(tmp_path):
    """Writes mine.py with a function f and scores TEXTS with it."""

    def make(body, head="def f(prompts, completions, answers):\n    "):
        (tmp_path / "mine.py").write_text(head + body + "\n")
        return custom_process.score("mine.py:f", ROWS, TEXTS, tmp_path, 60)

    return make


@pytest.mark.parametrize(
    ("names", "built_in", "fault"),
    [
        (["mine.py:f", "./mine.py:g", "answer"], ["answer"], None),
        (["mine.py:f", "other.py:f"], [], "other.py:f: f is already the name of mine.py:f; rename the function"),
        (["mine.py:f", "./mine.py:f"], [], "./mine.py:f: f is already the name of mine.py:f; rename the function"),
        (["mine.py:f"], ["f"], "mine.py:f: f is already the name of a reward of this project; rename the function"),
        (
            ["mine.py:std"],
            [],
            "mine.py:std: std is already the name of the column reward_std of something else; rename",
        ),
        (["mine.py:overlong"], [], "mine.py:overlong: overlong is already the name of the column reward_overlong of"),
        (["mine.py:h"], [], "mine.py:h: mine.py has no `def h`; it has f, g"),
        (["mine.py:inner"], [], "mine.py:inner: mine.py has no `def inner`; it has f, g"),
        (["mine.py:value"], [], "mine.py:value: mine.py has no `def value`; it has f, g"),
        (["empty.py:f"], [], "empty.py:f: empty.py has no `def f`; it has no function at all"),
        (["no.py:f"], [], "no.py:f: {root}/no.py: no such file or directory; write its path relative to the project"),
        (["folder.py:f"], [], "folder.py:f: {root}/folder.py: is a directory; write its path relative to the project"),
        (["bad.py:f"], [], "bad.py:f: bad.py, line 2: not valid Python ("),
        (["bytes.py:f"], [], "bytes.py:f: bytes.py, line 1: not valid Python ("),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) and value else "",
)
def test_faults_are_seen_without_running_the_file(tmp_path, names, built_in, fault):
    source = "raise SystemExit('run')\ndef f():\n    def inner(): ...\ndef g(): ...\nvalue = 3\ndef std(): ...\n"
    for name, text in (("mine", source), ("other", source), ("empty", ""), ("bad", "x = 1\ndef f(\n")):
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "bytes.py").write_bytes(b"def f(): return '\xff'\n")
    (tmp_path / "folder.py").mkdir()
    found = custom.find_fault(names, built_in, tmp_path)
    assert found is None if fault is None else found.startswith(fault.format(root=tmp_path)), found


def test_the_files_of_rewards_are_named_once_and_hashed(tmp_path):
    (tmp_path / "mine.py").write_bytes(b"x")
    names = ["answer", "./mine.py:f", "mine.py:g"]
    assert custom.reward_files(names) == ["mine.py"]
    assert custom.file_hashes(names, tmp_path) == {"mine.py": hashlib.sha256(b"x").hexdigest()}
    assert custom.file_hashes(["answer"], tmp_path) == {}
    with pytest.raises(PipelineError, match=r"no\.py: no such file"):
        custom.file_hashes(["no.py:f"], tmp_path)


@pytest.mark.parametrize(
    ("body", "values"),
    [
        ("return [len(text) for text in completions]", [3.0, 9.0, 16.0]),
        ("return [float(answer) / 2 for answer in answers]", [0.0, 0.5, 1.0]),
        ("return tuple(prompt == '1?' for prompt in prompts)", [0.0, 1.0, 0.0]),
        ("import numpy; return numpy.arange(3, dtype=numpy.float32)", [0.0, 1.0, 2.0]),
        ("import numpy; return [numpy.float32(0.5), numpy.int64(1), 2]", [0.5, 1.0, 2.0]),
        ("import numpy; return [numpy.True_, numpy.array(0.1), False]", [1.0, 0.1, 0.0]),
        ("import jax.numpy; return list(jax.numpy.arange(3))", [0.0, 1.0, 2.0]),
        ("from fractions import Fraction; return [Fraction(1, 2)] * 3", [0.5] * 3),
    ],
)
def test_it_gets_prompts_completions_and_answers_and_returns_numbers(own, body, values):
    found = own(body)
    assert found == values and all(type(value) is float for value in found)


def test_it_may_take_other_arguments_that_have_defaults_or_all_by_name(own):
    assert own("return [weight] * len(completions)", "def f(completions, weight=2, **others):\n    ") == [2.0] * 3


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (
            "return [1.0, 2.0]",
            "returned 2 numbers for the 3 completions of the rows train-0 to train-2; it must return",
        ),
        ("return []", "returned 0 numbers for the 3 completions"),
        ("return 1.0", "returned float, expected a list of one number a completion"),
        ("return None", "returned NoneType, expected a list"),
        ("return 'abc'", "returned str, expected a list"),
        ("return {0: 1, 1: 2, 2: 3}", "returned dict, expected a list"),
        ("yield 1.0", "returned generator, expected a list"),
        (
            "return [0.0, float('nan'), 1.0]",
            "returned 'nan' for row train-1 (completion 2 of 3: 'two words'); expected",
        ),
        ("return [0.0, 1.0, -float('inf')]", "returned '-inf' for row train-2 (completion 3 of 3: 'three words here')"),
        ("return [None, 1.0, 1.0]", "returned 'None' for row train-0 (completion 1 of 3: 'one'); expected a finite"),
        ("return ['1.0'] * 3", "returned '1.0' for row train-0"),
        ("return [10**400] * 3", "returned '1000000000000000000000000000000000000000' for row train-0"),
        ("return [10**5000] * 3", "returned 'an integer of 16610 bits' for row train-0"),
        ("return [0.0, 1e39, 0.0]", "returned '1e+39' for row train-1 (completion 2 of 3: 'two words'); expected"),
        ("return [1j] * 3", "returned '1j' for row train-0"),
        ("import numpy; return numpy.zeros((3, 1))", "returned '[0.0]' for row train-0"),
        ("import numpy; return numpy.array([1, numpy.nan, 1])", "returned 'nan' for row train-1"),
        ("return [1 / int(answer) for answer in answers]", "raised ZeroDivisionError in line 2: division by zero"),
        ("raise ValueError('two\\nlines')", "raised ValueError in line 2: two lines"),
        ("raise SystemExit", "raised SystemExit in line 2"),
        ("raise KeyboardInterrupt", "raised KeyboardInterrupt in line 2"),
        ("return f(prompts, completions, answers)", "raised RecursionError in line 2: maximum recursion depth"),
        ("return [input()] * 3", "raised EOFError in line 2"),
        (
            "import builtins; builtins.float = None; return [1, 2, 3]",
            "ended its process (status 1) at the 3 completions",
        ),
        ("import os; os.closerange(3, 99); return [1, 2, 3]", "ended its process (status 1) at the 3 completions"),
        ("import os; os._exit(0)", "ended its process (status 0) at the 3 completions of the rows train-0 to train-2"),
        ("import os; os._exit(3)", "ended its process (status 3) at the 3 completions"),
        ("import os; os.abort()", "ended its process (SIGABRT) at the 3 completions"),
        ("import ctypes; ctypes.string_at(0)", "ended its process (SIGSEGV) at the 3 completions"),
        ("import os; os.kill(os.getpid(), 9)", "ended its process (SIGKILL, perhaps because memory ran out) at the 3"),
    ],
)
def test_what_it_returns_or_raises_instead_is_named_with_function_and_row(own, body, fault):
    with pytest.raises(PipelineError) as refused:
        own(body)
    text = str(refused.value)
    assert text.startswith(f"training.rewards: mine.py:f {fault}") and "\n" not in text


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("f = 3", ": expected a function, found int"),
        ("g = 3", ": expected a function, found NoneType"),
        ("\nimport nothing_of_this_name", ": its file raised ModuleNotFoundError in line 2: No module named"),
        ("raise SystemExit(0)", ": its file raised SystemExit in line 1: 0"),
        ("def f(completions): ...", " cannot be called with prompts, completions, answers (got an unexpected keyword"),
        ("def f(texts, /): ...", " cannot be called with prompts, completions, answers ("),
        (
            "def f(prompts, completions, answers, more): ...",
            " cannot be called with prompts, completions, answers (mis",
        ),
    ],
)
def test_a_file_that_does_not_run_or_has_no_such_function_is_named(own, source, fault):
    with pytest.raises(PipelineError) as refused:
        own("", source)
    assert str(refused.value).startswith(f"training.rewards: mine.py:f{fault}")


def test_a_file_runs_once_in_a_module_of_its_own_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "json.py").write_text(
        "from __future__ import annotations\nimport dataclasses, pathlib\n"
        "pathlib.Path(__file__).with_name('runs').open('a').write('.')\n"
        "@dataclasses.dataclass\nclass Kept:\n    words: int\n"
        "def f(completions, **others): return [Kept(2).words] * len(completions)\n"
        "def g(completions, **others): return [1] * len(completions)\n"
    )
    for name, value in (("f", 2.0), ("g", 1.0), ("f", 2.0)):
        assert custom_process.score(f"json.py:{name}", ROWS, TEXTS, tmp_path, 60) == [value] * 3
    assert (tmp_path / "runs").read_text() == "."
    assert sorted(path.name for path in tmp_path.iterdir()) == ["json.py", "runs"]


@pytest.mark.parametrize(
    "body",
    ["while True: pass", "import re; re.match('(a+)+$', 'a' * 50 + 'b')", "import time; time.sleep(600)"],
)
def test_one_that_does_not_end_is_ended_at_its_limit_and_the_next_one_works(own, tmp_path, body):
    fault = (
        r"endless\.py:f took longer than 0\.2 s for the 3 completions of the rows train-0 to train-2, so its process "
    )
    own("return [1, 2, 3]")  # so that the limit is not the start of Python
    (tmp_path / "endless.py").write_text(f"def f(**batch):\n    {body}\n")
    with pytest.raises(PipelineError, match=fault):
        custom_process.score("endless.py:f", ROWS, TEXTS, tmp_path, 0.2)
    assert own("return [1, 2, 3]") == [1.0, 2.0, 3.0]


def test_a_file_that_does_not_end_is_named_before_the_first_batch(tmp_path):
    (tmp_path / "mine.py").write_text("while True: pass\n")
    with pytest.raises(PipelineError, match=r"mine\.py:f took longer than 0\.2 s for the start of its file, so its "):
        custom_process.load("mine.py:f", tmp_path, 0.2)
    (tmp_path / "mine.py").write_text("def f(**batch): return [4, 5, 6]\n")
    custom_process.load("mine.py:f", tmp_path, 60)
    assert custom_process.score("mine.py:f", ROWS, TEXTS, tmp_path, 60) == [4.0, 5.0, 6.0]


def start_stage(root, folder, body):
    """A process that scores one completion with a reward of this body, and prints the result."""
    (folder / "mine.py").write_text(f"def f(**batch):\n    {body}\n")
    row = {"id": "a", "prompt": "", "answer": "1"}
    stage = "import builtins, os, random, sys; sys.path.insert(0, 'scripts'); from pathlib import Path\n"
    stage += "from gsm8k_grpo.rewards import custom_process\n"
    stage += "state = lambda: (sys.path, random.getstate(), os.getcwd(), dict(os.environ), sys.getrecursionlimit())\n"
    stage += f"before = state(); print(custom_process.score('mine.py:f', [{row}], [''], Path({str(folder)!r}), 300))\n"
    stage += "print(state() == before)\n"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-c", stage], cwd=root, **pipes)


def test_what_it_changes_stays_in_its_process_and_what_it_prints_goes_where_the_stage_prints(root, tmp_path):
    body = "import os, random, sys; os.chdir('/'); os.environ['HOME'] = 'x'; sys.path.clear(); random.seed(1)\n    "
    body += "sys.setrecursionlimit(99); print('printed', flush=False); os.write(1, b'written\\n'); return [0.1]"
    printed, _ = start_stage(root, tmp_path, body).communicate(timeout=60)
    assert printed.splitlines() == ["printed", "written", "[0.1]", "True"]


def test_its_process_ends_with_a_stage_that_is_killed(root, tmp_path):
    body = "import re; print('began'); re.match('(a+)+$', 'a' * 50 + 'b')"
    stage = start_stage(root, tmp_path, body)
    assert stage.stdout.readline() == "began\n"
    stage.kill()
    assert stage.stdout.read() == ""  # its end: nobody has the stage's output open any more
    stage.wait()


def test_lists_that_a_function_changes_are_its_own(own):
    given = list(TEXTS)
    assert own("completions.clear(); prompts.clear(); return [0, 0, 0]") == [0.0] * 3
    assert given == TEXTS and [row["prompt"] for row in ROWS] == ["0?", "1?", "2?"]


def test_rewards_of_both_kinds_are_scored_in_order_by_the_functions_name(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "def brief(completions, **others): return [1 / len(text) for text in completions]\n"
    )
    monkeypatch.setattr(scoring, "ROOT", tmp_path)
    scores = scoring.score(["minigrpo", "mine.py:brief", "number"], ROWS, TEXTS, TAGS)
    assert list(scores) == ["minigrpo", "brief", "number"]
    assert np.allclose(scores["brief"], [1 / 3, 1 / 9, 1 / 16])
