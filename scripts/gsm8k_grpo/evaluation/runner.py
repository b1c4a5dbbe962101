"""Completing prompts batch by batch: graded rows for an evaluation, plain texts for the format check."""

import time
from collections.abc import Mapping
from pathlib import Path

from flax import nnx
from jax.sharding import Mesh

from gsm8k_grpo.common.progress import Progress
from gsm8k_grpo.config.batch_sizes import rollout_batch
from gsm8k_grpo.data import gsm8k
from gsm8k_grpo.evaluation.batch_log import BatchLog
from gsm8k_grpo.evaluation.grading import grade_completion
from gsm8k_grpo.generation.batches import Completion, Decoding, complete_batch, plan_batches
from gsm8k_grpo.generation.cache_length import cache_tokens
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.models.base_model import BaseModel, load_base_model
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.rewards.answers import Tags, gold_of


class BatchSampler:
    """Completes batches of prompts with one model and one set of sampling settings."""

    def __init__(
        self,
        base: BaseModel,
        model: nnx.Module,
        mesh: Mesh,
        gather_weights: bool,
        sampling_settings: Mapping,
        seed: int,
        batch_size: int,
        max_prompt_tokens: int,
    ):
        """
        Args:
          base: the base model, for its tokenizer and stop tokens.
          model: completes the prompts: `base.model`, or a checkpoint on top of it.
          mesh: the mesh that the model lies on.
          gather_weights: whether decoding gathers sharded weights first.
          sampling_settings: a block with `temperature`, `top_k`, `top_p` and `max_completion_tokens`.
          seed: of the draws.
          batch_size: rows of a batch.
          max_prompt_tokens: room for a prompt.
        """
        temperature, top_k, top_p, max_completion_tokens = (
            sampling_settings[key] for key in ("temperature", "top_k", "top_p", "max_completion_tokens")
        )
        cache = cache_tokens(max_prompt_tokens, max_completion_tokens)
        self._sampler = Sampler(model, base.tokenizer, cache, mesh, gather_weights)
        self._decoding, self.batch_size = Decoding(temperature, top_k, top_p, seed), batch_size
        self._limits = (max_prompt_tokens, max_completion_tokens, base.stop_ids, mesh)

    def complete(self, prompts: list[str], batch: list[tuple[int, int]], samples: int = 1) -> list[Completion]:
        """The completions of one batch of `plan_batches`, in its order."""
        batch_size, decoding = self.batch_size, self._decoding
        return complete_batch(self._sampler, prompts, batch, batch_size, decoding, *self._limits, samples)


def sample_texts(batch_sampler: BatchSampler, prompts: list[str]) -> list[str]:
    """One completion of each prompt, in the order of the prompts."""
    texts = {}
    for batch in plan_batches(prompts, 1, batch_sampler.batch_size):
        for (index, _), completion in zip(batch, batch_sampler.complete(prompts, batch), strict=True):
            texts[index] = completion.text
    return [texts[index] for index in range(len(prompts))]


def sample_base_model(model_folder: Path, prompts: list[str], settings: Mapping) -> list[str]:
    """One completion of each prompt by the base model, sampled as training does."""
    mesh, training = make_mesh(settings["mesh"]["fsdp"], settings["mesh"]["tp"]), settings["training"]
    base, batch_size = load_base_model(model_folder, mesh), rollout_batch(training)
    gathered, max_tokens = settings["mesh"]["decode_weights"] == "gathered", settings["prompt"]["max_tokens"]
    sampler = BatchSampler(base, base.model, mesh, gathered, training, settings["seed"], batch_size, max_tokens)
    return sample_texts(sampler, prompts)


def evaluate_rows(
    base: BaseModel, model: nnx.Module, mesh: Mesh, rows: list[dict], settings: Mapping, log: BatchLog, title: str
) -> list[dict]:
    """Completes and grades rows; goes on after the batches that `log` already has.

    Args:
      base, model, mesh: as in `BatchSampler`.
      rows: with `id`, `prompt`, `answer` and perhaps `group`.
      settings: the blocks mesh, prompt and evaluation.
      log: keeps each batch as soon as it is done.
      title: names the evaluation in the progress lines.

    Returns:
      the rows of completions.jsonl, in the order of `rows`, the samples of a prompt beside each other.
    """
    evaluation, tags = settings["evaluation"], Tags.of(settings["prompt"])
    gathered, max_tokens = settings["mesh"]["decode_weights"] == "gathered", settings["prompt"]["max_tokens"]
    batch_size = min(evaluation["batch_size"], len(rows))
    batch_sampler = BatchSampler(base, model, mesh, gathered, evaluation, evaluation["seed"], batch_size, max_tokens)
    prompts, samples = [row["prompt"] for row in rows], evaluation["samples"]
    batches = plan_batches(prompts, samples, batch_sampler.batch_size)
    finished = len(log.batches)
    if finished:
        print(f"resuming after {finished} of {len(batches)} batches", flush=True)
    done = sum(map(len, batches[:finished]))
    progress = Progress(title, len(rows) * samples, "completion", done)
    for batch in batches[finished:]:
        started = time.monotonic()
        completions = batch_sampler.complete(prompts, batch, samples)
        graded = [
            {
                "id": rows[index]["id"],
                **gsm8k.group_of(rows[index]),
                "sample": sample,
                "completion": completion.text,
                "answer": rows[index]["answer"],
                **grade_completion(completion.text, gold_of(rows[index]).text, tags, evaluation["extraction"]),
                "tokens": completion.tokens,
                "stop_reason": "limit" if completion.truncated else "end_of_turn",
            }
            for (index, sample), completion in zip(batch, completions, strict=True)
        ]
        log.append(graded, time.monotonic() - started)
        progress.advance(len(batch))
    position = {row["id"]: index for index, row in enumerate(rows)}
    graded = [row for batch in log.batches for row in batch["rows"]]
    return sorted(graded, key=lambda row: (position[row["id"]], row["sample"]))
