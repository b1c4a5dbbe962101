"""Loads tokenizers, checks that they fit the chat template, and encodes prompts."""

from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.models import families, recorded_hashes


class FastTokenizer:
    """A tokenizer.json with the methods of a sentencepiece processor that we use."""

    def __init__(self, tokenizer: object, template: families.Template):
        self._tokenizer = tokenizer
        self._ids = {name: tokenizer.token_to_id(name) for name in (template.bos, template.eos, template.pad) if name}
        self._template = template

    def encode(self, text: str | Sequence[str]) -> list:
        """Encodes one text or several, without adding tokens."""
        if isinstance(text, str):
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(text), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes ids. As in sentencepiece, beginning, end and padding have no text."""
        silent = self._ids.values()
        return self._tokenizer.decode([index for index in ids if index not in silent], skip_special_tokens=False)

    def piece_to_id(self, piece: str) -> int:
        """Finds the id of a token, or `unk_id`."""
        found = self._tokenizer.token_to_id(piece)
        return self.unk_id() if found is None else found

    def unk_id(self) -> int:
        """An id that no token has: every text can be encoded."""
        return -1

    def bos_id(self) -> int | None:
        """The id that goes before a prompt, or None."""
        return self._ids.get(self._template.bos)

    def eos_id(self) -> int | None:
        """The id that ends a text."""
        return self._ids.get(self._template.eos)

    def pad_id(self) -> int | None:
        """The id of padding."""
        return self._ids.get(self._template.pad)

    def __len__(self) -> int:
        """Counts the embedding rows that the text needs. (Gemma 3 1B has no row for its last token, of images.)"""
        needed = [self.piece_to_id(token) for token in self._template.needed]
        return max(self._tokenizer.get_vocab_size(with_added_tokens=False), *(index + 1 for index in needed))


def load_tokenizer(path: str | Path, template: families.Template = families.GEMMA) -> object:
    """Loads a sentencepiece model or a tokenizer.json and makes sure that it fits the chat template.

    Returns:
      a sentencepiece processor or a `FastTokenizer`.

    Raises:
      PipelineError: the file is missing or neither of the two, it has no token for padding, beginning or end, or a
        control token is not one piece (the model would see its letters).
    """
    if not Path(path).is_file():
        raise PipelineError(f"{path}: no such file; the base model's folder needs its tokenizer")
    content = Path(path).read_bytes()
    tokenizer = _fast(path, content, template) if content.startswith(b"{") else _sentencepiece(path)
    for token, token_id in (
        (template.pad, tokenizer.pad_id()),
        (template.bos, tokenizer.bos_id()),
        (template.eos, tokenizer.eos_id()),
    ):
        if token and (token_id is None or token_id < 0):
            raise PipelineError(f"{path}: the tokenizer has no {token} id; use the tokenizer of an instruction model")
    for token in template.needed:
        if tokenizer.piece_to_id(token) == tokenizer.unk_id() or len(tokenizer.encode(token)) != 1:
            raise PipelineError(
                f"{path}: the tokenizer lacks the control token {token}, which the {template.name} chat template "
                "needs; use the tokenizer that belongs to the instruction-tuned model"
            )
    return tokenizer


def load_recorded_tokenizer(folder: Path, manifest: dict) -> object:
    """Loads the tokenizer of a base model's folder; `manifest` is the content of its model.json.

    Raises:
      PipelineError: it is missing, or not as model.json has recorded it.
    """
    recorded_hashes.require_recorded_tokenizer(folder, manifest)
    return load_tokenizer(folder / "tokenizer.model", families.family_of(manifest["architecture"]).template)


def _sentencepiece(path: str | Path) -> sentencepiece.SentencePieceProcessor:
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except RuntimeError:
        raise PipelineError(f"{path}: not a sentencepiece model; fetch the model again") from None


def _fast(path: str | Path, content: bytes, template: families.Template) -> FastTokenizer:
    import tokenizers

    try:
        return FastTokenizer(tokenizers.Tokenizer.from_buffer(content), template)
    except Exception as error:  # `tokenizers` raises bare Exceptions
        raise PipelineError(
            f"{path}: not a tokenizer.json ({' '.join(str(error).split())[:200]}); fetch the model again"
        ) from None


def stop_ids(tokenizer: object, template: families.Template) -> tuple[int, ...]:
    """Lists the ids that end a completion; the first ends a turn."""
    return tuple(tokenizer.piece_to_id(token) for token in template.stops)


def with_bos(tokenizer: object, ids: Sequence[int]) -> list[int]:
    """Puts the beginning-of-text token before a prompt's ids, where the family has one."""
    bos = tokenizer.bos_id()
    return [*ids] if bos is None else [bos, *ids]


def count_prompt_tokens(tokenizer: object, prompt: str) -> int:
    """Counts a prompt's tokens, including its <bos>."""
    return len(with_bos(tokenizer, tokenizer.encode(prompt)))
