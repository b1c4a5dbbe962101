"""The process that runs llama.cpp, in its own environment: `python llama_worker.py FILE CONTEXT_TOKENS`.

It gets one JSON object a line, the arguments of `LlamaModel.complete`, and answers with one: what that returns, or the
sentence `fault`.
"""

import ctypes
import json
import os
import sys
from collections.abc import Callable, Sequence

import numpy as np


def complete_greedily(
    next_logits: Callable[[Sequence[int]], np.ndarray],
    prompt: Sequence[int],
    stop_ids: Sequence[int],
    never: int,
    limit_tokens: int,
) -> tuple[list[int], list[float]]:
    """Always takes the likeliest token, up to a stop token or the limit.

    Args:
      next_logits: what a model says after these further tokens, [V].
      prompt: token ids.
      stop_ids: end a completion.
      never: an id that is never taken.
      limit_tokens: the most tokens of a completion.

    Returns:
      (the tokens with the stop token; how far the logit of each is above the next best one's).
    """
    tokens, margins, further = [], [], prompt
    while True:
        logits = np.array(next_logits(further))
        logits[never] = -np.inf
        token = int(logits.argmax())
        best, logits[token] = logits[token], -np.inf
        tokens.append(token)
        margins.append(float(best - logits.max()))
        if token in stop_ids or len(tokens) == limit_tokens:
            return tokens, margins
        further = [token]


class LlamaModel:
    """A GGUF file in llama.cpp, with llama.cpp's own defaults."""

    def __init__(self, path: str, context_tokens: int):
        import llama_cpp

        self._llama, self.said = llama_cpp, []

        @llama_cpp.llama_log_callback
        def log(level: int, text: bytes, _: object) -> None:
            if level == 4:  # an error
                self.said.append(text.decode(errors="replace").strip())

        self._log = log  # llama.cpp calls it as long as the process lives
        llama_cpp.llama_log_set(log, ctypes.c_void_p())
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), llama_cpp.llama_model_default_params())
        if not self._model:
            raise ValueError(self.said[0] if self.said else "it cannot be loaded")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = context_tokens
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        settings.n_threads = settings.n_threads_batch = cores
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        if not self._context:
            raise ValueError(self.said[0] if self.said else f"no memory for {context_tokens} tokens")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._size = llama_cpp.llama_vocab_n_tokens(self._vocabulary)

    def complete(
        self, text: str, prompt: list[int], stop_ids: list[int], never: int, limit_tokens: int
    ) -> dict[str, list]:
        """Completes a prompt's token ids.

        Args:
          text: the prompt, without its <bos>; it is only compared.
          prompt, stop_ids, never, limit_tokens: as in `complete_greedily`.

        Returns:
          `tokens` and `margins`; `own_prompt`, the ids that llama.cpp itself makes of the text.
        """
        if max(*prompt, *stop_ids, never) >= self._size:
            raise ValueError(f"it has {self._size} tokens, fewer than the recipe's model")
        self._llama.llama_memory_clear(self._llama.llama_get_memory(self._context), True)
        tokens, margins = complete_greedily(self._next_logits, prompt, stop_ids, never, limit_tokens)
        return {"tokens": tokens, "margins": margins, "own_prompt": self._tokenize(text)}

    def _next_logits(self, tokens: Sequence[int]) -> np.ndarray:
        ids = (self._llama.llama_token * len(tokens))(*tokens)
        if status := self._llama.llama_decode(self._context, self._llama.llama_batch_get_one(ids, len(tokens))):
            raise ValueError(f"llama_decode returned {status}")
        return np.ctypeslib.as_array(self._llama.llama_get_logits_ith(self._context, -1), (self._size,))

    def _tokenize(self, text: str) -> list[int]:
        content = text.encode()
        ids = (self._llama.llama_token * (len(content) + 2))()
        count = self._llama.llama_tokenize(self._vocabulary, content, len(content), ids, len(ids), True, True)
        return ids[:count]


def serve(path: str, context_tokens: int) -> None:
    """Answers requests until standard input ends."""
    try:
        model = LlamaModel(path, context_tokens)
    except ValueError as error:
        _answer({"fault": str(error)})
        return
    _answer({"ready": True})
    for line in sys.stdin:
        try:
            _answer(model.complete(**json.loads(line)))
        except ValueError as error:
            _answer({"fault": str(error)})


def _answer(found: dict) -> None:
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
