"""What a training run works with: the policy, the reference, Tunix's RL cluster and the learner."""

from collections.abc import Mapping
from pathlib import Path

from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from gsm8k_grpo.common.layout import ROOT
from gsm8k_grpo.grpo import tunix_setup
from gsm8k_grpo.grpo.learner import Learner
from gsm8k_grpo.grpo.run_folder import Run
from gsm8k_grpo.models import building
from gsm8k_grpo.models.base_model import BaseModel, load_base_model
from gsm8k_grpo.models.lora import make_policy, trained_variables, with_zero_adapters
from gsm8k_grpo.rewards import custom
from gsm8k_grpo.rewards.answers import Tags


def make_learner(model_folder: Path, settings: Mapping, rows: list[dict], run: Run, mesh: Mesh) -> Learner:
    """The learner of a run, at the run's newest checkpoint.

    Args:
      model_folder: the base model.
      settings: the blocks seed, mesh, prompt and training.
      rows: all prompts to train on.
      run: the run's folder, prepared by `Run.resume`.
      mesh: where everything is placed.

    Raises:
      PipelineError: a custom reward, the base model or the checkpoint cannot be loaded.
    """
    training_settings, prompt_settings, seed = settings["training"], settings["prompt"], settings["seed"]
    lora = training_settings["lora"]
    for name in filter(custom.is_custom, training_settings["rewards"]):
        custom.load_function(name, ROOT)  # so that its errors come before the model is loaded
    base = load_base_model(model_folder, mesh)
    policy = make_policy(base.model, lora, seed, mesh)
    reference = _make_reference(base, policy, training_settings, model_folder, mesh)
    trained = building.count_parameters(policy, trained_variables(lora))
    total = building.count_parameters(base.model)
    kind = "LoRA parameters on" if lora else "trained, of"
    print(f"{trained:,} {kind} {total:,}; mesh {dict(mesh.shape)}", flush=True)
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
    )
    return Learner(rl_cluster, training_settings, Tags(**prompt_settings["tags"]), rows, seed, base.stop_ids)


def _make_reference(
    base: BaseModel, policy: nnx.Module, training_settings: Mapping, model_folder: Path, mesh: Mesh
) -> nnx.Module | None:
    """The model of the KL penalty; None without a penalty."""
    lora = training_settings["lora"]
    if not training_settings["beta"]:
        return None
    if not lora:  # training changes the base's own weights, so the reference needs a second copy
        return load_base_model(model_folder, mesh).model
    if lora["base_weights"]:  # a quantised policy starts from the quantised base
        return with_zero_adapters(policy)
    return base.model


def from_lead_process(number: int) -> int:
    """The number that process 0 of a `--distributed` run passes, in every process."""
    return int(multihost_utils.broadcast_one_to_all(number))
