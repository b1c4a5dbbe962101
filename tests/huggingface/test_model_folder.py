"""The folder of an export: which folders it may use, what it leaves there, and the files that it adds."""

import json

import pytest

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.data import word_problems
from gsm8k_grpo.data.prompts import build_prompt
from gsm8k_grpo.huggingface import export, model_folder, published_model
from gsm8k_grpo.huggingface.model_folder import TEMPLATES, write_model_files
from gsm8k_grpo.models import families, tokenizers
from gsm8k_grpo.models.tokenizer_training import train_tokenizer


def written(folder, *names):
    """A folder with these files; each contains its name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def finish(output, *names):
    files.write_json(output / "export.json", {"files": dict.fromkeys(names, "")})
    (output / export.REPLACING).unlink()


def test_an_export_replaces_the_earlier_one_and_leaves_other_files(tmp_path):
    output, first, second = tmp_path / "out", ("a.json", "adapter/b", "base/c"), ("a.json", "adapter/d")
    assert export.earlier_files(output) == set()
    export.replace_files(output, set(), written(tmp_path / "1", *first), first)
    finish(output, *first)
    written(output, ".git/HEAD", "notes.md", "adapter/mine.txt")
    assert export.earlier_files(output) == set(first)
    export.replace_files(output, set(first), written(tmp_path / "2", *second), second)
    finish(output, *second)
    assert below(output) == {*second, "export.json", ".git/HEAD", "notes.md", "adapter/mine.txt"}
    assert not (output / "base").exists()


def test_an_export_that_was_killed_among_the_renames_is_replaced(tmp_path):
    output, first, second = tmp_path / "out", ("a", "base/c"), ("a", "d")
    export.replace_files(output, set(), written(tmp_path / "1", *first), first)
    finish(output, *first)
    making = written(tmp_path / "2", "a")  # the second file is missing, as if the export was killed here
    with pytest.raises(FileNotFoundError):
        export.replace_files(output, set(first), making, second)
    assert not (output / "export.json").exists()
    known = export.earlier_files(output)
    assert known == {*first, *second}
    export.replace_files(output, known, written(tmp_path / "3", *second), second)
    finish(output, *second)
    assert below(output) == {*second, "export.json"}


def test_a_folder_with_other_files_is_refused_and_stays(tmp_path):
    written(tmp_path, "config.json", "precious/model.safetensors")
    with pytest.raises(PipelineError, match=r"has other files \(config.json\) and is not the folder of an export"):
        export.earlier_files(tmp_path)


@pytest.mark.parametrize("name", ["gemma2", "qwen2"])
@pytest.mark.parametrize("beside", [{}, {"tokenizer_config.json": {"tokenizer_class": "theirs"}}])
def test_a_base_without_a_chat_template_is_exported_with_the_one_of_our_prompts(name, beside, tmp_path):
    template = families.FAMILIES[name].template
    published, model, folder = tmp_path / "published", tmp_path / "model", tmp_path / "export"
    published.mkdir(), model.mkdir(), folder.mkdir()
    rows, _ = word_problems.generate_problems(seed=0, train_rows=200, test_rows=0)
    texts = [build_prompt("Reason.", row["question"], template) for row in rows]
    (model / "tokenizer.model").write_bytes(train_tokenizer(texts, 600, name))
    for file, content in {"config.json": {"model_type": name}, **beside}.items():
        (published / file).write_text(json.dumps(content))
    published_model.copy_published(published, model / "published")
    evaluation = {"temperature": 0, "top_k": None, "top_p": 1.0, "max_completion_tokens": 7}
    architecture = {"family": name, "vocabulary_size": 600}
    write_model_files(folder, model, {"architecture": architecture, "dtype": "float32"}, evaluation)
    assert (folder / "chat_template.jinja").read_text() == (TEMPLATES / f"{template.name}.jinja").read_text()
    if beside:
        assert files.read_json(folder / "tokenizer_config.json") == beside["tokenizer_config.json"]
    else:
        import transformers

        theirs = transformers.AutoTokenizer.from_pretrained(folder)
        ids = theirs.apply_chat_template([{"role": "user", "content": "1 + 1?"}], add_generation_prompt=True)
        ours = tokenizers.load_tokenizer(model / "tokenizer.model", template)
        assert ids["input_ids"] == tokenizers.with_bos(ours, ours.encode(build_prompt("", "1 + 1?", template)))


def test_a_chat_template_is_found_in_its_file_and_in_the_tokenizers_configuration(tmp_path):
    assert not model_folder._has_chat_template(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "theirs"}')
    assert model_folder._has_chat_template(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert not model_folder._has_chat_template(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("theirs")
    assert model_folder._has_chat_template(tmp_path)


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ({"source": "kaggle", "handle": "google/gemma-2/flax/gemma2-2b-it"}, "google/gemma-2-2b-it"),
        ({"source": "kaggle", "handle": "someone/gemma-2/flax/gemma2-2b-it"}, None),
        ({"source": "kaggle", "handle": "google/gemma/flax/2b-it"}, None),
        ({"source": "huggingface", "handle": "Qwen/Qwen2.5-0.5B-Instruct"}, "Qwen/Qwen2.5-0.5B-Instruct"),
        ({"source": "local", "path": "/models/gemma"}, "/models/gemma"),
        ({"source": "pretrained", "seed": 0, "rows": 3}, None),
    ],
)
def test_the_adapters_name_their_base(origin, expected):
    assert export.base_name(origin) == expected
