"""What the tests of this folder share: quick compilation, a mesh, a tokenizer."""

import jax
import pytest

from gsm8k_grpo.models import tokenizers
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.models.tokenizer_training import train_tokenizer
from small_gemma import PROMPTS
from small_models import ARCHITECTURE


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Compiles without most optimizations, and puts small programs into the shared cache too.

    Nearly all of these tests' time is compilation.
    """
    quick = {"jax_disable_most_optimizations": True, "jax_persistent_cache_min_compile_time_secs": 0.0}
    before = {name: jax.config.values[name] for name in quick}
    for name, value in quick.items():
        jax.config.update(name, value)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="session")
def mesh():
    return make_mesh(1, 1)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    path.write_bytes(train_tokenizer(PROMPTS * 20, ARCHITECTURE["vocabulary_size"]))
    return tokenizers.load_tokenizer(path)
