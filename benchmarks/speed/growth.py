"""How the seconds of our GRPO step grow with the group, the completions' length, the prompts and the model.

  python benchmarks/speed/growth.py            # writes benchmarks/speed/growth.json and docs/growth.svg
  python benchmarks/speed/growth.py --draw     # only draws, from the JSON

It doubles one of four sizes at a time, from a step of 4 prompts × G 4 with completions of 64 tokens and 4 layers of
width 256. All completions are as long as their limit. Each point is a process of its own (run.py) and the median of
the steps after two that compile.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import matplotlib
import run
from workloads import Workload

FOLDER = Path(__file__).parent
BASE = Workload(
    **{"name": "base", "kind": "step", "family": "gemma2", "num_layers": 4, "embed_dim": 256, "hidden_dim": 1024},
    **{"num_heads": 4, "num_kv_heads": 2, "head_dim": 64, "vocabulary_size": 4096, "window_tokens": 4096},
    **{"prompts": 4, "generations": 4, "prompt_tokens": 64, "limit_tokens": 64, "shortest": 64, "longest": 64},
)
AXES = {
    "G, completions of a prompt": [(value, {"generations": value}) for value in (4, 8, 16, 32)],
    "tokens of a completion": [
        (value, {"limit_tokens": value, "shortest": value, "longest": value}) for value in (32, 64, 128, 256)
    ],
    "prompts a step": [(value, {"prompts": value}) for value in (2, 4, 8, 16)],
    "layers of the model": [(value, {"num_layers": value}) for value in (2, 4, 8, 16)],
}
PHASES = {"rollout": "#4878a8", "reference": "#90a959", "update": "#c0504d"}


def measure(steps: int) -> dict:
    """Measures all points: {axis: [{"value", "seconds", and seconds by phase}]}."""
    found, known = {}, {}
    for axis, points in AXES.items():
        found[axis] = []
        for value, changes in points:
            workload = dataclasses.replace(BASE, steps=steps, **changes)
            if workload not in known:
                print(f"{axis}: {value}", flush=True)
                with tempfile.TemporaryDirectory() as logs:
                    measured = run.measure(workload, ["ours"], {True: sys.executable}, Path(logs))
                known[workload] = measured["ours"]
            each = known[workload]
            found[axis].append({"value": value, "seconds": each["seconds"], **each["phase_seconds"]})
    return found


def draw(found: dict, path: Path) -> None:
    """Draws a panel for each axis, with the phases stacked."""
    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams |= {"svg.hashsalt": "growth", "font.size": 9}
    figure, panels = pyplot.subplots(1, len(found), figsize=(12, 2.8), layout="constrained")
    for panel, (axis, points) in zip(panels, found.items(), strict=True):
        values = [point["value"] for point in points]
        panel.stackplot(
            values, [[point[phase] for point in points] for phase in PHASES], colors=PHASES.values(), labels=PHASES
        )
        panel.plot(
            values, [point["seconds"] for point in points], "o-", color="black", markersize=3, label="whole step"
        )
        panel.set(xlabel=axis, xlim=(0, values[-1] * 1.02), ylim=(0, None), xticks=values)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("seconds a step")
    panels[0].legend(loc="upper left", frameon=False, fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=FOLDER / "growth.json")
    parser.add_argument("--drawing", type=Path, default=run.ROOT / "docs" / "growth.svg")
    parser.add_argument("--steps", type=int, default=5, help="timed steps, after compilation")
    parser.add_argument("--draw", action="store_true", help="only draw what was measured before")
    arguments = parser.parse_args()
    if not arguments.draw:
        pythons = {True: Path(sys.executable), False: Path("none")}
        found = {"conditions": run.conditions(pythons) | {"steps": arguments.steps}, "axes": measure(arguments.steps)}
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    draw(json.loads(arguments.output.read_text())["axes"], arguments.drawing)


if __name__ == "__main__":
    main()
