"""Pretrains a miniature from scratch: supervised training on demonstrations with Tunix's own trainer."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from tunix.rl import common
from tunix.sft import peft_trainer

from gsm8k_grpo.common import files
from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.progress import Progress
from gsm8k_grpo.models import building, storage, tokenizers
from gsm8k_grpo.models.families import family_of
from gsm8k_grpo.models.tokenizer_training import train_tokenizer


@flax.struct.dataclass
class PretrainingBatch:
    """Token ids and the mask of the tokens to predict, both [B, L]."""

    tokens: jax.Array
    target_mask: jax.Array


def pretrain_from_texts(
    prompts: Sequence[str], completions: Sequence[str], architecture: Mapping, settings: Mapping, tokenizer_file: Path
) -> tuple[dict, dict]:
    """Trains a tokenizer and then a model on prompts and the completions to imitate.

    Args:
      prompts, completions: in the same order.
      architecture: the sizes of the model.
      settings: the block `model.pretraining`.
      tokenizer_file: where the tokenizer is written.

    Returns:
      (the weights as nested dicts, the model's origin).
    """
    texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
    with files.naming(tokenizer_file):
        tokenizer_file.write_bytes(train_tokenizer(texts, architecture["vocabulary_size"], architecture["family"]))
    template = family_of(architecture).template
    tokenizer = tokenizers.load_tokenizer(tokenizer_file, template)
    end_of_turn = tokenizers.stop_ids(tokenizer, template)[0]
    data = pack_rows(
        [tokenizers.with_bos(tokenizer, ids) for ids in tokenizer.encode(prompts)],
        [[*ids, end_of_turn] for ids in tokenizer.encode(completions)],
        tokenizer.pad_id(),
        settings["max_tokens"],
    )
    model = building.initialise(building.tunix_config(architecture), settings["seed"])
    print(
        f"pretraining {building.count_parameters(model):,} parameters for {settings['steps']} steps of "
        f"{settings['batch_size']} of {len(data.tokens):,} rows, {data.tokens.shape[1]} tokens each "
        f"({len(prompts) - len(data.tokens):,} longer rows left out)",
        flush=True,
    )
    pretrain_model(model, data, settings, settings["seed"], tokenizer.pad_id())
    return storage.weights_of(model), {"source": "pretrained", "seed": settings["seed"], "rows": len(data.tokens)}


def pack_rows(
    prompt_ids: Sequence[Sequence[int]], completion_ids: Sequence[Sequence[int]], pad_id: int, max_tokens: int
) -> PretrainingBatch:
    """Joins prompts and completions to right-padded rows in which only completions are to be predicted.

    Args:
      prompt_ids: N lists of ids, with <bos>.
      completion_ids: N lists of ids, with the end-of-turn token.
      pad_id: pads rows to the longest one.
      max_tokens: longer rows are left out.

    Raises:
      PipelineError: every row is longer.
    """
    pairs = [pair for pair in zip(prompt_ids, completion_ids, strict=True) if sum(map(len, pair)) <= max_tokens]
    if not pairs:
        raise PipelineError(f"model.pretraining.max_tokens: no demonstration fits into {max_tokens} tokens; raise it")
    shape = (len(pairs), max(sum(map(len, pair)) for pair in pairs))
    tokens, mask = np.full(shape, pad_id, np.int32), np.zeros(shape, bool)
    for row, (prompt, completion) in enumerate(pairs):
        end = len(prompt) + len(completion)
        tokens[row, :end] = [*prompt, *completion]
        mask[row, len(prompt) : end] = True
    return PretrainingBatch(tokens, mask)


def next_token_loss(model: nnx.Module, batch: PretrainingBatch, pad_id: int) -> jax.Array:
    """Computes the mean negative log-likelihood of the tokens to predict, in nats per token."""
    valid = batch.tokens != pad_id
    logits, _ = model(batch.tokens, common.build_positions_from_mask(valid), None, common.make_causal_attn_mask(valid))
    log_probs = common.selective_log_softmax(logits[:, :-1], batch.tokens[:, 1:])
    mask = batch.target_mask[:, 1:]
    return -jnp.sum(log_probs * mask) / jnp.sum(mask)


def pretrain_model(model: nnx.Module, data: PretrainingBatch, settings: Mapping, seed: int, pad_id: int) -> None:
    """Trains all weights of the model in place.

    Args:
      model: a freshly initialised model.
      data: all demonstrations, [N, L].
      settings: `steps`, `batch_size`, `learning_rate` (AdamW, 10 % warm-up, cosine to 0, gradients clipped at norm 1).
      seed: of the order of the rows.
      pad_id: of padding.
    """
    steps, batch_size = settings["steps"], settings["batch_size"]
    schedule = optax.warmup_cosine_decay_schedule(0.0, settings["learning_rate"], max(1, steps // 10), steps)
    trainer = peft_trainer.PeftTrainer(
        model,
        optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.95, weight_decay=0.01)),
        peft_trainer.TrainingConfig(eval_every_n_steps=steps + 1),
    )
    trainer.with_loss_fn(next_token_loss).with_gen_model_input_fn(lambda batch: {"batch": batch, "pad_id": pad_id})
    progress = Progress("pretraining", steps, "step")

    def batches() -> Iterator[PretrainingBatch]:
        rows = len(data.tokens)
        order = np.concatenate(
            [np.random.default_rng((seed, epoch)).permutation(rows) for epoch in range(-(-steps * batch_size // rows))]
        )
        for step in range(steps):
            chosen = order[step * batch_size : (step + 1) * batch_size]
            yield PretrainingBatch(data.tokens[chosen], data.target_mask[chosen])
            progress.advance()

    trainer.train(batches())
