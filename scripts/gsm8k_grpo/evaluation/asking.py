"""One question at a time, to several models of a run: the prompts, the loading and the sampler of evaluation."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from flax import nnx

from gsm8k_grpo.data.prompts import build_prompts
from gsm8k_grpo.evaluation.runner import BatchSampler
from gsm8k_grpo.generation.llama import Llama
from gsm8k_grpo.generation.queue import Completion
from gsm8k_grpo.models import tokenizers
from gsm8k_grpo.models.base_model import load_base_model, load_for_evaluation
from gsm8k_grpo.models.families import family_of
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.rewards import answers, published_cascade
from gsm8k_grpo.rewards.answers import READINGS, Tags

GGUF = "gguf"  # the name of the model that llama.cpp runs


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
    """Models of a run, ready for questions. Those of one structure share their programs."""

    def __init__(
        self, settings: Mapping, model_folder: Path, checkpoints: Path, names: Sequence[str], gguf: Path | None = None
    ):
        """Loads the models.

        Args:
          settings: the blocks mesh, model, prompt and evaluation.
          model_folder: the base model's.
          checkpoints: checkpoints.json of the training.
          names: of the models: `base`, `step-N` or `final`.
          gguf: a file for llama.cpp, which is the model named `GGUF`. It always decodes greedily.

        Raises:
          PipelineError: a part of a model is missing or belongs to another one, or llama.cpp cannot load the file.
        """
        mesh = make_mesh(settings["mesh"]["fsdp"], settings["mesh"]["tp"])
        base = load_base_model(model_folder, mesh)
        self._prompt_settings, self._evaluation_settings = settings["prompt"], settings["evaluation"]
        self._template = family_of(settings["model"]["architecture"]).template
        self._tokenizer = base.tokenizer
        self._models, samplers = {}, []
        for name in names:
            model = load_for_evaluation(base, checkpoints, name, mesh, keeps_base=len(names) > 1)
            structure = nnx.graphdef(model)
            sampler = next((each for known, each in samplers if known == structure), None) or BatchSampler(
                base,
                model,
                mesh,
                settings["mesh"]["decode_weights"] == "gathered",
                self._evaluation_settings,
                self._evaluation_settings["seed"],
                1,
                self._prompt_settings["max_tokens"],
            )
            samplers.append((structure, sampler))
            self._models[name] = model, sampler
        limits = self._prompt_settings["max_tokens"], self._evaluation_settings["max_completion_tokens"]
        self._llama = Llama(gguf, base.tokenizer, base.stop_ids, *limits) if gguf else None

    def ask(self, question: str, name: str) -> Answer:
        """Has one of the models answer a question.

        Raises:
          PipelineError: the prompt is longer than `prompt.max_tokens`, or llama.cpp failed.
        """
        started = time.monotonic()
        (row,), _ = build_prompts(
            [{"id": "asked", "question": question}],
            "asked",
            self._prompt_settings,
            self._template,
            lambda prompt: tokenizers.count_prompt_tokens(self._tokenizer, prompt),
        )
        completion = self._complete(row["prompt"], name)
        tags = Tags.of(self._prompt_settings)
        return Answer(
            text=completion.text,
            reading=read_answer(completion.text, tags, self._evaluation_settings["extraction"]),
            has_format=answers.has_format(completion.text, tags),
            tokens=completion.tokens,
            truncated=completion.truncated,
            seconds=time.monotonic() - started,
        )

    def _complete(self, prompt: str, name: str) -> Completion:
        if name == GGUF:
            found = self._llama.complete(prompt)
            return Completion(found.text, len(found.tokens), found.truncated)
        model, sampler = self._models[name]
        sampler.use(model)
        ((_, completion),) = next(sampler.complete([prompt], [(0, 0)])).items()
        return completion


def read_answer(completion: str, tags: Tags, extraction: str) -> str | None:
    """The answer that a reading (`evaluation.extraction`) finds in a completion, as text, or None."""
    if extraction == "published_cascade":
        return published_cascade.read(completion, tags)
    return answers.plain(dict(zip(READINGS, answers.readings(completion, tags), strict=False))[extraction])
