r"""Kills a training run again and again at random moments, and compares its result with that of an undisturbed run.

  python benchmarks/kills.py --results results --recipe tiny --kills 20 --work /tmp/kills

It takes base model and prompts from a finished `make report`. Each kill is a SIGKILL at a random moment: at the start,
in compilation, in a rollout, in an update or while a checkpoint is written. Then the same command runs again. It
prints a line for each kill. At the end it tells whether metrics.csv (without its seconds), the kept completions, and
the adapters and optimizer state of every checkpoint are equal to the last bit. It also writes this to WORK/kills.json.
"""

import argparse
import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from gsm8k_grpo.common import layout  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="results of a finished run")
    parser.add_argument("--recipe", default="tiny", help="recipe whose settings, prompts and base model are used")
    parser.add_argument("--kills", type=int, default=20, help="number of kills")
    parser.add_argument("--interval-steps", type=int, default=5, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--work", type=Path, required=True, help="folder to train in; emptied first")
    arguments = parser.parse_args()
    settings = yaml.safe_load(layout.settings_file(arguments.results, arguments.recipe).read_text())
    settings["training"]["checkpoint_interval_steps"] = arguments.interval_steps
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    (arguments.work / "settings.yaml").write_text(yaml.safe_dump(settings))
    model = layout.model_folder(arguments.results, settings["model"]["name"])
    rows = layout.prompts_file(arguments.results, arguments.recipe, "train")

    def start(output: Path) -> subprocess.Popen:
        command = [sys.executable, ROOT / "scripts" / "train.py", "--settings", arguments.work / "settings.yaml"]
        command += ["--rows", rows, "--model", model, "--output", output]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finish(output: Path) -> float:
        started, process = time.monotonic(), start(output)
        _, errors = process.communicate()
        if process.returncode:
            sys.exit(f"the run in {output} ended with {process.returncode}:\n{errors}")
        return time.monotonic() - started

    alone, killed = arguments.work / "alone", arguments.work / "killed"
    finish(alone)  # compiles the programs; the next run is timed without compilation
    shutil.rmtree(alone)
    seconds = finish(alone)
    print(f"undisturbed: {seconds:.1f} s, {settings['training']['max_steps']} steps")

    moments, kills = random.Random(arguments.seed), []
    while len(kills) < arguments.kills:
        process, after = start(killed), moments.uniform(0.0, 0.5 * seconds)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:  # the run ended before its kill; the other kills go to a new run
            print("finished: compared, and started again")
            compare(alone, killed)
            shutil.rmtree(killed)
            continue
        kills.append({"after_seconds": round(after, 2), "found": describe_state(killed)})
        print(f"kill {len(kills)} after {after:.1f} s: {kills[-1]['found']}", flush=True)
    finish(killed)
    compared = compare(alone, killed)
    report = {"kills": kills, "seconds_left_alone": round(seconds, 1), "compared": compared}
    (arguments.work / "kills.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"{len(kills)} kills, then equal to the last bit: {compared}")


def describe_state(output: Path) -> str:
    """What a killed run has left behind."""
    rows = [len(path.read_bytes().splitlines()) for path in output.glob("runs/*/metrics.jsonl")]
    listed = [json.loads(path.read_text())["checkpoints"] for path in output.glob("runs/*/checkpoints.json")]
    saved = max((int(step) for each in listed for step in each), default=0)
    written = [path for path in output.glob("runs/*/checkpoints/actor/*") if "tmp" in path.name]
    torn = f", {written[0].name} half written" if written else ""
    return f"{rows[0] if rows else 0} rows, checkpoint {saved}{torn}"


def compare(first: Path, second: Path) -> dict[str, int]:
    """Compares two runs and returns how many things of each kind were compared; exits where two differ."""
    import pandas as pd

    tables = [pd.read_csv(folder / "metrics.csv") for folder in (first, second)]
    columns = [name for name in tables[0] if not name.endswith("_seconds")]
    equal = {"rows of metrics.csv": tables[0][columns].equals(tables[1][columns])}
    equal["samples.jsonl"] = (first / "samples.jsonl").read_bytes() == (second / "samples.jsonl").read_bytes()
    arrays = [checkpoint_arrays(folder) for folder in (first, second)]
    equal["arrays of checkpoints"] = arrays[0] == arrays[1]
    if wrong := [name for name, same in equal.items() if not same]:
        sys.exit(f"NOT equal: {', '.join(wrong)} of {first} and {second}")
    return {"rows": len(tables[0]), "columns": len(columns), "arrays": len(arrays[0])}


def checkpoint_arrays(output: Path) -> dict[str, str]:
    """A hash of each array (adapters and optimizer state) of each checkpoint."""
    import jax
    import orbax.checkpoint as ocp

    found = {}
    for kept in json.loads((output / "checkpoints.json").read_text())["checkpoints"]:
        for item in ("model_params", "optimizer_state"):
            with ocp.PyTreeCheckpointer() as checkpointer:
                restored = checkpointer.restore((output / kept["path"] / item).absolute())
            for path, leaf in jax.tree_util.tree_leaves_with_path(restored):
                name = f"{kept['name']} {item}{jax.tree_util.keystr(path)}"
                found[name] = hashlib.sha256(leaf.tobytes()).hexdigest()
    return found


if __name__ == "__main__":
    main()
