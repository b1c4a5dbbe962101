"""What a training run works with: the policy, the reference, Tunix's RL cluster and the learner."""

from collections.abc import Mapping
from pathlib import Path

from jax.sharding import Mesh

from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.grpo import health, tunix_setup
from gsm8k_grpo.grpo.learner import Learner
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.grpo.training_method import samples_from_base, settings_of_step
from gsm8k_grpo.models import building
from gsm8k_grpo.models.base_model import load_base_model
from gsm8k_grpo.models.lora import make_policy, trained_variables, with_zero_adapters
from gsm8k_grpo.rewards import custom, custom_process
from gsm8k_grpo.rewards.answers import Tags


def make_learner(model_folder: Path, settings: Mapping, rows: list[dict], run: Run, mesh: Mesh) -> Learner:
    """The learner of a run, at the run's newest checkpoint.

    Args:
      settings: the blocks seed, mesh, prompt and training.
      rows: all prompts to train on.
      run: the run's folder, prepared by `Run.resume`.

    Raises:
      PipelineError: a custom reward, the base model or the checkpoint cannot be loaded.
    """
    training_settings, prompt_settings, seed = settings["training"], settings["prompt"], settings["seed"]
    print(f"{len(rows)} prompts, {training_settings['max_steps']} steps", flush=True)
    for warning in health.settings_warnings(training_settings):
        print(f"WARNING: {warning}", flush=True)
    for name in filter(custom.is_custom, training_settings["rewards"]):
        # So that its errors come before the model is loaded.
        custom_process.load(name, ROOT, training_settings["custom_reward_limit_seconds"])
    base = load_base_model(model_folder, mesh)
    lora = training_settings["lora"]
    policy = make_policy(base.model, lora, seed, mesh)
    if not training_settings["beta"]:
        reference = None
    elif not lora:  # training changes the base's own weights, so the reference needs a second copy
        reference = load_base_model(model_folder, mesh).model
    elif lora["base_weights"]:  # a quantised policy starts from the quantised base
        reference = with_zero_adapters(policy)
    else:
        reference = base.model
    trained = building.count_parameters(policy, trained_variables(lora))
    kind = "LoRA parameters on" if lora else "trained, of"
    print(f"{trained:,} {kind} {building.count_parameters(base.model):,}; mesh {dict(mesh.shape)}", flush=True)
    rl_cluster = tunix_setup.make_rl_cluster(
        policy,
        reference,
        base.tokenizer,
        mesh,
        training_settings,
        prompt_settings["max_tokens"],
        base.stop_ids,
        seed,
        run,
        settings["mesh"]["decode_weights"] == "gathered",
        base.model if samples_from_base(settings_of_step(training_settings, 0)) else None,
    )
    return Learner(rl_cluster, training_settings, Tags.of(prompt_settings), rows, seed, base.stop_ids)
