"""Greedy completions by llama.cpp, of a GGUF file, with a recipe's prompts, stop tokens and limit."""

import contextlib
import dataclasses
import json
import subprocess
from pathlib import Path

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.llama_environment import MAKE_IT, llama_python, require_file
from gsm8k_grpo.generation import llama_worker
from gsm8k_grpo.models import tokenizers


@dataclasses.dataclass(frozen=True)
class LlamaCompletion:
    """A completion by llama.cpp.

    Attributes:
      text: without the stop token.
      tokens: ids, with the stop token.
      truncated: whether the limit cut it off.
      margins: by how much the logit of each token is above the next best one's.
      same_prompt: whether llama.cpp's own tokenizer makes the same ids of the prompt.
    """

    text: str
    tokens: list[int]
    truncated: bool
    margins: list[float]
    same_prompt: bool


class Llama:
    """A GGUF file in llama.cpp, which runs in a process and an environment of its own."""

    def __init__(
        self, path: Path, tokenizer: object, stop_ids: tuple[int, ...], max_prompt_tokens: int, limit_tokens: int
    ):
        """Loads the file.

        Args:
          path: of the file.
          tokenizer: of the recipe's base model. llama.cpp gets its ids, not a text.
          stop_ids: end a completion.
          max_prompt_tokens: room for a prompt.
          limit_tokens: the most tokens of a completion.

        Raises:
          PipelineError: as `require_file`, or llama.cpp cannot load the file.
        """
        require_file(path)
        self._path, self._tokenizer, self._stop_ids, self._limit = path, tokenizer, stop_ids, limit_tokens
        self._process = subprocess.Popen(
            [str(llama_python()), "-P", llama_worker.__file__, str(path), str(max_prompt_tokens + limit_tokens)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl+C is for this process; the other ends with its standard input
            text=True,
        )
        self._read()

    def complete(self, prompt: str) -> LlamaCompletion:
        """Completes a prompt greedily. As in our sampler, <bos> is put before it once, and padding is never drawn.

        Raises:
          PipelineError: llama.cpp failed, or the file is of a model with fewer tokens.
        """
        ids = tokenizers.with_bos(self._tokenizer, self._tokenizer.encode(prompt))
        request = {"text": prompt, "prompt": ids, "stop_ids": self._stop_ids, "never": self._tokenizer.pad_id()}
        with contextlib.suppress(BrokenPipeError):  # then there is no answer, which says more
            print(json.dumps(request | {"limit_tokens": self._limit}), file=self._process.stdin, flush=True)
        found = self._read()
        tokens = found["tokens"]
        truncated = tokens[-1] not in self._stop_ids
        text = self._tokenizer.decode(tokens if truncated else tokens[:-1])
        return LlamaCompletion(text, tokens, truncated, found["margins"], found["own_prompt"] == ids)

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _read(self) -> dict:
        """The next answer of the process."""
        line = self._process.stdout.readline()
        found = json.loads(line) if line else {"fault": f"its process ended, status {self._process.wait()}"}
        if "fault" in found:
            raise PipelineError(f"{self._path}: llama.cpp: {found['fault']}; {MAKE_IT}")
        return found
