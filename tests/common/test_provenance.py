"""What a process sets before it computes."""

import json
import os
import subprocess
import sys

import psutil
import pytest

from gsm8k_grpo.common.provenance import collect_provenance

IMPORTED = """
import json, sys
sys.path.insert(0, "scripts")
from gsm8k_grpo.common import jax_setup
jax_setup.configure_jax()
from gsm8k_grpo.grpo import run_start  # first, as training does
from gsm8k_grpo.generation import sampler
from gsm8k_grpo.grpo import artifact_writing, session, loop
from gsm8k_grpo.models import base_model
from gsm8k_grpo.preflight import this_machine
from tunix.rl import rl_cluster
print(json.dumps(sorted({name.split(".")[0] for name in sys.modules} | {rl_cluster.RLCluster.__module__})))
"""


def test_a_stage_imports_nothing_heavy_that_it_does_not_use(root):
    done = subprocess.run([sys.executable, "-c", IMPORTED], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = set(json.loads(done.stdout.splitlines()[-1]))
    assert {"jax", "tunix", "qwix", "tunix.rl.rl_cluster"} <= found
    assert not found & {"pandas", "pyarrow", "tensorflow", "torch", "transformers", "wandb", "matplotlib", "kaggle"}


def test_the_processor_and_the_cores_in_use_are_recorded():
    """On one core instead of two, sums are in another order: then two results of one commit can differ."""
    processor = collect_provenance()["processor"]
    assert processor.startswith(f"{len(psutil.Process().cpu_affinity())} × ") and len(processor) > len("2 × ")
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert collect_provenance()["processor"] == f"1 × {processor.partition(' × ')[2]}"
    finally:
        os.sched_setaffinity(0, allowed)


COMPILED = """
from gsm8k_grpo.common import jax_setup
jax_setup.configure_jax()
import jax
jax.jit(lambda x: x * 3 + 1)(2.0).block_until_ready()
"""


@pytest.mark.parametrize("named", [True, False])
def test_compiled_programs_are_kept_beside_the_results_or_where_jaxs_own_variable_says(root, tmp_path, named):
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"PYTHONPATH": str(root / "scripts"), "JAX_PLATFORMS": "cpu"}
    if named:
        environment["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path / "elsewhere")
    subprocess.run([sys.executable, "-c", COMPILED], cwd=tmp_path, env=environment, check=True)
    (folder,) = tmp_path.iterdir()
    assert folder.name == ("elsewhere" if named else "results")
    assert any(path.is_file() for path in (folder if named else folder / "cache" / "jax").iterdir())
