"""What all contestants compute: shapes, prompts, lengths of completions, and the reward.

This module needs the standard library alone: the contestants' environments have little in common, and the reward is
loaded by path.
"""

import dataclasses
import random

PAD, EOS, BOS, STOP = 0, 1, 2, 3  # STOP ends a completion like <end_of_turn>; prompts contain only BOS
LORA_RANK = 16
LEARNING_RATE = 1e-5
MAX_GRADIENT_NORM = 1.0
BETA = 0.04


@dataclasses.dataclass(frozen=True)
class Workload:
    """A Gemma-2 architecture and either GRPO steps or greedy generation with it.

    Attributes:
      kind: `step` or `generation`.
      num_layers, … window_tokens: sizes of the model.
      prompts: prompts of a step, or of a call of generation.
      generations: completions of a prompt (G); 1 for generation.
      prompt_tokens: tokens of each prompt, with <bos>.
      limit_tokens: the most tokens of a completion.
      shortest, longest: the least and greatest forced length; completions of the limit have no stop token.
    """

    name: str
    kind: str
    num_layers: int
    embed_dim: int
    hidden_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocabulary_size: int
    window_tokens: int
    prompts: int
    generations: int
    prompt_tokens: int
    limit_tokens: int
    shortest: int
    longest: int

    @property
    def rows(self) -> int:
        """Completions of a step."""
        return self.prompts * self.generations

    def prompt_ids(self) -> list[list[int]]:
        """The prompts' tokens, the same in each step."""
        rng = random.Random(self.name)
        ordinary = range(STOP + 1, self.vocabulary_size)
        return [[BOS, *rng.choices(ordinary, k=self.prompt_tokens - 1)] for _ in range(self.prompts)]

    def prompt_texts(self) -> list[str]:
        """The prompts as text without <bos>: each word is the number of its token."""
        return [" ".join(map(str, ids[1:])) for ids in self.prompt_ids()]

    def lengths(self, step: int) -> list[int]:
        """Forced lengths of a step's completions, for runs without our side (see forced.py)."""
        rng = random.Random(f"{self.name} {step}")
        return [rng.randint(self.shortest, self.longest) for _ in range(self.rows)]


_TINY = {"num_layers": 3, "embed_dim": 128, "hidden_dim": 256, "num_heads": 8, "num_kv_heads": 4, "head_dim": 16}
_TINY |= {"vocabulary_size": 384, "window_tokens": 64, "prompt_tokens": 40, "limit_tokens": 32}
_MIDDLE = {"num_layers": 8, "embed_dim": 512, "hidden_dim": 2048, "num_heads": 8, "num_kv_heads": 4, "head_dim": 64}
_MIDDLE |= {"vocabulary_size": 8192, "window_tokens": 4096, "prompt_tokens": 128}
_QUICK = {"num_layers": 2, "embed_dim": 16, "hidden_dim": 16, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8}
_QUICK |= {"vocabulary_size": 64, "window_tokens": 16, "prompt_tokens": 8, "limit_tokens": 16}

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
]
QUICK = [
    Workload("quick", "step", **_QUICK, prompts=2, generations=4, shortest=4, longest=12),
    Workload("quick generation", "generation", **_QUICK, prompts=4, generations=1, shortest=16, longest=16),
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

    def encode(self, text: str, **_: object) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int], **_: object) -> str:
        return " ".join(map(str, ids))

    def bos_id(self) -> int:
        return BOS

    def eos_id(self) -> int:
        return EOS

    def pad_id(self) -> int:
        return PAD
