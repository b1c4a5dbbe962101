"""What all contestants compute: shapes, prompts, lengths of completions, and the reward.

This module needs the standard library alone: the contestants' environments have little in common, and the reward is
loaded by path.
"""

import dataclasses
import json
import random
from pathlib import Path

EOS = 1  # Gemma's end of a text, which nothing here draws on purpose
LEARNING_RATE = 1e-5
MAX_GRADIENT_NORM = 1.0
BETA = 0.04
MEASURED_LENGTHS = Path(__file__).parent / "w3-lengths.json"


@dataclasses.dataclass(frozen=True)
class Workload:
    """A model and what is done with it: GRPO steps, or greedy generation.

    Attributes:
      kind: `step`; `generation`, of one batch with forced lengths; or `answers`, where completions end by themselves.
      family: `gemma2` or `qwen2`.
      num_layers, … window_tokens: sizes of the model; Qwen2.5 has no window.
      prompts: prompts of a step, or of a call of generation.
      generations: completions of a prompt (G); 1 for generation.
      prompt_tokens: tokens of each prompt, with <bos>; of the longest one where `ids` are given.
      limit_tokens: the most tokens of a completion.
      shortest, longest: the least and greatest forced length; completions of the limit have no stop token.
      contestants: who computes it, by default; worker.py reads the names.
      lora_rank: of the adapters of a step.
      micro_batch_prompts: prompts whose completions are updated at a time; None is all.
      measured_lengths: whether forced lengths are the base model's own (MEASURED_LENGTHS).
      together: whether all contestants are in memory at once and take turns; else they run one after the other.
      real: whether it takes published weights and GSM8K's questions where they are found (real_size.py).
      warm_up, steps: the steps that compile, and the timed ones.
      warm_up_prompts: prompts of a call of `answers` that compiles.
      pad, bos, stop: special tokens. `stop` ends a completion like <end_of_turn>; Qwen2.5 has no <bos>.
      ids: the prompts' tokens; None draws them.
      weights: the folder of published weights; None draws them.
    """

    name: str
    kind: str
    family: str
    num_layers: int
    embed_dim: int
    hidden_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary_size: int
    window_tokens: int | None
    prompts: int
    generations: int
    prompt_tokens: int
    limit_tokens: int
    shortest: int
    longest: int
    contestants: tuple[str, ...] = ("ours", "stock", "trl")
    lora_rank: int = 16
    micro_batch_prompts: int | None = None
    measured_lengths: bool = False
    together: bool = True
    real: bool = False
    warm_up: int = 2
    steps: int = 11
    warm_up_prompts: int = 32
    pad: int = 0
    bos: int | None = 2
    stop: int = 3
    ids: list[list[int]] | None = None
    weights: str | None = None

    @property
    def rows(self) -> int:
        """Completions of a step."""
        return self.prompts * self.generations

    @property
    def layer_parameters(self) -> int:
        """The weights of all layers' products: queries and outputs, keys and values, the feed-forward layer."""
        heads = 2 * self.num_heads + 2 * self.num_kv_heads
        return self.num_layers * self.embed_dim * (heads * self.head_dim + 3 * self.hidden_dim)

    @property
    def output_parameters(self) -> int:
        """The weights of the product that makes logits."""
        return self.vocabulary_size * self.embed_dim

    @property
    def eos(self) -> int:
        """The token that a tokenizer calls the end of a text."""
        return EOS if self.family == "gemma2" else self.stop

    def prompt_ids(self) -> list[list[int]]:
        """The prompts' tokens, the same in each step."""
        if self.ids:
            return self.ids
        rng = random.Random(self.name)
        # In both families, special tokens are either the first four or the last ones, of which `pad` is the first.
        ordinary = range(4, self.pad or self.vocabulary_size)
        first = [] if self.bos is None else [self.bos]
        return [first + rng.choices(ordinary, k=self.prompt_tokens - len(first)) for _ in range(self.prompts)]

    def prompt_texts(self) -> list[str]:
        """The prompts as text without <bos>: each word is the number of its token."""
        skipped = 0 if self.bos is None else 1
        return [" ".join(map(str, ids[skipped:])) for ids in self.prompt_ids()]

    def lengths(self, step: int) -> list[int]:
        """Forced lengths of a step's completions (see forced.py)."""
        if self.measured_lengths:
            measured = json.loads(MEASURED_LENGTHS.read_text())["steps"]
            return [min(length, self.limit_tokens) for length in measured[step % len(measured)][: self.rows]]
        rng = random.Random(f"{self.name} {step}")
        return [rng.randint(self.shortest, self.longest) for _ in range(self.rows)]

    def order(self, step: int, warm_up: int) -> list[int] | int:
        """What a contestant is told at a step: the lengths to force; of `answers`, how many prompts to complete."""
        if self.kind != "answers":
            return self.lengths(step)
        return min(self.prompts, self.warm_up_prompts) if step < warm_up else self.prompts


