r"""What passes before a training makes its second step: imports, weights, adapters, compilation.

  python benchmarks/startup.py --results results --recipe tiny --repeats 3

Wants a finished `make report` (base model and prompts are taken from there). Each repeat is two processes: one that
finds no compiled program, and one that finds those of the first, as the second seed of a recipe does. Prints medians.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="results of a finished run")
    parser.add_argument("--recipe", default="tiny", help="whose settings, prompts and base model")
    parser.add_argument("--repeats", type=int, default=3, help="of which medians are taken")
    parser.add_argument("--measured", action="store_true", help=argparse.SUPPRESS)  # the process that is measured
    arguments = parser.parse_args()
    if arguments.measured:
        print(json.dumps(seconds(arguments.results / arguments.recipe, arguments.results / "models")))
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


def seconds(recipe: Path, models_folder: Path) -> dict[str, float]:
    """What each part took of two steps of a training, in this process."""
    marks = [time.perf_counter()]

    def since() -> float:
        marks.append(time.perf_counter())
        return marks[-1] - marks[-2]

    from gsm8k_grpo.common import files, jax_setup
    from gsm8k_grpo.config.stage_settings import stage_settings
    from gsm8k_grpo.grpo.run_folder import Run
    from gsm8k_grpo.rewards.answers import Tags

    jax_setup.configure_jax()
    from gsm8k_grpo.grpo import tunix_setup
    from gsm8k_grpo.grpo.learner import Learner
    from gsm8k_grpo.models.base_model import load_base_model
    from gsm8k_grpo.models.lora import make_policy
    from gsm8k_grpo.models.mesh import make_mesh

    found = {"imports": since()}
    chosen = stage_settings(str(recipe / "settings.yaml"), "seed", "mesh", "prompt", "training", "model")
    how, prompt = chosen["training"], chosen["prompt"]
    mesh = make_mesh(chosen["mesh"]["fsdp"], chosen["mesh"]["tp"])
    loaded = load_base_model(models_folder / chosen["model"]["name"], mesh)
    found["weights"] = since()
    policy = make_policy(loaded.model, how["lora"], chosen["seed"], mesh)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), how["num_iterations"])
        limits = (prompt["max_tokens"], loaded.stop_ids, chosen["seed"], run)
        cluster = tunix_setup.make_rl_cluster(policy, loaded.model, loaded.tokenizer, mesh, how, *limits)
        rows = files.read_jsonl(recipe / "prompts" / "train.jsonl", keys=("id", "prompt", "answer", "prompt_tokens"))
        learner = Learner(cluster, how, Tags(**prompt["tags"]), rows, chosen["seed"], loaded.stop_ids)
        found["adapters"] = since()
        for name in ("first step", "second step"):
            learner.update(learner.sample())
            found[name] = since()
        cluster.actor_trainer.checkpoint_manager.close()
    return found


if __name__ == "__main__":
    main()
