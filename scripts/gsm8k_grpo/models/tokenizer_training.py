"""Tokenizers for miniatures, in each family's own layout."""

import io
import re
from collections.abc import Iterable

import sentencepiece

from gsm8k_grpo.common.errors import PipelineError

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


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, family: str = "gemma2") -> bytes:
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
