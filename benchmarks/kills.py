r"""Kills a training run at random moments, again and again, and holds what it ends with against a run left alone.

  python benchmarks/kills.py --results results --recipe tiny --kills 20 --work /tmp/kills

Wants a finished `make report` (base model and prompts are taken from there). Each kill is a SIGKILL at a random moment:
while starting, compiling, in a rollout, an update or the writing of a checkpoint; then the same command again. Prints a
line for each kill and, at the end, whether metrics.csv (its seconds apart), the kept completions, the adapters and the
optimizer state of every checkpoint are the same to the last bit; writes the same to WORK/kills.json.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="results of a finished run")
    parser.add_argument("--recipe", default="tiny", help="whose settings, prompts and base model")
    parser.add_argument("--kills", type=int, default=20, help="how many")
    parser.add_argument("--interval-steps", type=int, default=5, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, required=True, help="folder to train in; emptied first")
    arguments = parser.parse_args()
    settings = yaml.safe_load((arguments.results / arguments.recipe / "settings.yaml").read_text())
    settings["training"]["checkpoint_interval_steps"] = arguments.interval_steps
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    (arguments.work / "settings.yaml").write_text(yaml.safe_dump(settings))
    model = arguments.results / "models" / settings["model"]["name"]
    rows = arguments.results / arguments.recipe / "prompts" / "train.jsonl"

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
    finish(alone)  # compiles; the next one is timed
    shutil.rmtree(alone)
    seconds = finish(alone)
    print(f"left alone: {seconds:.1f} s, {settings['training']['max_steps']} steps")

    moments, kills = random.Random(arguments.seed), []
    while len(kills) < arguments.kills:
        process, after = start(killed), moments.uniform(0.0, 0.5 * seconds)
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:  # it came to its end; the kills that are left go to a run from the start
            print("finished; compared and started again")
            compare(alone, killed)
            shutil.rmtree(killed)
            continue
        kills.append({"after_seconds": round(after, 2), "found": state(killed)})
        print(f"kill {len(kills)} after {after:.1f} s: {kills[-1]['found']}", flush=True)
    finish(killed)
    compared = compare(alone, killed)
    report = {"kills": kills, "seconds_left_alone": round(seconds, 1), "compared": compared}
    (arguments.work / "kills.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"{len(kills)} kills, then the same to the last bit: {compared}")


def state(output: Path) -> str:
    """What a killed run has left."""
    rows = [len(path.read_bytes().splitlines()) for path in output.glob("runs/*/metrics.jsonl")]
    listed = [json.loads(path.read_text()) for path in output.glob("runs/*/checkpoints.json")]
    saved = max((int(step) for each in listed for step in each), default=0)
    written = [path for path in output.glob("runs/*/checkpoints/actor/*") if "tmp" in path.name]
    torn = f", {written[0].name} half written" if written else ""
    return f"{rows[0] if rows else 0} rows, checkpoint {saved}{torn}"


def compare(first: Path, second: Path) -> dict[str, int]:
    """How many things of each kind were held against each other; ends the benchmark where two differ."""
    import pandas as pd

    tables = [pd.read_csv(folder / "metrics.csv") for folder in (first, second)]
    columns = [name for name in tables[0] if not name.endswith("_seconds")]
    same = {"rows of metrics.csv": tables[0][columns].equals(tables[1][columns])}
    same["samples.jsonl"] = (first / "samples.jsonl").read_bytes() == (second / "samples.jsonl").read_bytes()
    arrays = [checkpoint_arrays(folder) for folder in (first, second)]
    same["arrays of checkpoints"] = arrays[0] == arrays[1]
    if wrong := [what for what, equal in same.items() if not equal]:
        sys.exit(f"NOT the same: {', '.join(wrong)} of {first} and {second}")
    return {"rows": len(tables[0]), "columns": len(columns), "arrays": len(arrays[0])}


def checkpoint_arrays(output: Path) -> dict[str, str]:
    """A hash of each array (adapters, optimizer state) of each checkpoint."""
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
