"""The small run's GGUF file: made by its rule, asked beside the models, compared on dev rows."""

import re
import shutil
import subprocess
import sys

import pytest

from gsm8k_grpo.common import llama_environment
from small_run import fails, read, snakemake

QUESTION = "Tom has 3 balls, buys 4. How many balls now?"


def test_without_llama_cpp_asking_it_says_what_to_run(finished):
    said = fails(finished, "scripts/ask.py", "--gguf", "model.gguf", QUESTION)
    assert said == (
        f"ERROR: {finished}/.venv-gguf: llama.cpp has an environment of its own, not set up yet: make setup-gguf"
    )


@pytest.mark.slow
def test_the_file_is_made_of_the_export_and_llama_cpp_answers_beside_the_models(finished, exported, tmp_path):
    if not (llama_environment.ENVIRONMENT / ".ready").exists():
        pytest.skip("needs `make setup-gguf`")
    folder = shutil.copytree(finished, tmp_path / "project", symlinks=True)
    (folder / ".venv-gguf").symlink_to(llama_environment.ENVIRONMENT)
    file = "results/tiny/export-gguf/model.gguf"
    status, printed = snakemake(folder, file)
    assert status == 0, printed
    manifest = read(folder / "results/tiny/export-gguf/export.json")
    assert manifest["gguf"]["type"] == "f32" and manifest["files"].keys() == {"model.gguf", "NOTICE"}
    assert manifest["checkpoint"] == read(exported / "export.json")["checkpoint"]
    assert "Nothing to be done" in snakemake(folder, file)[1]

    def run(*command):
        done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    asked = run("scripts/ask.py", "--gguf", file, QUESTION)
    assert re.match(r"base model +│ tiny, final \(step 4\) +│ model.gguf \(llama.cpp\)", asked)
    compared = run("benchmarks/gguf_answers.py", "--rows", "8")
    assert compared.startswith(f"8 dev rows of tiny; {file}, llama-cpp-python ")
    assert "  8 prompts have the same tokens by llama.cpp's own tokenizer\n" in compared
    assert "  8 completions are the same, token for token\n" in compared
    said = fails(folder, "scripts/ask.py", "--gguf", "results/tiny/export-gguf/NOTICE", QUESTION)
    assert "export-gguf/NOTICE: llama.cpp: " in said
