"""The export as a GGUF file: llama.cpp's converter and llama.cpp itself, on small models of each family."""

import json
import shutil

import numpy as np
import pytest

from gsm8k_grpo.common import files, llama_environment
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data.prompts import build_prompt
from gsm8k_grpo.generation.cache_length import cache_tokens
from gsm8k_grpo.generation.llama import Llama
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.huggingface import export, gguf_export, weight_reading
from gsm8k_grpo.huggingface.model_folder import write_model_files
from gsm8k_grpo.internals.llama_internals import splits_by
from gsm8k_grpo.models import building, storage, tokenizers
from gsm8k_grpo.models.families import FAMILIES
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.models.tokenizer_training import train_tokenizer
from published_models import SIZES, random_weights, write_folder
from script_environment import make_environment
from small_models import QUESTIONS

ROOM, LIMIT = 120, 24


@pytest.fixture
def made_export(tmp_path):
    """An export that is finished, by its manifest."""

    def write(making):
        (making / "config.json").write_text("{}")
        return {"recipe": "one", "dtype": "bfloat16", "adapter_base": "b"}

    export.replace_export(tmp_path / "export", write)
    return tmp_path / "export"


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """The folder of llama.cpp's environment; it is not there yet."""
    monkeypatch.setattr(llama_environment, "ENVIRONMENT", tmp_path / "environment")
    return tmp_path / "environment"


def test_the_weights_keep_their_type_and_the_manifest_says_of_what_it_is(made_export, environment, tmp_path):
    make_environment(environment, f'echo "$@" >{tmp_path}/asked; touch {tmp_path}/model.gguf')
    manifest = gguf_export.write_gguf(tmp_path, made_export)
    assert manifest == {"recipe": "one", "dtype": "bfloat16", "gguf": {"type": "bf16", "versions": {}}}
    asked = (tmp_path / "asked").read_text().split()
    assert asked[-5:] == [str(made_export), "--outfile", str(tmp_path / "model.gguf"), "--outtype", "bf16"]


def test_what_cannot_be_converted_is_said_in_one_sentence(made_export, environment, tmp_path):
    def fault(kind=PipelineError):
        with pytest.raises(kind) as error:
            gguf_export.write_gguf(tmp_path, made_export)
        return str(error.value)

    assert fault().endswith("not set up yet: make setup-gguf")
    make_environment(environment, "echo much; echo Model X is not supported; exit 1")
    assert "cannot convert it (Model X is not supported); the lines above are its own" in fault()
    shutil.rmtree(environment)
    make_environment(environment, "echo 'OSError: [Errno 28] No space left on device'; exit 1")
    assert fault(OSError) == f"[Errno 28] No space left on device: '{tmp_path / 'model.gguf'}'"
    (made_export / "config.json").write_text("{ }")
    assert "config.json: is missing or was changed after the export" in fault()


def test_a_miniatures_tokenizer_is_known_by_how_it_splits(tmp_path):
    content = json.loads(train_tokenizer(["Tom has 3 balls."] * 9, 300, "qwen2"))
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert splits_by(FAMILIES["qwen2"].tokenizer.word_pattern, tmp_path)
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\w+"
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert not splits_by(FAMILIES["qwen2"].tokenizer.word_pattern, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_llama_cpp_reads_the_same_prompts_and_gives_the_same_greedy_tokens(name, tmp_path):
    if not (llama_environment.ENVIRONMENT / ".ready").exists():
        pytest.skip("needs `make setup-gguf`")
    architecture, template = SIZES[name], FAMILIES[name].template
    published, model = write_folder(tmp_path / "published", name, random_weights(name, 0.3)), tmp_path / "model"
    model.mkdir()
    (published / FAMILIES[name].tokenizer.files[0]).rename(model / "tokenizer.model")

    def write(making):
        (published / "model.safetensors").rename(making / "model.safetensors")
        decoding = {"temperature": 0.0, "top_k": None, "top_p": 1.0, "max_completion_tokens": LIMIT}
        write_model_files(making, model, {"architecture": architecture, "dtype": "float32"}, decoding)
        return {"recipe": name, "dtype": "float32"}

    export.replace_export(tmp_path / "export", write)
    gguf_export.write_gguf(tmp_path, tmp_path / "export")

    tokenizer = tokenizers.load_tokenizer(model / "tokenizer.model", template)
    stops, mesh = tokenizers.stop_ids(tokenizer, template), make_mesh(1, 1)
    arrays = storage.leaves(weight_reading.read_huggingface(tmp_path / "export", architecture))
    policy = storage.place(arrays, building.tunix_config(architecture), mesh, np.dtype("float32"))
    prompts = [build_prompt("Reason, then answer.", question, template) for question in QUESTIONS]
    sampler = Sampler(policy, tokenizer, cache_tokens(ROOM, LIMIT), mesh)
    with mesh:
        ours = sampler(prompts, LIMIT, ROOM, list(stops))
    llama = Llama(tmp_path / gguf_export.FILE, tokenizer, stops, ROOM, LIMIT)
    theirs = [llama.complete(prompt) for prompt in prompts]
    llama.close()
    assert all(each.same_prompt for each in theirs)
    assert [each.text for each in theirs] == ours.text
    assert [each.tokens for each in theirs] == [tokens.tolist() for tokens in ours.tokens]
    assert len({tuple(each.tokens) for each in theirs}) > 1 and files.sha256_file(tmp_path / gguf_export.FILE)
