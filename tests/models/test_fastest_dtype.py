"""The precision that a machine multiplies faster (`model.dtype: fastest`)."""

import numpy as np
import pytest

from gsm8k_grpo.common import files
from gsm8k_grpo.models import precision
from gsm8k_grpo.models.fastest_dtype import faster_dtype, fastest_dtype


@pytest.mark.parametrize(
    ("bfloat16", "float32", "chosen"),
    [(1.0, 3.0, "bfloat16"), (1.0, 1.0, "bfloat16"), (1.0, 0.95, "bfloat16"), (1.0, 0.6, "float32")],
)
def test_float32_must_pay_for_its_memory(bfloat16, float32, chosen):
    assert faster_dtype(bfloat16, float32) == chosen


def test_this_machine_is_measured_and_the_log_says_what_decided(capsys):
    chosen = fastest_dtype()
    printed = capsys.readouterr().out
    assert chosen in precision.WIDTH_BYTES
    assert printed.count("GFLOP/s") == 2 and printed.endswith(f"computes in {chosen}\n")


def test_a_model_folder_records_the_precision_that_was_found(tmp_path):
    from gsm8k_grpo.models.model_folder_writing import write_model_folder

    def make(folder):
        (folder / "tokenizer.model").write_bytes(b"tokenizer")
        return {"embedder": {"input_embedding": np.ones((4, 2), np.float32)}}, {"source": "test"}

    write_model_folder(tmp_path, {"name": "small", "architecture": {}, "dtype": "fastest"}, make)
    assert files.read_json(tmp_path / "model.json")["dtype"] in precision.WIDTH_BYTES


def test_plans_take_the_most_memory_here_and_bfloat16_on_an_accelerator():
    assert [precision.widest_bytes(each) for each in ("float32", "bfloat16", "fastest")] == [4, 2, 4]
    assert [precision.accelerator_dtype(each) for each in ("float32", "bfloat16", "fastest")] == [
        "float32",
        "bfloat16",
        "bfloat16",
    ]
