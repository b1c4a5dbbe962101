"""Which source files a stage depends on, and that what needs no JAX does not import it."""

import ast
import json
import subprocess
import sys

import pytest

from gsm8k_grpo.common import source_hash

COMPUTING = {"models", "training", "rollout", "pretraining", "base"}  # the modules that import JAX
LOADED = """
import json, runpy, sys
sys.path.insert(0, "scripts")
{statement}
print(json.dumps(sorted(sys.modules)))
"""


def loaded(root, statement):
    """The modules that a fresh Python has loaded after a statement."""
    command = [sys.executable, "-c", LOADED.format(statement=statement)]
    done = subprocess.run(command, cwd=root, check=True, capture_output=True, text=True, timeout=60)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_imports_are_followed_wherever_they_stand_and_round_in_circles(tmp_path, monkeypatch):
    sources = {
        "made_up.py": "import os\nfrom gsm8k_grpo import a, os\nimport made_down\n",
        "made_down.py": "",
        "gsm8k_grpo/a.py": "def later():\n    import gsm8k_grpo.b as b\n",
        "gsm8k_grpo/b.py": "from gsm8k_grpo.c import Thing, gsm8k_grpo\n",
        "gsm8k_grpo/c.py": "from gsm8k_grpo import a, sub\n",
        "gsm8k_grpo/sub/__init__.py": "from gsm8k_grpo.sub.inner import d\n",
        "gsm8k_grpo/sub/inner.py": "# from gsm8k_grpo import unused\n",
        "gsm8k_grpo/unused.py": "",
    }
    for name, text in sources.items():
        path = tmp_path / "scripts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(source_hash, "SCRIPTS", tmp_path / "scripts")
    assert source_hash.source_files("made_up") == (
        "scripts/made_up.py",
        "scripts/gsm8k_grpo/a.py",
        "scripts/gsm8k_grpo/b.py",
        "scripts/gsm8k_grpo/c.py",
        "scripts/gsm8k_grpo/sub/__init__.py",
        "scripts/gsm8k_grpo/sub/inner.py",
    )


def test_the_library_has_no_relative_imports_which_would_not_be_followed(root):
    for path in (root / "scripts").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}, line {node.lineno}"


@pytest.mark.parametrize("entry", ["download", "prompts"])
def test_a_stage_that_does_not_compute_needs_no_jax_and_loads_only_its_files(root, entry):
    modules = loaded(root, f"runpy.run_path('scripts/{entry}.py', run_name='imported')")
    files = source_hash.source_files(entry)
    library = {name for name in modules if name.startswith("gsm8k_grpo.")}
    assert "jax" not in modules and len(library) > 4
    assert {f"scripts/{name.replace('.', '/')}.py" for name in library} <= set(files)
    assert not {f"scripts/gsm8k_grpo/{name}.py" for name in COMPUTING} & set(files)


def test_training_depends_on_the_modules_that_compute():
    files = source_hash.source_files("train")
    assert files[0] == "scripts/train.py" and len(set(files)) == len(files)
    assert {f"scripts/gsm8k_grpo/{name}.py" for name in ("training", "models", "rewards", "answers")} <= set(files)


def test_loading_the_workflow_does_not_import_jax(root):
    modules = loaded(root, "from gsm8k_grpo import checkpoints, code, errors, files, settings")
    assert "gsm8k_grpo.checkpoints" in modules
    assert not {"jax", "flax", "tunix", "orbax"} & modules
