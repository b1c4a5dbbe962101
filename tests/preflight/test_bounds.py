"""The least time of a program, by hand."""

import pytest

from gsm8k_grpo.config.accelerators import Accelerator
from gsm8k_grpo.preflight.bounds import program_bounds

SLICE = Accelerator("slice", 8, "2x4", 2**34, {"bfloat16": 100.0}, 10.0, 5.0)
RECORD = {
    **{"flops": 300.0, "bytes_accessed": 20.0, "read_bytes": 40.0},
    "collectives": {"in_loops": {"all-gather": {"bytes": 10}, "all-reduce": {"bytes": 5}}, "outside": {}},
}
OUTSIDE = {"all-gather": {"bytes": 2}}


@pytest.mark.parametrize(
    ("name", "outside", "seconds", "bound_by"),
    [
        ("update_gradient", {}, {"compute": 3.0, "memory": 2.0, "interconnect": 3.0}, "compute"),
        ("update_gradient", OUTSIDE, {"compute": 3.0, "memory": 2.0, "interconnect": 3.4}, "interconnect"),
        ("rollout_decode", OUTSIDE, {"compute": 3.0, "memory": 4.0, "interconnect": 3.0}, "memory"),
    ],
)
def test_the_slowest_resource_bounds_a_program(name, outside, seconds, bound_by):
    """A decoding program's collectives outside of its loop run once, and its bound is that of one token."""
    record = RECORD | {"name": name, "collectives": RECORD["collectives"] | {"outside": outside}}
    found = program_bounds(record, SLICE, "bfloat16")
    assert found["seconds_by"] == pytest.approx(seconds)
    assert (found["bound_by"], found["bound_seconds"]) == (bound_by, pytest.approx(seconds[bound_by]))


def test_one_chip_has_no_interconnect():
    alone = Accelerator("chip", 1, None, 2**34, {"bfloat16": 100.0}, 10.0, None)
    assert program_bounds(RECORD | {"name": "x"}, alone, "bfloat16")["seconds_by"].keys() == {"compute", "memory"}
