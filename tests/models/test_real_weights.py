"""Published weights and tokenizers compute what Hugging Face's implementation computes, on GSM8K's own questions.

The weights are too large for the repository, and no hub is asked. These tests run where `GSM8K_GRPO_REAL_MODELS` names
a folder that holds them, as Hugging Face folders, and PyTorch is installed (`make parity`). A model takes 4 GiB.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from gsm8k_grpo.data.prompts import build_prompt
from gsm8k_grpo.generation.cache_length import cache_tokens
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.huggingface.published_model import read_model
from gsm8k_grpo.models.families import family_of
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.models.tokenizers import load_tokenizer, stop_ids, with_bos
from small_models import completed

pytestmark = [pytest.mark.parity, pytest.mark.slow]
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from logits import our_logits, with_weights  # noqa: E402

FOLDER = os.environ.get("GSM8K_GRPO_REAL_MODELS")
MODELS = {"gemma3-270m": "gemma3_270m", "qwen2.5-coder-0.5b-instruct": "qwen2.5_0.5b"}
QUESTIONS = (
    "A baker bakes 4 trays of 12 rolls. He sells half of them, then 9 more. How many rolls are left?",
    "Tickets cost $1,250.50 for 25 people — how much is that for each of them?",
)
COMPLETION_TOKENS = 24
TOLERANCE = 2e-3  # of float32 logits that reach 30, after 18 to 24 layers that add in another order


@pytest.fixture(scope="module", params=MODELS)
def folder(request):
    folder = FOLDER and Path(FOLDER) / request.param
    if not folder or not folder.is_dir():
        pytest.skip(f"needs the weights of {request.param}: name the folder that holds them in GSM8K_GRPO_REAL_MODELS")
    return folder


@pytest.fixture(scope="module")
def theirs(folder):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


@pytest.fixture(scope="module")
def read(folder):
    """(our model, its tokenizer, the prompts)."""
    architecture = MODELS[folder.name]
    weights, file = read_model(folder, architecture)
    template = family_of(architecture).template
    prompts = [build_prompt("Show your work.", question, template) for question in QUESTIONS]
    return with_weights(weights, architecture), load_tokenizer(file, template), prompts


def ids_of(tokenizer, prompt):
    return with_bos(tokenizer, tokenizer.encode(prompt))


def test_a_prompt_has_the_published_tokenizers_ids(folder, read):
    _, tokenizer, prompts = read
    published = transformers.AutoTokenizer.from_pretrained(folder)
    begins = [published.bos_token_id] if family_of(MODELS[folder.name]).template.bos else []
    for prompt in prompts:
        assert ids_of(tokenizer, prompt) == begins + published.encode(prompt, add_special_tokens=False)


def test_logits(theirs, read):
    model, tokenizer, prompts = read
    for prompt in prompts:
        ids = np.array([ids_of(tokenizer, prompt)], np.int32)
        with torch.no_grad():
            expected = theirs(input_ids=torch.tensor(ids)).logits.float().numpy()
        found = our_logits(model, ids)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
        assert (found.argmax(-1) == expected.argmax(-1)).all()


def test_greedy_completions(folder, theirs, read):
    model, tokenizer, prompts = read
    stops, mesh = stop_ids(tokenizer, family_of(MODELS[folder.name]).template), make_mesh(1, 1)
    longest = max(len(ids_of(tokenizer, prompt)) for prompt in prompts)
    sampler = Sampler(model, tokenizer, cache_tokens(longest, COMPLETION_TOKENS), mesh)
    found = completed(sampler, prompts, len(prompts), longest, COMPLETION_TOKENS, stops, mesh)
    for index, prompt in enumerate(prompts):
        ids = ids_of(tokenizer, prompt)
        with torch.no_grad():
            output = theirs.generate(
                torch.tensor([ids]), do_sample=False, max_new_tokens=COMPLETION_TOKENS, eos_token_id=list(stops)
            )[0].tolist()
        completion = output[len(ids) :]
        expected = completion[:-1] if completion[-1] in stops else completion
        assert found[index, 0].text == tokenizer.decode(expected)
