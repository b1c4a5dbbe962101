"""One question at a time, to a base model or a checkpoint: the prompts, the loading and the sampler of evaluation."""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path

from gsm8k_grpo.data.prompts import build_prompts
from gsm8k_grpo.evaluation.runner import BatchSampler
from gsm8k_grpo.models import tokenizers
from gsm8k_grpo.models.base_model import load_base_model, load_for_evaluation
from gsm8k_grpo.models.families import family_of
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.rewards import answers, published_cascade
from gsm8k_grpo.rewards.answers import READINGS, Tags


@dataclasses.dataclass(frozen=True)
class Answer:
    """A completion, the answer that the recipe's reading finds in it (or None), whether its format is right, its tokens
    with the stop token, whether the limit cut it off, and the seconds that it took."""

    text: str
    reading: str | None
    has_format: bool
    tokens: int
    truncated: bool
    seconds: float


class Asker:
    """A model of a run, ready for questions."""

    def __init__(self, settings: Mapping, model_folder: Path, checkpoints: Path | None, checkpoint: str):
        """Loads the model.

        Args:
          settings: the blocks mesh, model, prompt and evaluation.
          model_folder: the base model's.
          checkpoints: checkpoints.json of the training; None for the base model.
          checkpoint: `base`, `step-N` or `final`.

        Raises:
          PipelineError: a part of the model is missing or belongs to another one.
        """
        mesh = make_mesh(settings["mesh"]["fsdp"], settings["mesh"]["tp"])
        base = load_base_model(model_folder, mesh)
        model = load_for_evaluation(base, checkpoints, checkpoint, mesh)
        self._prompt_settings, self._evaluation_settings = settings["prompt"], settings["evaluation"]
        self._template = family_of(settings["model"]["architecture"]).template
        self._tokenizer = base.tokenizer
        self._sampler = BatchSampler(
            base,
            model,
            mesh,
            settings["mesh"]["decode_weights"] == "gathered",
            self._evaluation_settings,
            self._evaluation_settings["seed"],
            1,
            self._prompt_settings["max_tokens"],
        )

    def ask(self, question: str) -> Answer:
        """Answers a question.

        Raises:
          PipelineError: the prompt is longer than `prompt.max_tokens`.
        """
        started = time.monotonic()
        (row,), _ = build_prompts(
            [{"id": "asked", "question": question}],
            "asked",
            self._prompt_settings,
            self._template,
            lambda prompt: tokenizers.count_prompt_tokens(self._tokenizer, prompt),
        )
        ((_, completion),) = next(self._sampler.complete([row["prompt"]], [(0, 0)])).items()
        tags = Tags.of(self._prompt_settings)
        return Answer(
            text=completion.text,
            reading=read_answer(completion.text, tags, self._evaluation_settings["extraction"]),
            has_format=answers.has_format(completion.text, tags),
            tokens=completion.tokens,
            truncated=completion.truncated,
            seconds=time.monotonic() - started,
        )


def read_answer(completion: str, tags: Tags, extraction: str) -> str | None:
    """The answer that a reading (`evaluation.extraction`) finds in a completion, as text, or None."""
    if extraction == "published_cascade":
        return published_cascade.read(completion, tags)
    return answers.plain(dict(zip(READINGS, answers.readings(completion, tags), strict=False))[extraction])
