"""Tokenizers: training the miniatures' in each family's layout, loading any, and what makes sure that it fits."""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece

from gsm8k_grpo import families
from gsm8k_grpo.errors import PipelineError

# Gemma's first ids: pad 0, eos 1, bos 2, unk 3, then these. Gemma 2's <start_of_turn> is 106, Gemma 3's 105.
GEMMA_SYMBOLS = {
    "gemma2": ("<mask>", "<2mass>", "[@BOS@]", *(f"<unused{index}>" for index in range(99))),
    "gemma3": ("<mask>", "[multimodal]", *(f"<unused{index}>" for index in range(99))),
}
GEMMA_TURNS = ("<start_of_turn>", "<end_of_turn>", "\n")
# How Qwen2.5 cuts a text before merging bytes: each digit alone (tokenizer.json of Qwen/Qwen2.5-0.5B-Instruct).
QWEN_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SYMBOLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


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


def train(texts: Iterable[str], vocabulary_size: int, family: str = "gemma2") -> bytes:
    """Trains a byte-pair tokenizer with the family's control tokens, split digits and no unknown text.

    Args:
      texts: what it should encode well.
      vocabulary_size: pieces in all. Of Gemma, its first ids (109 or 108) and 256 bytes must fit.
      family: of the model; Gemma's are sentencepiece models, Qwen's a tokenizer.json. Qwen's merges stay within words:
        texts with few words give fewer pieces, and the model has embeddings to spare, as the published one has.

    Returns:
      the file's content.

    Raises:
      PipelineError: a vocabulary that is too small or too large for the texts.
    """
    made = _train_qwen(texts, vocabulary_size) if family == "qwen2" else _train_gemma(texts, vocabulary_size, family)
    if isinstance(made, str):
        raise PipelineError(f"model.architecture.vocabulary_size: {vocabulary_size} pieces cannot be trained ({made})")
    return made


def _train_qwen(texts: Iterable[str], vocabulary_size: int) -> bytes | str:
    """The tokenizer.json, or why there is none."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    merged = vocabulary_size - len(QWEN_SYMBOLS)
    if merged < 256:
        return f"256 bytes and {len(QWEN_SYMBOLS)} control tokens must fit"
    control = re.compile("|".join(map(re.escape, QWEN_SYMBOLS)))
    trainer = trainers.BpeTrainer(
        vocab_size=merged, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((part for text in texts for part in control.split(text) if part), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in QWEN_SYMBOLS])
    return tokenizer.to_str().encode()


def _train_gemma(texts: Iterable[str], vocabulary_size: int, family: str) -> bytes | str:
    """The sentencepiece model, or why there is none."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary_size,
            pad_id=0,
            eos_id=1,
            bos_id=2,
            unk_id=3,
            pad_piece="<pad>",
            eos_piece="<eos>",
            bos_piece="<bos>",
            user_defined_symbols=[*GEMMA_SYMBOLS[family], *GEMMA_TURNS],
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_digits=True,
            split_by_unicode_script=False,  # frequent strings such as `</answer>` become pieces
            byte_fallback=True,
            character_coverage=1.0,
            max_sentence_length=1_000_000,
            num_threads=1,  # merges are counted in one order: the same bytes on every machine
            minloglevel=1,
        )
    except RuntimeError as error:
        return str(error)
    return model.getvalue()


def load(path: str | Path, template: families.Template = families.GEMMA) -> object:
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


def prompt_tokens(tokenizer: object, prompt: str) -> int:
    """How many tokens a prompt takes, its one <bos> included."""
    return len(with_bos(tokenizer, tokenizer.encode(prompt)))
