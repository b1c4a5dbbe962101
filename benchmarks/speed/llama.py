"""Contestant `llama.cpp`: greedy generation by `llama-cpp-python`, in the environment of the benchmarks.

It keeps as many sequences as its rows say: one that ends gives its place to the next prompt, as in llama.cpp's own
example `parallel`. Its file has the weights in one of llama.cpp's formats, made by its own `llama_model_quantize` from
the file beside the folder of published weights, or from random weights.
"""

import ctypes
import os
import sys
import tempfile
from pathlib import Path

import llama_cpp
import numpy as np
from turns import Turns
from workloads import Workload

PUBLISHED = "Q4_K_M"  # the format of the file beside the folder of weights
FORMATS = {"F16": llama_cpp.LLAMA_FTYPE_MOSTLY_F16, "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0}
FORMATS |= {"Q4_K_M": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M}
BATCH_TOKENS = 2048  # the most tokens of a call: prompts that are read at once


def answers(workload: Workload, turns: Turns, options: list[str]) -> None:
    """Completes prompts greedily, in their order."""
    file_format, rows = options[0], int(options[1])
    with tempfile.TemporaryDirectory() as folder:
        path = _file(workload, file_format, Path(folder))
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        context = _context(model, workload, rows)
        turns.facts |= {"rows": rows, "weight_bytes": llama_cpp.llama_model_size(model)}
        for count in turns:
            turns.done(_complete(context, workload.prompt_ids()[:count], rows, workload))


def _context(model: object, workload: Workload, rows: int) -> object:
    settings = llama_cpp.llama_context_default_params()
    settings.n_seq_max = rows
    # Each sequence gets an equal part, which llama.cpp rounds up.
    settings.n_ctx = rows * (-(-(workload.prompt_tokens + workload.limit_tokens) // 256) * 256)
    settings.n_batch = settings.n_ubatch = BATCH_TOKENS
    settings.n_threads = settings.n_threads_batch = len(os.sched_getaffinity(0))
    return llama_cpp.llama_init_from_model(model, settings)


def _complete(context: object, prompts: list[list[int]], rows: int, workload: Workload) -> list[int]:
    """The lengths of the prompts' completions, with their stop tokens, in the order of the prompts."""
    memory, batch = llama_cpp.llama_get_memory(context), llama_cpp.llama_batch_init(BATCH_TOKENS, 0, 1)
    waiting, lengths = [*reversed(range(len(prompts)))], [0] * len(prompts)
    newest: dict[int, int] = {}  # by sequence
    places: dict[int, int] = {}
    shown: dict[int, int] = {}
    while waiting or newest:
        batch.n_tokens, ends = 0, {}
        for sequence, token in newest.items():
            ends[sequence] = _append(batch, token, places[sequence], sequence, last=True)
            places[sequence] += 1
        for sequence in set(range(rows)) - newest.keys():
            if not waiting or batch.n_tokens + len(prompts[waiting[-1]]) > BATCH_TOKENS:
                break
            shown[sequence] = waiting.pop()
            prompt = prompts[shown[sequence]]
            for place, token in enumerate(prompt):
                ends[sequence] = _append(batch, token, place, sequence, last=place == len(prompt) - 1)
            places[sequence] = len(prompt)
        if status := llama_cpp.llama_decode(context, batch):
            sys.exit(f"ERROR: llama_decode returned {status}")
        for sequence, index in ends.items():
            logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(context, index), (workload.vocabulary_size,))
            newest[sequence] = int(logits.argmax())
            lengths[shown[sequence]] += 1
            if newest[sequence] == workload.stop or lengths[shown[sequence]] == workload.limit_tokens:
                del newest[sequence]
                llama_cpp.llama_memory_seq_rm(memory, sequence, -1, -1)
    llama_cpp.llama_batch_free(batch)
    return lengths


def _append(batch: object, token: int, place: int, sequence: int, last: bool) -> int:
    """Appends a token to a batch; its index there."""
    index = batch.n_tokens
    batch.token[index], batch.pos[index], batch.logits[index] = token, place, last
    batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
    batch.n_tokens += 1
    return index


def _file(workload: Workload, file_format: str, folder: Path) -> Path:
    """The weights in a format of llama.cpp's."""
    if workload.weights:
        source = Path(workload.weights).parent / f"{Path(workload.weights).name}.gguf"
        if not source.is_file():
            sys.exit(f"ERROR: {source} is missing; ../shared/real-models/build.py makes it")
        if file_format == PUBLISHED:
            return source
    else:
        source = folder / "random.gguf"
        _write_random(workload, source)
    path, settings = folder / f"{file_format}.gguf", llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.allow_requantize = FORMATS[file_format], True
    settings.nthread = len(os.sched_getaffinity(0))
    if llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), ctypes.byref(settings)):
        sys.exit(f"ERROR: llama.cpp could not write {source} as {file_format}")
    return path


def _write_random(workload: Workload, path: Path) -> None:
    """Writes random weights of the workload's shape, without a tokenizer."""
    import gguf

    rng, width, head = np.random.default_rng(0), workload.embed_dim, workload.head_dim
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_block_count(workload.num_layers)
    writer.add_context_length(32_768)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(workload.hidden_dim)
    writer.add_head_count(workload.num_heads)
    writer.add_head_count_kv(workload.num_kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1_000_000.0)
    writer.add_vocab_size(workload.vocabulary_size)
    writer.add_tokenizer_model("no_vocab")

    def add(name: str, *shape: int) -> None:
        matrix = len(shape) > 1
        values = 0.02 * rng.standard_normal(shape, np.float32) if matrix else np.ones(shape, np.float32)
        writer.add_tensor(name, values.astype(np.float16 if matrix else np.float32))

    add("token_embd.weight", workload.vocabulary_size, width)
    add("output_norm.weight", width)
    sizes = {"q": workload.num_heads * head, "k": workload.num_kv_heads * head, "v": workload.num_kv_heads * head}
    for layer in range(workload.num_layers):
        for name, size in sizes.items():
            add(f"blk.{layer}.attn_{name}.weight", size, width)
            add(f"blk.{layer}.attn_{name}.bias", size)
        add(f"blk.{layer}.attn_output.weight", width, sizes["q"])
        for name in ("gate", "up"):
            add(f"blk.{layer}.ffn_{name}.weight", workload.hidden_dim, width)
        add(f"blk.{layer}.ffn_down.weight", width, workload.hidden_dim)
        for name in ("attn", "ffn"):
            add(f"blk.{layer}.{name}_norm.weight", width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
