"""A stage computes on the kind of device that the settings name, or stops."""

import pytest

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.common.jax_setup import PLATFORM_VARIABLE, require_platform
from gsm8k_grpo.models.mesh import make_mesh


def test_a_mesh_of_another_platform_is_refused_with_the_way_out(monkeypatch):
    monkeypatch.setenv(PLATFORM_VARIABLE, "tpu")
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    with pytest.raises(PipelineError) as refused:
        make_mesh(1, 1)
    assert str(refused.value) == (
        "platform: the setting is tpu, but JAX computes on cpu here; run make setup PLATFORM=tpu where there is such a "
        "device, or set platform=cpu"
    )
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # as for a preflight, in the same shell
    with pytest.raises(PipelineError, match=r"here; unset JAX_PLATFORMS \(it is cpu\), or set platform=cpu$"):
        make_mesh(1, 1)


@pytest.mark.parametrize(("setting", "found"), [("cuda", "gpu"), ("tpu", "tpu"), ("cpu", "cpu"), (None, "tpu")])
def test_the_platform_of_the_settings_is_accepted_and_by_hand_any(monkeypatch, setting, found):
    if setting:
        monkeypatch.setenv(PLATFORM_VARIABLE, setting)
    else:
        monkeypatch.delenv(PLATFORM_VARIABLE, raising=False)
    require_platform(found)


def test_an_accelerator_that_the_settings_do_not_name_is_not_used(monkeypatch):
    monkeypatch.setenv(PLATFORM_VARIABLE, "cpu")
    with pytest.raises(PipelineError, match=r"on cuda here; export JAX_PLATFORMS=cpu, or set platform=cuda$"):
        require_platform("gpu")
