"""Contestant `ours`: steps as scripts/train.py makes them, generation as scripts/evaluate.py does."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from turns import Turns
from workloads import BETA, LEARNING_RATE, MAX_GRADIENT_NORM, Tokenizer, Workload

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from gsm8k_grpo.common import jax_setup  # noqa: E402
from gsm8k_grpo.config.recipes import effective_settings  # noqa: E402
from gsm8k_grpo.grpo.run_folder import Run  # noqa: E402
from gsm8k_grpo.rewards.answers import Tags  # noqa: E402

RECIPES = {"gemma2": "tiny", "qwen2": "minigrpo-fast"}


def step(workload: Workload, turns: Turns, options: list[str]) -> None:
    """Makes GRPO steps by `tunix_setup.make_rl_cluster` and `Learner`."""
    settings = _settings(workload, turns.steps)
    prompt, training, seed = settings["prompt"], settings["training"], settings["seed"]
    with tempfile.TemporaryDirectory() as folder:
        configure_jax(folder)
        from forced import our_sampler

        from gsm8k_grpo.grpo import rollout, tunix_setup
        from gsm8k_grpo.grpo.learner import Learner
        from gsm8k_grpo.models.lora import make_policy
        from gsm8k_grpo.models.mesh import make_mesh

        rollout.Sampler = our_sampler(workload)
        mesh = make_mesh(1, 1)
        base = make_model(workload, mesh, options, folder)
        known = {"answer": "0", "prompt_tokens": workload.prompt_tokens}
        rows = [{"id": text, "prompt": text, **known} for text in workload.prompt_texts()]
        stops = (workload.stop,)
        policy = make_policy(base, training["lora"], 0, mesh)
        run = Run(Path(folder) / "run", training["num_iterations"])
        rl_cluster = tunix_setup.make_rl_cluster(
            policy, base, Tokenizer(workload), mesh, training, prompt["max_tokens"], stops, seed, run
        )
        learner = Learner(rl_cluster, training, Tags.of(prompt), rows, seed, stops)
        for rollout.Sampler.lengths in turns:
            batch = learner.sample()
            row = learner.update(batch)
            for phase in ("rollout", "reference", "update"):
                turns.phase(phase, row[f"{phase}_seconds"])
            turns.done([sample["tokens"] for sample in batch.samples])


def generation(workload: Workload, turns: Turns, options: list[str]) -> None:
    """Completes one batch greedily by `Sampler` and `complete_queue`."""
    with tempfile.TemporaryDirectory() as folder:
        configure_jax(folder)
        from forced import our_sampler

        from gsm8k_grpo.generation.cache_length import cache_tokens
        from gsm8k_grpo.generation.queue import Decoding, complete_queue, plan_queue
        from gsm8k_grpo.models.mesh import make_mesh

        mesh = make_mesh(1, 1)
        model = make_model(workload, mesh, options, folder)
        cache = cache_tokens(workload.prompt_tokens, workload.limit_tokens)
        sampler = our_sampler(workload)(model, Tokenizer(workload), cache, mesh)
        decoding = Decoding(temperature=0.0, top_k=None, top_p=1.0, seed=0)
        prompts = workload.prompt_texts()
        queue = plan_queue(prompts, 1)
        for type(sampler).lengths in turns:
            arguments = (workload.prompt_tokens, workload.limit_tokens, (workload.stop,), mesh)
            completions = {}
            for ended in complete_queue(sampler, prompts, queue, len(queue), decoding, *arguments):
                completions |= ended
            turns.done([completions[row].tokens for row in queue])


def answers(workload: Workload, turns: Turns, options: list[str]) -> None:
    """Completes prompts greedily as the format check does, by `BatchSampler` and `sample_texts`."""
    with tempfile.TemporaryDirectory() as folder:
        configure_jax(folder)
        import jax
        from flax import nnx

        from gsm8k_grpo.evaluation.runner import BatchSampler, sample_texts
        from gsm8k_grpo.models.base_model import BaseModel
        from gsm8k_grpo.models.mesh import make_mesh

        mesh = make_mesh(1, 1)
        model = make_model(workload, mesh, options, folder)
        base = BaseModel(model, model.config, Tokenizer(workload), (workload.stop,), {})
        changes = {"evaluation": {"max_completion_tokens": workload.limit_tokens}}
        settings = effective_settings(RECIPES[workload.family], changes)["evaluation"]
        rows = min(settings["batch_size"], workload.prompts)
        sampler = BatchSampler(base, model, mesh, True, settings, 0, rows, workload.prompt_tokens)
        weights = jax.tree.leaves(nnx.state(model))
        turns.facts |= {"rows": rows, "weight_bytes": sum(leaf.nbytes for leaf in weights)}
        for count in turns:
            texts = sample_texts(sampler, workload.prompt_texts()[:count])
            # A text lacks its stop token; a completion of the limit has none.
            turns.done([min(len(text.split()) + 1, workload.limit_tokens) for text in texts])


def configure_jax(folder: str) -> None:
    """Configures JAX as the stages do, in an empty folder without compiled programs: compilation is timed."""
    before = os.getcwd()
    os.chdir(folder)
    jax_setup.configure_jax()
    os.chdir(before)


def make_model(workload: Workload, mesh: object, options: list[str], folder: str) -> object:
    """A model with published weights, by way of the stage `base_model`, or with random ones, sharded like a loaded one.

    It computes in bfloat16 if `options` say so.
    """
    import jax
    import jax.numpy as jnp
    from flax import nnx

    from gsm8k_grpo.models import building, storage

    dtype = "bfloat16" if "bfloat16" in options else "float32"
    config = building.tunix_config(_architecture(workload))
    if workload.weights:
        settings = {"name": "base", "source": "local", "path": workload.weights, "architecture": "qwen2.5_0.5b"}
        base = Path(folder) / "base"
        changes = {"model": settings | {"handle": None, "revision": None, "dtype": dtype}}
        stage = Path(folder) / "settings.json"
        stage.write_text(json.dumps({"model": effective_settings(RECIPES["qwen2"], changes)["model"]}))
        command = [sys.executable, ROOT / "scripts" / "base_model.py", "--settings", stage, "--output", base]
        subprocess.run(command, check=True, cwd=folder)  # a process of its own, whose peak memory is not the step's
        recorded = json.loads((base / "model.json").read_text())["sha256"]["weights"]
        return storage.load(base / "weights", config, mesh, jnp.dtype(dtype), recorded)
    weights = nnx.state(building.initialise(config, 0))
    model = building.structure(config, jnp.dtype(dtype))
    placed = jax.device_put(weights, nnx.get_named_sharding(weights, mesh))
    nnx.update(model, jax.tree.map(lambda leaf: leaf.astype(dtype), placed))
    return model


def _architecture(workload: Workload) -> dict:
    names = ("family", "num_layers", "embed_dim", "hidden_dim", "num_heads", "num_kv_heads", "head_dim")
    sizes = {name: getattr(workload, name) for name in (*names, "vocabulary_size")}
    return sizes | {"sliding_window_tokens": workload.window_tokens}


def _settings(workload: Workload, steps: int) -> Mapping:
    """The family's recipe with the workload's changes, checked as any recipe."""
    # No dropout and the plain clipping, which the other contestants have.
    lora = {"rank": workload.lora_rank, "alpha": workload.lora_rank, "dropout": 0}
    return effective_settings(
        RECIPES[workload.family],
        {
            "prompt": {"max_tokens": workload.prompt_tokens},
            "training": {
                "max_steps": steps,
                "checkpoint_interval_steps": steps,
                "prompts_per_step": workload.prompts,
                "micro_batch_completions": (workload.micro_batch_prompts or workload.prompts) * workload.generations,
                "num_generations": workload.generations,
                "max_completion_tokens": workload.limit_tokens,
                "beta": BETA,
                "rewards": ["benchmarks/speed/workloads.py:reward"],
                "learning_rate": LEARNING_RATE,
                "max_gradient_norm": MAX_GRADIENT_NORM,
                "lora": lora,
            },
        },
    )
