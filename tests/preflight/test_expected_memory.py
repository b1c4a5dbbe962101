"""What training and evaluation hold is known before anything is compiled; what does not fit is refused with advice."""

import pytest

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.merging import merge
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.models import log_probs
from gsm8k_grpo.models.mesh import make_mesh
from gsm8k_grpo.preflight import compilation, expected_memory, this_machine
from gsm8k_grpo.preflight.programs import Programs

SIZES = {
    "narrow": {"num_layers": 8, "embed_dim": 64, "hidden_dim": 256, "num_heads": 4, "num_kv_heads": 2},
    "wide": {"num_layers": 6, "embed_dim": 320, "hidden_dim": 768, "num_heads": 5, "num_kv_heads": 1},
}
COMMON = {"family": "qwen2", "head_dim": 16, "vocabulary_size": 1500, "sliding_window_tokens": None}
MANIFEST = {"architecture": "qwen2.5_0.5b", "dtype": "float32"}
GB = 10**9


@pytest.fixture
def settings():
    return effective_settings("qwen2.5-0.5b", {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "completions", "limit_tokens", "prompt_tokens", "remat"),
    [("narrow", 8, 96, 128, "full"), ("wide", 4, 160, 64, "selective"), ("narrow", 4, 128, 96, None)],
)
def test_an_update_takes_what_is_expected_within_a_fifth(
    settings, monkeypatch, shape, completions, limit_tokens, prompt_tokens, remat
):
    monkeypatch.setattr(log_probs, "LOGITS_AT_A_TIME", 2**16)  # in parts, as those of a large vocabulary
    sizes = COMMON | SIZES[shape]
    training = {"prompts_per_step": 1, "num_generations": completions, "max_completion_tokens": limit_tokens}
    changed = {"model": {"dtype": "float32"}, "training": training | {"remat": remat}}
    chosen = merge(settings, changed | {"prompt": {"max_tokens": prompt_tokens}})
    chosen["model"]["architecture"] = sizes
    programs = Programs(chosen, make_mesh(1, 1))
    compiled = compilation.compile_program(programs, "gradient", "verdict")["temporary_bytes"]
    found = expected_memory.update_bytes(
        sizes, programs.base_bytes, completions, prompt_tokens, limit_tokens, chosen["training"]["remat"]
    )
    assert found == pytest.approx(compiled, rel=0.2)


def test_what_fits_is_said_with_its_parts(settings, monkeypatch, capsys):
    monkeypatch.setattr(this_machine, "available_bytes", lambda mesh: 24 * GB)
    this_machine.require_training_memory(MANIFEST, settings, make_mesh(1, 1))
    this_machine.require_evaluation_memory(MANIFEST, settings, 1319, make_mesh(1, 1))
    training, evaluation = capsys.readouterr().out.splitlines()
    assert training.startswith("training will hold at most about 7.") and "weights 1.84 GiB" in training
    assert evaluation.startswith("evaluation will hold at most about 6.") and "22.35 GiB are available" in evaluation


def test_what_does_not_fit_is_refused_with_the_settings_that_would(settings, monkeypatch, capsys):
    mesh = make_mesh(1, 1)

    def available(gigabytes):
        monkeypatch.setattr(this_machine, "available_bytes", lambda mesh: gigabytes * GB)

    available(6.8)
    with pytest.raises(PipelineError) as refused:
        this_machine.require_training_memory(MANIFEST, settings, mesh)
    assert "set training.micro_batch_completions: 4 and training.rollout_batch_completions: 8" in str(refused.value)
    smaller = merge(settings, {"training": {"micro_batch_completions": 4, "rollout_batch_completions": 8}})
    this_machine.require_training_memory(MANIFEST, smaller, mesh)
    capsys.readouterr()
    available(7)
    this_machine.require_training_memory(MANIFEST, settings, mesh)  # the estimate may be too much by so little
    assert capsys.readouterr().out.startswith("WARNING: perhaps too little memory: training will hold")
    available(1)
    with pytest.raises(PipelineError, match=r"lower training.num_generations or training.max_completion_tokens$"):
        this_machine.require_training_memory(MANIFEST, settings, mesh)
    available(5.5)
    with pytest.raises(PipelineError, match=r"set evaluation.batch_size: 16$"):
        this_machine.require_evaluation_memory(MANIFEST, settings, 1319, mesh)


def test_the_estimate_may_be_too_much_by_the_tolerance_and_not_by_a_byte_more(settings, monkeypatch, capsys):
    expected, mesh = sum(expected_memory.training_parts(**MANIFEST, settings=settings).values()), make_mesh(1, 1)
    monkeypatch.setattr(this_machine, "TOLERANCE", 2)  # halves are exact, fifths are not
    monkeypatch.setattr(this_machine, "available_bytes", lambda mesh: expected / 2)
    this_machine.require_training_memory(MANIFEST, settings, mesh)
    assert capsys.readouterr().out.startswith("WARNING: perhaps too little memory: training will hold")
    monkeypatch.setattr(this_machine, "available_bytes", lambda mesh: expected / 2 - 1)
    with pytest.raises(PipelineError, match="too little memory: training will hold"):
        this_machine.require_training_memory(MANIFEST, settings, mesh)
