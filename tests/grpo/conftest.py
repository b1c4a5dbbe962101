"""What the tests of this folder share: a mesh, a tokenizer."""

import pytest

from gsm8k_grpo.models import tokenizers
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.models.tokenizer_training import train_tokenizer
from small_gemma import PROMPTS
from small_models import ARCHITECTURE


@pytest.fixture(scope="session")
def mesh():
    return make_mesh(1, 1)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(train_tokenizer(PROMPTS * 20, ARCHITECTURE["vocabulary_size"]))
    return tokenizers.load_tokenizer(path)
