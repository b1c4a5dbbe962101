"""Tokenizers: training the miniatures' in each family's layout, loading any, and what makes sure that it fits."""

from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.models import families


class FastTokenizer:
    """A tokenizer.json through Hugging Face's `tokenizers`, with those methods of sentencepiece that are used here."""

    def __init__(self, tokenizer: object, template: families.Template):
        self._tokenizer = tokenizer
        self._ids = {name: tokenizer.token_to_id(name) for name in (template.bos, template.eos, template.pad) if name}
        self._template = template

    def encode(self, text: str | Sequence[str]) -> list:
        """Ids of a text, or of each of several; nothing is put before or after it."""
        if isinstance(text, str):
            return self._tokenizer.encode(text, add_special_tokens=False).ids
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(text), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids. Beginning, end and padding have none, as in sentencepiece."""
        silent = self._ids.values()
        return self._tokenizer.decode([index for index in ids if index not in silent], skip_special_tokens=False)

    def piece_to_id(self, piece: str) -> int:
        """The id of a token, or `unk_id`."""
        found = self._tokenizer.token_to_id(piece)
        return self.unk_id() if found is None else found

    def unk_id(self) -> int:
        """No id: every text has tokens."""
        return -1

    def bos_id(self) -> int | None:
        """What goes before a prompt; None where nothing does."""
        return self._ids.get(self._template.bos)

    def eos_id(self) -> int | None:
        """The end of a text."""
        return self._ids.get(self._template.eos)

    def pad_id(self) -> int | None:
        """Padding."""
        return self._ids.get(self._template.pad)

    def __len__(self) -> int:
        """Rows that an embedding needs. (Gemma 3's has one token more, of images, which its 1B has no row for.)"""
        needed = [self.piece_to_id(token) for token in self._template.needed]
        return max(self._tokenizer.get_vocab_size(with_added_tokens=False), *(index + 1 for index in needed))


def load_tokenizer(path: str | Path, template: families.Template = families.GEMMA) -> object:
    """Loads a tokenizer (a sentencepiece model, or a tokenizer.json) and makes sure that it fits the chat template.

    Returns:
      a sentencepiece processor or a `FastTokenizer`.

    Raises:
      PipelineError: no such file, none of the two, no token for padding, beginning or end, or a control token that is
        not one piece (the model would be shown its letters instead).
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
    """The ids of the tokens that completions stop at; the first ends a turn."""
    return tuple(tokenizer.piece_to_id(token) for token in template.stops)


def with_bos(tokenizer: object, ids: Sequence[int]) -> list[int]:
    """The ids of a prompt behind its one beginning-of-text token, where the family has one."""
    bos = tokenizer.bos_id()
    return [*ids] if bos is None else [bos, *ids]


def count_prompt_tokens(tokenizer: object, prompt: str) -> int:
    """How many tokens a prompt takes, its one <bos> included."""
    return len(with_bos(tokenizer, tokenizer.encode(prompt)))
