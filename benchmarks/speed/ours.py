"""Contestant `ours`: steps as scripts/train.py makes them, generation as scripts/evaluate.py does."""

import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from turns import Turns
from workloads import BETA, LEARNING_RATE, LORA_RANK, MAX_GRADIENT_NORM, STOP, Tokenizer, Workload

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from gsm8k_grpo.common import jax_setup  # noqa: E402
from gsm8k_grpo.config.recipes import effective_settings  # noqa: E402
from gsm8k_grpo.grpo.run_folder import Run  # noqa: E402
from gsm8k_grpo.rewards.answers import Tags  # noqa: E402


def step(workload: Workload, turns: Turns) -> None:
    """Makes GRPO steps by `tunix_setup.make_rl_cluster` and `Learner`."""
    settings = _settings(workload, turns.steps)
    prompt, training, seed = settings["prompt"], settings["training"], settings["seed"]
    with tempfile.TemporaryDirectory() as folder:
        _configure_jax(folder)
        from forced import our_sampler

        from gsm8k_grpo.grpo import rollout, tunix_setup
        from gsm8k_grpo.grpo.learner import Learner
        from gsm8k_grpo.models.lora import make_policy
        from gsm8k_grpo.models.mesh import make_mesh

        rollout.Sampler = our_sampler(workload)
        mesh = make_mesh(1, 1)
        base = _model(workload, mesh)
        known = {"answer": "0", "prompt_tokens": workload.prompt_tokens}
        rows = [{"id": text, "prompt": text, **known} for text in workload.prompt_texts()]
        policy = make_policy(base, training["lora"], 0, mesh)
        run = Run(Path(folder) / "run", training["num_iterations"])
        rl_cluster = tunix_setup.make_rl_cluster(
            policy, base, Tokenizer(), mesh, training, prompt["max_tokens"], (STOP,), seed, run
        )
        learner = Learner(rl_cluster, training, Tags.of(prompt), rows, seed, (STOP,))
        for _ in turns:
            batch = learner.sample()
            row = learner.update(batch)
            for phase in ("rollout", "reference", "update"):
                turns.phase(phase, row[f"{phase}_seconds"])
            turns.done([sample["tokens"] for sample in batch.samples])


def generation(workload: Workload, turns: Turns) -> None:
    """Completes one batch greedily by `Sampler` and `complete_batch`."""
    with tempfile.TemporaryDirectory() as folder:
        _configure_jax(folder)
        from forced import our_sampler

        from gsm8k_grpo.generation.batches import Decoding, complete_batch, plan_batches
        from gsm8k_grpo.generation.cache_length import cache_tokens
        from gsm8k_grpo.models.mesh import make_mesh

        mesh = make_mesh(1, 1)
        model = _model(workload, mesh)
        cache = cache_tokens(workload.prompt_tokens, workload.limit_tokens)
        sampler = our_sampler(workload)(model, Tokenizer(), cache, mesh)
        decoding = Decoding(temperature=0.0, top_k=None, top_p=1.0, seed=0)
        prompts = workload.prompt_texts()
        (batch,) = plan_batches(prompts, 1, len(prompts))
        for _ in turns:
            arguments = (workload.prompt_tokens, workload.limit_tokens, (STOP,), mesh)
            completions = complete_batch(sampler, prompts, batch, len(batch), decoding, *arguments)
            turns.done([completion.tokens for completion in completions])


def _configure_jax(folder: str) -> None:
    """Configures JAX as the stages do, in an empty folder without compiled programs: compilation is timed."""
    before = os.getcwd()
    os.chdir(folder)
    jax_setup.configure_jax()
    os.chdir(before)


def _model(workload: Workload, mesh: object) -> object:
    """A model with random weights, sharded like those of a loaded one."""
    import jax
    from flax import nnx

    from gsm8k_grpo.models import building

    graph, state = nnx.split(building.initialise(building.tunix_config(_architecture(workload)), 0))
    return nnx.merge(graph, jax.device_put(state, nnx.get_named_sharding(state, mesh)))


def _architecture(workload: Workload) -> dict:
    names = ("num_layers", "embed_dim", "hidden_dim", "num_heads", "num_kv_heads", "head_dim", "vocabulary_size")
    sizes = {name: getattr(workload, name) for name in names}
    return {"family": "gemma2", **sizes, "sliding_window_tokens": workload.window_tokens}


def _settings(workload: Workload, steps: int) -> Mapping:
    """The recipe `tiny` with the workload's changes, checked as any recipe."""
    return effective_settings(
        "tiny",
        {
            "prompt": {"max_tokens": workload.prompt_tokens},
            "training": {
                "max_steps": steps,
                "checkpoint_interval_steps": steps,
                "prompts_per_step": workload.prompts,
                "micro_batch_completions": workload.rows,
                "num_generations": workload.generations,
                "max_completion_tokens": workload.limit_tokens,
                "beta": BETA,
                "rewards": ["benchmarks/speed/workloads.py:reward"],
                "learning_rate": LEARNING_RATE,
                "max_gradient_norm": MAX_GRADIENT_NORM,
                "lora": {"rank": LORA_RANK, "alpha": LORA_RANK},
            },
        },
    )
