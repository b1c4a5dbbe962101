"""Completing prompts: graded rows for an evaluation, plain texts for the format check."""

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from flax import nnx
from jax.sharding import Mesh

from gsm8k_grpo.common.errors import NotFinished
from gsm8k_grpo.common.progress import Progress
from gsm8k_grpo.common.session_end import comes_within
from gsm8k_grpo.config.batch_sizes import rollout_batch
from gsm8k_grpo.data import gsm8k
from gsm8k_grpo.evaluation.grading import grade_row
from gsm8k_grpo.evaluation.row_log import RowLog
from gsm8k_grpo.generation.cache_length import cache_tokens
from gsm8k_grpo.generation.queue import Completion, Decoding, complete_queue, plan_queue
from gsm8k_grpo.generation.sampler import Sampler
from gsm8k_grpo.models.base_model import BaseModel, load_base_model
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.rewards.answers import Tags


class BatchSampler:
    """Completes prompts with one model and one set of sampling settings."""

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
          batch_size: rows that are decoded at a time.
          max_prompt_tokens: room for a prompt.
        """
        temperature, top_k, top_p, max_completion_tokens = (
            sampling_settings[key] for key in ("temperature", "top_k", "top_p", "max_completion_tokens")
        )
        cache = cache_tokens(max_prompt_tokens, max_completion_tokens)
        self._sampler = Sampler(model, base.tokenizer, cache, mesh, gather_weights)
        self._decoding, self.batch_size = Decoding(temperature, top_k, top_p, seed), batch_size
        self._limits = (max_prompt_tokens, max_completion_tokens, base.stop_ids, mesh)

    def use(self, model: nnx.Module) -> None:
        """From now on, another model of the same structure completes the prompts, by the same programs."""
        self._sampler.transformer_state = nnx.variables(model)

    def complete(
        self, prompts: list[str], queue: list[tuple[int, int]], samples: int = 1
    ) -> Iterator[dict[tuple[int, int], Completion]]:
        """The completions of `plan_queue`'s rows, or of a part of them, as they end."""
        return complete_queue(
            self._sampler, prompts, queue, self.batch_size, self._decoding, *self._limits, samples=samples
        )


def sample_texts(batch_sampler: BatchSampler, prompts: list[str]) -> list[str]:
    """One completion of each prompt, in the order of the prompts."""
    texts = {}
    for ended in batch_sampler.complete(prompts, plan_queue(prompts, 1)):
        texts |= {index: completion.text for (index, _), completion in ended.items()}
    return [texts[index] for index in range(len(prompts))]


def sample_base_model(model_folder: Path, prompts: list[str], settings: Mapping) -> list[str]:
    """One completion of each prompt by the base model, sampled as training does."""
    mesh, training = make_mesh(settings["mesh"]["fsdp"], settings["mesh"]["tp"]), settings["training"]
    base, batch_size = load_base_model(model_folder, mesh), rollout_batch(training)
    gathered, max_tokens = settings["mesh"]["decode_weights"] == "gathered", settings["prompt"]["max_tokens"]
    sampler = BatchSampler(base, base.model, mesh, gathered, training, settings["seed"], batch_size, max_tokens)
    return sample_texts(sampler, prompts)


def evaluate_rows(
    base: BaseModel,
    model: nnx.Module,
    mesh: Mesh,
    rows: list[dict],
    settings: Mapping,
    log: RowLog,
    title: str,
    end: float,
) -> list[dict]:
    """Completes and grades rows, but for those that `log` already has.

    Args:
      base, model, mesh: as in `BatchSampler`.
      rows: with `id`, `prompt`, `answer` and perhaps `group`.
      settings: the blocks mesh, prompt and evaluation.
      log: keeps rows as soon as they end.
      title: names the evaluation in the progress lines.
      end: of the session, in seconds since 1970.

    Returns:
      the rows of completions.jsonl, in the order of `rows`, the samples of a prompt beside each other.

    Raises:
      NotFinished: the session has ended before the last row; the log has those that ended.
    """
    evaluation, tags = settings["evaluation"], Tags.of(settings["prompt"])
    gathered, max_tokens = settings["mesh"]["decode_weights"] == "gathered", settings["prompt"]["max_tokens"]
    batch_size = min(evaluation["batch_size"], len(rows))
    batch_sampler = BatchSampler(base, model, mesh, gathered, evaluation, evaluation["seed"], batch_size, max_tokens)
    prompts, samples = [row["prompt"] for row in rows], evaluation["samples"]
    finished = {(row["id"], row["sample"]) for row in log.rows}
    queue = [
        (index, sample) for index, sample in plan_queue(prompts, samples) if (rows[index]["id"], sample) not in finished
    ]
    if finished:
        print(f"resuming after {len(finished)} of {len(rows) * samples} completions", flush=True)
    progress, started = Progress(title, len(rows) * samples, "completion", len(finished)), time.monotonic()
    for ended in batch_sampler.complete(prompts, queue, samples):
        seconds = time.monotonic() - started
        graded = [
            {
                "id": rows[index]["id"],
                **gsm8k.group_of(rows[index]),
                "sample": sample,
                "completion": completion.text,
                "answer": rows[index]["answer"],
                **grade_row(completion.text, rows[index], tags, evaluation["extraction"]),
                "tokens": completion.tokens,
                "stop_reason": "limit" if completion.truncated else "end_of_turn",
            }
            for (index, sample), completion in ended.items()
        ]
        log.append(graded, seconds)
        progress.advance(len(graded))
        if len(log.rows) < len(rows) * samples and comes_within(end):
            raise NotFinished(f"{len(log.rows)} of {len(rows) * samples} completions are saved")
        started = time.monotonic()
    position = {row["id"]: index for index, row in enumerate(rows)}
    return sorted(log.rows, key=lambda row: (position[row["id"]], row["sample"]))