_TINY = {"num_layers": 3, "embed_dim": 128, "hidden_dim": 256, "num_heads": 8, "num_kv_heads": 4, "head_dim": 16}
_TINY |= {"family": "gemma2", "vocabulary_size": 384, "window_tokens": 64, "prompt_tokens": 40, "limit_tokens": 32}
_MIDDLE = {"num_layers": 8, "embed_dim": 512, "hidden_dim": 2048, "num_heads": 8, "num_kv_heads": 4, "head_dim": 64}
_MIDDLE |= {"family": "gemma2", "vocabulary_size": 8192, "window_tokens": 4096, "prompt_tokens": 128}
# Qwen2.5 0.5B, with prompts of random tokens as long as GSM8K's median where GSM8K is missing.
_REAL = {"num_layers": 24, "embed_dim": 896, "hidden_dim": 4864, "num_heads": 14, "num_kv_heads": 2, "head_dim": 64}
_REAL |= {"family": "qwen2", "vocabulary_size": 151_936, "window_tokens": None, "prompt_tokens": 174}
_REAL |= {"pad": 151_643, "bos": None, "stop": 151_645, "limit_tokens": 256, "shortest": 1, "longest": 256}
_REAL |= {"together": False, "real": True, "lora_rank": 64}
_PRECISIONS = ("float32", "bfloat16")
_ANSWERS = (
    *(f"ours {precision}" for precision in _PRECISIONS),
    "stock",
    *(f"trl {precision} {rows}" for precision in _PRECISIONS for rows in (16, 32, 64)),
    *(f"llama.cpp {file} {rows}" for file in ("Q4_K_M", "Q8_0", "F16") for rows in (16, 64)),
)
_QUICK = {"num_layers": 2, "embed_dim": 16, "hidden_dim": 16, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8}
_QUICK |= {"family": "gemma2", "vocabulary_size": 64, "window_tokens": 16, "prompt_tokens": 8, "limit_tokens": 16}
_QUICK_REAL = _QUICK | {"family": "qwen2", "embed_dim": 32, "hidden_dim": 32, "head_dim": 16, "window_tokens": None}
_QUICK_REAL |= {"bos": None, "together": False, "warm_up_prompts": 2, "limit_tokens": 32, "shortest": 1, "longest": 32}

WORKLOADS = [
    Workload("W1", "step", **_TINY, prompts=8, generations=8, shortest=32, longest=32),
    Workload("W2", "step", **_MIDDLE, prompts=4, generations=4, limit_tokens=256, shortest=40, longest=120),
    Workload(
        "W2 near the limit", "step", **_MIDDLE, prompts=4, generations=4, limit_tokens=256, shortest=200, longest=256
    ),
    Workload("W1 generation", "generation", **_TINY, prompts=64, generations=1, shortest=32, longest=32),
    Workload(
        "W2 generation", "generation", **_MIDDLE, prompts=32, generations=1, limit_tokens=128, shortest=128, longest=128
    ),
    Workload(
        "W3",
        "step",
        **_REAL,
        prompts=2,
        generations=8,
        micro_batch_prompts=1,
        measured_lengths=True,
        warm_up=1,
        steps=5,
        contestants=(
            *(f"ours {precision}" for precision in _PRECISIONS),
            "stock",
            *(f"trl {precision}{way}" for precision in _PRECISIONS for way in ("", " checkpointing")),
        ),
    ),
    *(
        Workload(
            f"W3 answers {prompts}",
            "answers",
            **_REAL,
            prompts=prompts,
            generations=1,
            warm_up=1,
            steps=steps,
            contestants=_ANSWERS,
        )
        for prompts, steps in ((64, 3), (256, 1))
    ),
]
QUICK = [
    Workload("quick", "step", **_QUICK, prompts=2, generations=4, shortest=4, longest=12),
    Workload("quick generation", "generation", **_QUICK, prompts=4, generations=1, shortest=16, longest=16),
    Workload(
        "quick W3",
        "step",
        **_QUICK_REAL,
        prompts=2,
        generations=4,
        micro_batch_prompts=1,
        measured_lengths=True,
        contestants=("ours float32", "stock", "trl bfloat16 checkpointing"),
    ),
    Workload(
        "quick answers",
        "answers",
        **_QUICK_REAL,
        prompts=4,
        generations=1,
        contestants=("ours float32", "stock", "trl bfloat16 2", "llama.cpp Q8_0 2"),
    ),
]


def reward(prompts: list, completions: list[str], **_: object) -> list[float]:
    """The share of even tokens, which differs between completions."""
    shares = []
    for completion in completions:
        words = [int(word) for word in completion.split() if word.isdecimal()]
        shares.append(sum(word % 2 == 0 for word in words) / max(1, len(words)))
    return shares


class Tokenizer:
    """Turns words that are numbers into tokens and back, with the methods that Tunix needs."""

    def __init__(self, workload: Workload):
        self._workload = workload

    def encode(self, text: str, **_: object) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int], **_: object) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> int | None:
        return self._workload.bos

    def eos_id(self) -> int:
        return self._workload.eos

    def pad_id(self) -> int:
        return self._workload.pad
