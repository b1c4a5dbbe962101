"""What a stage asks a cluster for: accelerators and memory, out of the recipe's settings."""

import pytest

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config import job_resources
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.models import families


def settings(recipe="gemma2-2b-it", **changes):
    return effective_settings(recipe, changes)


@pytest.mark.parametrize(
    ("architecture", "exact"),
    [
        ("gemma2_2b", 2_614_341_888),
        ("gemma3_1b", 999_885_952),
        ("gemma3_270m", 268_098_176),
        ("qwen2.5_0.5b", 494_032_768),
    ],
)
def test_parameters_counted_from_sizes_are_those_of_published_models(architecture, exact):
    assert 0.999 * exact < families.approximate_parameters(architecture) <= exact


def test_accelerators_follow_from_platform_and_recipe():
    assert job_resources.generic_resources(settings()) == job_resources.tpu_slice(settings()) == ""
    assert job_resources.generic_resources(settings(platform="cuda")) == "gpu:4"  # its mesh
    assert job_resources.generic_resources(settings("minigrpo-slow", platform="cuda")) == "gpu:1"
    on_tpu = settings(platform="tpu", preflight={"accelerator": "v6e-8"})
    assert job_resources.generic_resources(on_tpu) == "tpu:8" and job_resources.tpu_slice(on_tpu) == "v6e-8"
    with pytest.raises(PipelineError, match=r"^platform: tpu, but preflight\.accelerator is h100-80gb, no TPU"):
        job_resources.generic_resources(settings(platform="tpu", preflight={"accelerator": "h100-80gb"}))


def test_memory_follows_from_the_model():
    assert job_resources.host_memory_mib(settings("tiny")) < 4200
    bfloat16, float32 = (
        job_resources.host_memory_mib(settings(model={"dtype": dtype})) for dtype in ("bfloat16", "float32")
    )
    assert 12.4 * 1024 < bfloat16 < float32 < 32 * 1024  # 12.4 GiB were measured
