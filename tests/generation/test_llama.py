"""Greedy completions by llama.cpp: the choice of tokens, and what passes to and from its process."""

import json

import numpy as np
import pytest

from gsm8k_grpo.common import llama_environment
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.generation.llama import Llama
from gsm8k_grpo.generation.llama_worker import complete_greedily
from script_environment import make_environment
from small_models import Numbers

STOPS, PAD = (7, 9), 0


def completed(logits, limit):
    """A completion by a model that says `logits`, a row after the other; and what it was asked."""
    asked, rows = [], iter(logits)

    def next_logits(tokens):
        asked.append([*tokens])
        return np.array(next(rows))

    return *complete_greedily(next_logits, [2, 4], STOPS, PAD, limit), asked


def test_the_likeliest_token_follows_until_a_stop_token_and_padding_never_does():
    logits = np.zeros((3, 10))
    logits[0, [PAD, 4, 5]] = 9, 1.5, 2
    logits[1, 6] = 1
    logits[2, 7] = 3
    tokens, margins, asked = completed(logits, 5)
    assert tokens == [5, 6, 7] and margins == [0.5, 1, 3]
    assert asked == [[2, 4], [5], [6]]


def test_the_limit_cuts_a_completion_off():
    assert completed(np.eye(10)[[5, 6, 7]], 2)[0] == [5, 6]


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Starts llama.cpp's process, which is a shell script here."""
    monkeypatch.setattr(llama_environment, "ENVIRONMENT", tmp_path / "environment")
    (tmp_path / "model.gguf").touch()

    def with_script(script):
        make_environment(tmp_path / "environment", script)
        return Llama(tmp_path / "model.gguf", Numbers(), STOPS, 16, 4)

    return with_script


@pytest.mark.parametrize(("tokens", "text", "truncated"), [([5, 6, 9], "5 6", False), ([5, 6], "5 6", True)])
def test_llama_gets_our_tokens_with_one_bos_and_its_tokens_are_read_by_our_tokenizer(
    start, tmp_path, tokens, text, truncated
):
    answer = json.dumps({"tokens": tokens, "margins": [1.0] * len(tokens), "own_prompt": [2, 4, 5]})
    llama = start(f"echo '{{}}'; read line; echo \"$line\" >{tmp_path}/request; echo '{answer}'")
    found = llama.complete("4 5")
    assert (found.text, found.tokens, found.truncated, found.same_prompt) == (text, tokens, truncated, True)
    request = json.loads((tmp_path / "request").read_text())
    assert request == {"text": "4 5", "prompt": [2, 4, 5], "stop_ids": [7, 9], "never": PAD, "limit_tokens": 4}
    llama.close()


def test_what_llama_cpp_says_or_how_it_ends_is_one_sentence(start):
    with pytest.raises(PipelineError, match=r"model.gguf: llama.cpp: invalid magic; snakemake .*model.gguf makes one"):
        start("""echo '{"fault": "invalid magic"}'""")


def test_a_process_that_ends_is_told_with_its_status(start):
    llama = start("echo '{}'; exit 3")
    with pytest.raises(PipelineError, match=r"its process ended, status 3"):
        llama.complete("4 5")


def test_without_its_environment_or_a_file_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(llama_environment, "ENVIRONMENT", tmp_path / "environment")
    with pytest.raises(PipelineError, match=r"environment of its own, not set up yet: make setup-gguf"):
        llama_environment.require_file(tmp_path / "model.gguf")
    make_environment(tmp_path / "environment", "")
    with pytest.raises(PipelineError, match=r"model.gguf: no such file; snakemake --cores 1 .*model.gguf makes one"):
        llama_environment.require_file(tmp_path / "model.gguf")
