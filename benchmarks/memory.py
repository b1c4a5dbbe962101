r"""Host memory that a published model takes: for its conversion (stage `base_model`), for loading it, and with QLoRA.

  python benchmarks/memory.py --architecture gemma2_2b --folder /tmp/memory

It writes random bfloat16 weights of the real shape in shards, as Hugging Face does (5 GB for Gemma 2 2B, and again as
much converted), measures each step in a process of its own, and deletes the folder. For QLoRA it prints what weights
and adapters take by the bits of their numbers, and what all live arrays take on the device.
"""

import argparse
import gc
import json
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from gsm8k_grpo.huggingface import config_json, tensor_names  # noqa: E402
from gsm8k_grpo.models import families  # noqa: E402
from gsm8k_grpo.models.families import family_of  # noqa: E402

SHARD_BYTES = 2**30
STEPS = ("convert", "load", "adapt-none", "adapt-int8", "adapt-nf4")


def write_random(architecture: str, folder: Path) -> int:
    """Writes a Hugging Face folder with random weights of the architecture; returns their bytes."""
    import ml_dtypes
    import numpy as np

    from gsm8k_grpo.data import word_problems
    from gsm8k_grpo.data.model_files import INDEX_FILE
    from gsm8k_grpo.data.prompts import build_prompt
    from gsm8k_grpo.huggingface import weight_reading
    from gsm8k_grpo.models.tokenizer_training import train_tokenizer

    folder.mkdir(parents=True)
    config_json.transformers_config(architecture).save_pretrained(folder)
    rows, _ = word_problems.generate_problems(seed=0, train_rows=200, test_rows=0)
    template = family_of(architecture).template
    texts = [build_prompt("", row["question"], template) for row in rows]
    name = family_of(architecture).tokenizer.files[0]
    (folder / name).write_bytes(train_tokenizer(texts, 500, family_of(architecture).name))
    rng, shapes = np.random.default_rng(0), weight_reading.expected_shapes(architecture)
    shards, shard, total = [], {}, 0
    for entry in tensor_names.tensor_table(architecture):
        array = (0.02 * rng.standard_normal(shapes[entry.path], np.float32)).astype(ml_dtypes.bfloat16)
        shard |= dict(zip(entry.names, map(np.ascontiguousarray, entry.to_hf(array)), strict=True))
        if sum(tensor.nbytes for tensor in shard.values()) > SHARD_BYTES:
            shards, shard = [*shards, _save(shard, folder / f"model-{len(shards):05}.safetensors")], {}
        total += array.nbytes
    shards.append(_save(shard, folder / f"model-{len(shards):05}.safetensors"))
    weight_map = {tensor: file for file, names in shards for tensor in names}
    (folder / INDEX_FILE).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return total


def _save(tensors: dict, path: Path) -> tuple[str, list[str]]:
    import safetensors.numpy

    safetensors.numpy.save_file(tensors, path)
    return path.name, list(tensors)


def convert(architecture: str, folder: Path) -> None:
    """Runs the stage `base_model` in this process."""
    model = {"name": "memory", "source": "local", "path": str(folder / "published"), "architecture": architecture}
    model |= {"handle": None, "revision": None, "dtype": "bfloat16", "pretraining": None}
    sys.argv = ["base_model.py", "--settings", json.dumps({"model": model}), "--output", str(folder / "model")]
    runpy.run_path(str(ROOT / "scripts" / "base_model.py"), run_name="__main__")


def load(architecture: str, folder: Path) -> None:
    """Loads the model onto the CPU as training and evaluation do."""
    from gsm8k_grpo.common import jax_setup
    from gsm8k_grpo.models.base_model import load_base_model
    from gsm8k_grpo.models.mesh import make_mesh

    jax_setup.configure_jax()
    load_base_model(folder / "model", make_mesh(1, 1))


def adapt(kind: str, architecture: str, folder: Path) -> None:
    """Makes the policy as training does, its base quantised to `kind` or not, and frees what it was made of."""
    import jax
    import ml_dtypes
    from flax import nnx

    from gsm8k_grpo.models.base_model import load_base_model
    from gsm8k_grpo.models.lora import with_lora
    from gsm8k_grpo.models.mesh import make_mesh

    family, mesh = family_of(architecture), make_mesh(1, 1)
    lora = {"rank": 4, "alpha": 4, "dropout": 0, "target_modules": family.lora_modules}
    policy = with_lora(
        load_base_model(folder / "model", mesh).model,
        {**lora, "base_weights": None if kind == "none" else kind},
        0,
        mesh,
    )
    gc.collect()

    def bits(array: jax.Array) -> int:
        return (ml_dtypes.iinfo if "int" in str(array.dtype) else ml_dtypes.finfo)(array.dtype).bits

    computed = sum(array.size * bits(array) for array in jax.tree.leaves(nnx.state(policy))) / 8
    held = sum(
        shard.data._arrays[0].on_device_size_in_bytes()
        for array in jax.live_arrays()
        for shard in array.addressable_shards
    )
    print(
        f"base_weights {kind}: {computed / 2**30:.3f} GiB computed, {held / 2**30:.3f} GiB in live arrays", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="gemma2_2b", choices=families.PRESETS)
    parser.add_argument("--folder", type=Path, required=True, help="folder to write to; deleted at the end")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        if arguments.step.startswith("adapt-"):
            return adapt(arguments.step.removeprefix("adapt-"), arguments.architecture, arguments.folder)
        {"convert": convert, "load": load}[arguments.step](arguments.architecture, arguments.folder)
        from gsm8k_grpo.common.process_memory import peak_resident_bytes

        print(f"{arguments.step}: at most {peak_resident_bytes() / 2**30:.1f} GiB of memory", flush=True)
        return
    try:
        total = write_random(arguments.architecture, arguments.folder / "published")
        print(f"{arguments.architecture}: {total / 2**30:.1f} GiB of weights", flush=True)
        for step in STEPS:
            started = time.monotonic()
            subprocess.run([sys.executable, __file__, *sys.argv[1:], "--step", step], check=True)
            print(f"{step}: {time.monotonic() - started:.0f} s", flush=True)
    finally:
        shutil.rmtree(arguments.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
