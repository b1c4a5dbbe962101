r"""Seconds until training has made its second step: imports, weights, adapters, compilation.

  python benchmarks/startup.py --results results --recipe tiny --repeats 3

It takes base model and prompts from a finished `make report`. Each repeat runs two processes: the first finds no
compiled program; the second finds those of the first, as a recipe's second seed does. It prints medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from gsm8k_grpo.common import files, layout  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="results of a finished run")
    parser.add_argument("--recipe", default="tiny", help="recipe whose settings, prompts and base model are used")
    parser.add_argument("--repeats", type=int, default=3, help="repeats, of which medians are printed")
    parser.add_argument("--measured", action="store_true", help=argparse.SUPPRESS)  # for the measured process
    arguments = parser.parse_args()
    if arguments.measured:
        print(json.dumps(phase_seconds(arguments.results, arguments.recipe)))
        return
    measured = {"nothing compiled": [], "all compiled": []}
    for _ in range(arguments.repeats):
        with tempfile.TemporaryDirectory() as programs:
            for which in measured:
                environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": programs, "JAX_PLATFORMS": "cpu"}
                started = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, *sys.argv, "--measured"],
                    capture_output=True,
                    text=True,
                    env=environment,
                )
                if done.returncode:
                    sys.exit(f"ERROR: {done.stderr}")
                found = json.loads(done.stdout.splitlines()[-1])
                total = time.perf_counter() - started
                measured[which].append({"interpreter, end": total - sum(found.values()), **found, "all": total})
    for which, runs in measured.items():
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        print(f"{which}: " + ", ".join(f"{name} {median:.2f} s" for name, median in medians.items()))


def phase_seconds(results: Path, recipe: str) -> dict[str, float]:
    """Makes two steps of training in this process and times each phase."""
    marks = [time.perf_counter()]

    def seconds_since_last() -> float:
        marks.append(time.perf_counter())
        return marks[-1] - marks[-2]

    from gsm8k_grpo.common import jax_setup
    from gsm8k_grpo.config.settings_argument import stage_settings
    from gsm8k_grpo.grpo.run_folder import Run
    from gsm8k_grpo.rewards.answers import Tags

    jax_setup.configure_jax()
    from gsm8k_grpo.grpo import tunix_setup
    from gsm8k_grpo.grpo.learner import Learner
    from gsm8k_grpo.models.base_model import load_base_model
    from gsm8k_grpo.models.lora import make_policy
    from gsm8k_grpo.models.mesh import make_mesh

    found = {"imports": seconds_since_last()}
    blocks = ("seed", "mesh", "prompt", "training", "model")
    settings = stage_settings(str(layout.settings_file(results, recipe)), *blocks)
    seed, prompt, training = settings["seed"], settings["prompt"], settings["training"]
    mesh = make_mesh(settings["mesh"]["fsdp"], settings["mesh"]["tp"])
    loaded = load_base_model(layout.model_folder(results, settings["model"]["name"]), mesh)
    found["weights"] = seconds_since_last()
    policy = make_policy(loaded.model, training["lora"], seed, mesh)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), training["num_iterations"])
        limits = (prompt["max_tokens"], loaded.stop_ids, seed, run)
        rl_cluster = tunix_setup.make_rl_cluster(policy, loaded.model, loaded.tokenizer, mesh, training, *limits)
        prompts = layout.prompts_file(results, recipe, "train")
        rows = files.read_jsonl(prompts, keys=("id", "prompt", "answer", "prompt_tokens"))
        learner = Learner(rl_cluster, training, Tags.of(prompt), rows, seed, loaded.stop_ids)
        found["adapters"] = seconds_since_last()
        for name in ("first step", "second step"):
            learner.update(learner.sample())
            found[name] = seconds_since_last()
        rl_cluster.actor_trainer.checkpoint_manager.close()
    return found


if __name__ == "__main__":
    main()
