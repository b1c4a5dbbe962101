"""Trains tokenizers for miniatures in the layout of their family's published ones."""

import io
import re
from collections.abc import Iterable

import sentencepiece

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.models.families import FAMILIES
from gsm8k_grpo.models.family import ByteLevelLayout, SentencePieceLayout


def train_tokenizer(texts: Iterable[str], vocabulary_size: int, family: str = "gemma2") -> bytes:
    """Trains a byte-pair tokenizer that has the family's control tokens, splits digits and encodes any text.

    Args:
      texts: what it should encode well.
      vocabulary_size: the number of pieces. The control tokens and 256 bytes must fit. Byte-level merges stay within
        words: few different words give fewer pieces, and the model has spare embeddings, as published Qwen2.5 has.
      family: the model family's name.

    Returns:
      the content of the tokenizer's file.

    Raises:
      PipelineError: the vocabulary is too small or too large for the texts.
    """
    layout = FAMILIES[family].tokenizer
    train = _train_byte_level if isinstance(layout, ByteLevelLayout) else _train_sentencepiece
    try:
        return train(layout, texts, vocabulary_size)
    except (RuntimeError, ValueError) as error:
        raise PipelineError(
            f"model.architecture.vocabulary_size: {vocabulary_size} pieces cannot be trained ({error})"
        ) from None


def _train_byte_level(layout: ByteLevelLayout, texts: Iterable[str], vocabulary_size: int) -> bytes:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(layout.word_pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    merged = vocabulary_size - len(layout.symbols)
    if merged < 256:
        raise ValueError(f"256 bytes and {len(layout.symbols)} control tokens must fit")
    control = re.compile("|".join(map(re.escape, layout.symbols)))
    trainer = trainers.BpeTrainer(
        vocab_size=merged, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((part for text in texts for part in control.split(text) if part), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in layout.symbols])
    return tokenizer.to_str().encode()


def _train_sentencepiece(layout: SentencePieceLayout, texts: Iterable[str], vocabulary_size: int) -> bytes:
    model = io.BytesIO()
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
        user_defined_symbols=list(layout.symbols),
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        split_digits=True,
        split_by_unicode_script=False,  # frequent strings such as `</answer>` become pieces
        byte_fallback=True,
        character_coverage=1.0,
        max_sentence_length=1_000_000,
        num_threads=1,  # one order of counting merges gives the same bytes on every machine
        minloglevel=1,
    )
    return model.getvalue()
