"""Sentencepiece tokenizers: one trained for the miniature in Gemma's layout, and the loader that checks any of them."""

import io
from collections.abc import Iterable
from pathlib import Path

import sentencepiece

from gsm8k_grpo import prompts
from gsm8k_grpo.errors import PipelineError

# Gemma's first ids: pad 0, eos 1, bos 2, unk 3, then these up to <start_of_turn> 106, <end_of_turn> 107, "\n" 108.
GEMMA_SYMBOLS = (
    "<mask>",
    "<2mass>",
    "[@BOS@]",
    *(f"<unused{index}>" for index in range(99)),
    "<start_of_turn>",
    "<end_of_turn>",
    "\n",
)


def train(texts: Iterable[str], vocabulary_size: int) -> bytes:
    """Trains a byte-pair tokenizer with Gemma's control ids, split digits and byte fallback.

    Args:
      texts: what it should encode well.
      vocabulary_size: pieces in all; at least Gemma's 109 first ids and 256 bytes must fit.

    Returns:
      the serialised sentencepiece model.

    Raises:
      PipelineError: a vocabulary that is too small or too large for the texts.
    """
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
            user_defined_symbols=list(GEMMA_SYMBOLS),
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
        raise PipelineError(
            f"model.architecture.vocabulary_size: {vocabulary_size} pieces cannot be trained ({error})"
        ) from None
    return model.getvalue()


def load(path: str | Path, template: str = "gemma") -> sentencepiece.SentencePieceProcessor:
    """Loads a tokenizer and makes sure that it has what the chat template is written in.

    Raises:
      PipelineError: no such file, no sentencepiece model, no <bos>/<eos>/<pad>, or a control token that is not one
        piece (the model would be shown its letters instead).
    """
    if not Path(path).is_file():
        raise PipelineError(f"{path}: no such file; the base model's folder needs its tokenizer")
    try:
        tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except RuntimeError:
        raise PipelineError(f"{path}: not a sentencepiece model") from None
    for name, token_id in (("pad", tokenizer.pad_id()), ("bos", tokenizer.bos_id()), ("eos", tokenizer.eos_id())):
        if token_id < 0:
            raise PipelineError(f"{path}: the tokenizer has no <{name}> id; use the tokenizer of an instruction model")
    for token in prompts.CONTROL_TOKENS[template]:
        if tokenizer.piece_to_id(token) == tokenizer.unk_id() or len(tokenizer.encode(token)) != 1:
            raise PipelineError(
                f"{path}: the tokenizer lacks the control token {token}, which the {template} chat template needs; "
                "use the tokenizer that belongs to the instruction-tuned model"
            )
    return tokenizer


def prompt_tokens(tokenizer: sentencepiece.SentencePieceProcessor, prompt: str) -> int:
    """How many tokens a prompt takes, its one <bos> included."""
    return 1 + len(tokenizer.encode(prompt))
