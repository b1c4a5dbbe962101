"""Which source files a stage depends on, and that what needs no JAX does not import it."""

import ast
import json
import subprocess
import sys
from unittest import mock

import pytest

from gsm8k_grpo.common import source_hash

# Modules that import JAX.
COMPUTING = {"models/building", "models/base_model", "generation/sampler", "grpo/learner"}
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
    files = set(source_hash.source_files(entry))
    library = {name.replace(".", "/") for name in modules if name.count(".") == 2 and name.startswith("gsm8k_grpo.")}
    types_of_settings = {name.replace(".", "/") for name in loaded(root, "import gsm8k_grpo.config.schema")}
    assert "jax" not in modules and len(library) > 4
    assert {f"scripts/{name}.py" for name in library - types_of_settings} <= files
    assert not {f"scripts/gsm8k_grpo/{name}.py" for name in COMPUTING} & files


@pytest.mark.parametrize("entry", ["train", "evaluate", "grade"])
def test_a_stage_starts_no_jax_before_it_knows_that_it_must_compute(root, entry):
    assert "jax" not in loaded(root, f"runpy.run_path('scripts/{entry}.py', run_name='imported')")


def test_training_does_not_depend_on_how_it_is_evaluated():
    assert not [name for name in source_hash.source_files("train") if "/evaluation/" in name or "/report/" in name]


def test_the_types_of_settings_and_the_rewards_that_they_name_rerun_no_other_stage():
    files = {entry: " ".join(source_hash.source_files(entry)) for entry in ("download", "evaluate", "train")}
    assert not any("config/schema.py" in names or "config/blocks_" in names for names in files.values())
    assert [entry for entry, names in files.items() if "rewards/published.py" in names] == ["train"]


def test_training_depends_on_the_modules_that_compute():
    files = source_hash.source_files("train")
    assert files[0] == "scripts/train.py" and len(set(files)) == len(files)
    expected = (*COMPUTING, "rewards/published", "rewards/answers")
    assert {f"scripts/gsm8k_grpo/{name}.py" for name in expected} <= set(files)


def test_the_report_depends_on_its_templates_and_the_export_on_its_own(root):
    templates = "scripts/gsm8k_grpo/report"
    page, export = (set(source_hash.source_files(entry)) for entry in ("report", "export"))
    assert {f"{templates}/templates/report.html.j2", f"{templates}/templates/vendor/uPlot.min.js"} <= page
    assert f"{templates}/artifacts.schema.yaml" in page and f"{templates}/templates/report.css" not in export
    assert {f"{templates}/model_card_template/model_card.md.j2"} <= export
    assert any("chat_templates" in name for name in export)


def test_every_data_file_of_the_library_belongs_to_a_stage(root):
    """A module names its data files as `Path(__file__).parent / "NAME"` or `Path(__file__).with_name("NAME")`."""
    used = {name for path in (root / "scripts").glob("*.py") for name in source_hash.source_files(path.stem)}
    library = root / "scripts" / "gsm8k_grpo"
    files = [path for path in library.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert {path.relative_to(root).as_posix() for path in files if path.suffix != ".py"} <= used


@pytest.mark.parametrize(
    ("edit", "counts"),
    [
        (lambda text: text + "\n# A comment.\n", False),
        (lambda text: text.replace('"""', '"""More of a docstring. ', 1), False),
        (lambda text: text.replace("\n\n\n", "\n\n\n\n"), False),
        (lambda text: text + "\nX = 1\n", True),
        (lambda text: text.replace("def main", "def other", 1), True),
    ],
    ids=["comment", "docstring", "white space", "statement", "name"],
)
def test_the_hash_changes_with_what_code_means_alone(root, tmp_path, edit, counts):
    text = (root / "scripts" / "best.py").read_text(encoding="utf-8")
    before, after = tmp_path / "before.py", tmp_path / "after.py"
    before.write_text(text)
    after.write_text(edit(text))
    assert (source_hash._meaning(before) != source_hash._meaning(after)) == counts


def test_what_is_kept_of_a_file_counts_for_its_contents_alone_and_undamaged(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "pycache_prefix", None)
    path, parse = tmp_path / "module.py", mock.Mock(wraps=ast.parse)
    monkeypatch.setattr(ast, "parse", parse)

    def read():
        source_hash._imports_and_meaning.cache_clear()
        return source_hash._imports_and_meaning(path)

    path.write_text("from gsm8k_grpo import first\n")
    first = read()
    assert first[0] == ["gsm8k_grpo", "gsm8k_grpo.first"] and read() == first and parse.call_count == 1
    (kept,) = (tmp_path / "__pycache__").iterdir()
    whole = kept.read_bytes()
    for damaged in (whole.replace(b".first", b".other"), whole[:-1], whole[:70], b"", b"\xff" + whole):
        kept.write_bytes(damaged)
        assert read() == first and kept.read_bytes() == whole
    path.write_text("from gsm8k_grpo import other\n")
    assert read()[0] == ["gsm8k_grpo", "gsm8k_grpo.other"]


def test_loading_the_workflow_does_not_import_jax(root):
    lines = (root / "rules" / "common.smk").read_text(encoding="utf-8").splitlines()
    modules = loaded(root, "\n".join(line for line in lines if line.startswith("from gsm8k_grpo")))
    assert "gsm8k_grpo.grpo.kept_checkpoints" in modules
    assert not {"jax", "flax", "tunix", "orbax"} & modules


ORDER = ("internals", "common", "rewards", "models", "data", "config", "generation", "grpo", "evaluation")
ORDER += ("huggingface", "preflight", "report")


def test_imports_among_packages_point_one_way_and_every_init_is_empty(root):
    library = root / "scripts" / "gsm8k_grpo"
    assert {path.name for path in library.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(ORDER)
    for path in library.rglob("*.py"):
        if path.name == "__init__.py":
            assert not path.read_text()
            continue
        package = path.relative_to(library).parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gsm8k_grpo."):
                other = node.module.split(".")[1]
                assert ORDER.index(other) <= ORDER.index(package), f"{path}, line {node.lineno}: imports {other}"
