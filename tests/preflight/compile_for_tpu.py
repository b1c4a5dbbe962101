"""Compiles programs for a TPU v5e-8 with libtpu and prints their all-gathers in and outside of loops.

compile_for_tpu.py SETTINGS
"""

import json
import sys

from gsm8k_grpo.config.accelerators import ACCELERATORS
from gsm8k_grpo.models import log_probs
from gsm8k_grpo.preflight import compilation
from gsm8k_grpo.preflight.programs import Programs

log_probs.LOGITS_AT_A_TIME = 2**13  # so small that logits are computed in several parts
settings, mesh, found = json.loads(sys.argv[1]), compilation.make_mesh(ACCELERATORS["v5e-8"], 4, 2), {}


def all_gathers(name):
    collectives = compilation.compile_program(programs, name, "screen")["collectives"]
    return {place: kinds.get("all-gather", {}) for place, kinds in collectives.items()}


for weights in ("gathered", "sharded"):
    settings["mesh"]["decode_weights"] = weights
    programs = Programs(settings, mesh)
    all_gathers("rollout_prefill")
    found[weights] = all_gathers("rollout_decode")
    if weights == "gathered":
        found["weights"] = all_gathers("rollout_weights")
print(json.dumps(found | {name: all_gathers(name) for name in ("reference_log_probs", "gradient")}))
