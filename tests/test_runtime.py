"""What a process sets before it computes."""

import json
import subprocess
import sys

IMPORTED = """
import json, sys
sys.modules["torch"] = None  # tensorboardX imports it where it is installed (make parity)
sys.path.insert(0, "scripts")
from gsm8k_grpo import runtime
runtime.configure_jax()
from gsm8k_grpo import base, memory, models, rollout, training
from tunix.rl import rl_cluster
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules} | {rl_cluster.RLCluster.__module__})))
"""


def test_a_stage_imports_nothing_heavy_that_it_does_not_use(root):
    done = subprocess.run([sys.executable, "-c", IMPORTED], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"jax", "tunix", "qwix", "tunix.rl.rl_cluster"} <= found
    assert not found & {"pandas", "pyarrow", "tensorflow", "transformers", "wandb", "matplotlib", "kaggle"}
