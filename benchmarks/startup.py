r"""Times what a training does before its second step ends: imports, weights, adapters, compilation.

  python benchmarks/startup.py --results results --recipe tiny --repeats 3

Needs a finished `make report`, whose base model and prompts it uses. Each repeat runs two processes: one without any
compiled program, and one with those of the first, like the second seed of a recipe. Prints medians.
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
    parser.add_argument("--repeats", type=int, default=3, help="number of repeats")
    parser.add_argument("--measured", action="store_true", help=argparse.SUPPRESS)  # run by this benchmark itself
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
    """The seconds of each part of a training of two steps, in this process."""
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
    settings = stage_settings(str(recipe / "settings.yaml"), "seed", "mesh", "prompt", "training", "model")
    training_settings, prompt_settings, seed = settings["training"], settings["prompt"], settings["seed"]
    mesh = make_mesh(settings["mesh"]["fsdp"], settings["mesh"]["tp"])
    base = load_base_model(models_folder / settings["model"]["name"], mesh)
    found["weights"] = since()
    policy = make_policy(base.model, training_settings["lora"], seed, mesh)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder), training_settings["num_iterations"])
        limits = (prompt_settings["max_tokens"], base.stop_ids, seed, run)
        rl_cluster = tunix_setup.make_rl_cluster(policy, base.model, base.tokenizer, mesh, training_settings, *limits)
        rows = files.read_jsonl(recipe / "prompts" / "train.jsonl", keys=("id", "prompt", "answer", "prompt_tokens"))
        learner = Learner(rl_cluster, training_settings, Tags(**prompt_settings["tags"]), rows, seed, base.stop_ids)
        found["adapters"] = since()
        for name in ("first step", "second step"):
            learner.update(learner.sample())
            found[name] = since()
        rl_cluster.actor_trainer.checkpoint_manager.close()
    return found


if __name__ == "__main__":
    main()
