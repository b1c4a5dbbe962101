"""The files beside the weights of a Hugging Face folder: config.json, the tokenizer's, generation_config.json."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.common import files
from gsm8k_grpo.huggingface import config_json
from gsm8k_grpo.models import families, tokenizers
from gsm8k_grpo.models.families import family_of

TEMPLATES = Path(__file__).parent / "chat_templates"


def write_model_files(folder: Path, model_folder: Path, manifest: Mapping, evaluation: Mapping) -> None:
    """Writes the files. A model that was published in this format keeps its own; for others we make them.

    Args:
      folder: where to.
      model_folder: results/models/NAME.
      manifest: its model.json.
      evaluation: the block `evaluation`; it becomes the default of generation, so that users get what we measured.
    """
    published, architecture = model_folder / "published", manifest["architecture"]
    template = family_of(architecture).template
    tokenizer = tokenizers.load_tokenizer(model_folder / "tokenizer.model", template)
    ids = {
        "bos_token_id": tokenizer.bos_id(),
        "eos_token_id": tokenizer.eos_id(),
        "pad_token_id": tokenizer.pad_id(),
    }
    if (published / "config.json").is_file():
        for path in published.iterdir():
            shutil.copyfile(path, folder / path.name)
        config = files.read_json(published / "config.json")
        if not _has_chat_template(folder):  # we prompt a base without one (not instruction-tuned) in our template
            _write_chat_template(folder, template)
    else:
        config = ids | json.loads(config_json.transformers_config(architecture).to_json_string())
    if not (folder / "tokenizer_config.json").is_file():
        _write_tokenizer(folder, model_folder / "tokenizer.model", template)
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = manifest["dtype"]
    files.write_json(folder / "config.json", config)
    sampled = {key: evaluation[key] for key in ("temperature", "top_k", "top_p")}
    files.write_json(
        folder / "generation_config.json",
        {
            **{key: value for key, value in ids.items() if value is not None},
            "eos_token_id": list(tokenizers.stop_ids(tokenizer, template)),
            "max_new_tokens": evaluation["max_completion_tokens"],
            # 0 means all tokens; without the key, transformers takes 50.
            **(
                sampled | {"do_sample": True, "top_k": sampled["top_k"] or 0}
                if sampled["temperature"]
                else {"do_sample": False}
            ),
            "suppress_tokens": [tokenizer.pad_id()],  # our sampler never draws it either
        },
    )


def _write_tokenizer(folder: Path, source: Path, template: families.Template) -> None:
    """Writes tokenizer.json, its configuration and our template, from a sentencepiece model or a tokenizer.json."""
    config = {
        "add_bos_token": template.bos is not None,
        "bos_token": template.bos,
        "clean_up_tokenization_spaces": False,
        "eos_token": template.eos,
        "model_max_length": 10**30,
        "pad_token": template.pad,
        "padding_side": "left",
    }
    if source.read_bytes().startswith(b"{"):
        shutil.copyfile(source, folder / "tokenizer.json")
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    else:
        shutil.copyfile(source, folder / "tokenizer.model")
        text = tokenizer_json(folder, template)
        files.write_text(folder / "tokenizer.json", text)
        # llama.cpp's converter reads here which tokens are no plain text, or turn markers fall apart.
        added = {str(token.pop("id")): token for token in json.loads(text)["added_tokens"]}
        config |= {"tokenizer_class": "GemmaTokenizer", "unk_token": "<unk>", "added_tokens_decoder": added}
    files.write_json(folder / "tokenizer_config.json", config)
    if not _has_chat_template(folder):
        _write_chat_template(folder, template)


def _has_chat_template(folder: Path) -> bool:
    """Whether `transformers` finds one, in its own file or in tokenizer_config.json."""
    if (folder / "chat_template.jinja").is_file():
        return True
    config = folder / "tokenizer_config.json"
    return config.is_file() and bool(files.read_json_object(config).get("chat_template"))


def _write_chat_template(folder: Path, template: families.Template) -> None:
    shutil.copyfile(TEMPLATES / f"{template.name}.jinja", folder / "chat_template.jinja")


def tokenizer_json(folder: Path, template: families.Template) -> str:
    """The tokenizer.json that `transformers` makes of a folder's tokenizer.model; turn markers are special tokens."""
    import tokenizers as fast
    import transformers

    made = transformers.GemmaTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    marks = [fast.AddedToken(token, special=True, normalized=False) for token in template.needed]
    made.add_special_tokens(marks)
    return made.to_str(pretty=True) + "\n"
