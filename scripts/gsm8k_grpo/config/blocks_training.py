"""Settings of training."""

from typing import Annotated, Literal

from pydantic import Field

from gsm8k_grpo.common import estimators
from gsm8k_grpo.config.fields import (
    AS_WRITTEN,
    CUSTOM_REWARD,
    DISTINCT,
    LARGEST_COUNT,
    Block,
    Count,
    CountOrZero,
    Positive,
    PositiveOrZero,
    Share,
    ShareAboveZero,
    ShareBelowOne,
    Text,
)
from gsm8k_grpo.models import families
from gsm8k_grpo.rewards import controls, scoring

LORA_MODULES = tuple(dict.fromkeys(module for family in families.FAMILIES.values() for module in family.lora_modules))
REWARDS = tuple(scoring.REWARDS)
Control = Literal[tuple(controls.CONTROLS)]
Reward = Literal[REWARDS] | Annotated[str, Field(pattern=CUSTOM_REWARD)]


class Lora(Block):
    """Low-rank adapters."""

    rank: Count = 64
    """Rank of the adapters."""
    alpha: Positive = 64
    """Scale of the adapters: their product is multiplied by alpha / rank."""
    dropout: ShareBelowOne = 0
    """Dropout of the adapters' inputs, in the loss only."""
    base_weights: Literal["nf4", "int8"] | None = None
    """QLoRA: quantises the frozen weights of these modules to nf4 or int8. null leaves them in model.dtype."""
    target_modules: Annotated[list[Literal[LORA_MODULES]], *DISTINCT] = list(families.FAMILIES["gemma2"].lora_modules)
    """The modules that get adapters, by their names in Tunix. Qwen2.5 has q_proj, k_proj, v_proj and o_proj in place of
    Gemma's q_einsum, kv_einsum and attn_vec_einsum."""


class Training(Block):
    """GRPO with LoRA."""

    method: Literal["grpo", "rejection_sampling"] = "grpo"
    """How completions teach.
    - grpo: the policy samples a group of completions for each prompt, and those that earn more than their group become
      more likely.
    - rejection_sampling: the base model samples them, and fine-tuning makes those more likely that have the exact
      format and the right answer (RFT). It is a baseline for GRPO, with the same rows and as many sampled completions.
      Rewards are recorded and teach nothing."""
    warm_start_steps: CountOrZero = 0
    """How many of the first steps are rejection sampling before GRPO begins. A model that never writes the tags earns
    nothing, so GRPO has nothing to make more likely: a warm start shows it the form in its own words. See
    prompt.warm_start_layout. A control has the same warm start."""
    max_steps: Count = 3738
    """Steps of the whole run. One epoch of 7,473 - 500 rows is 3,486 steps of 2 prompts; the demo that this follows
    has 3,738, one more than an epoch of all rows."""
    prompts_per_step: Count = 2
    """Prompts of one update."""
    micro_batch_completions: Count | None = None
    """How many completions' gradients are computed at a time; they are added up. Less needs less memory. It divides the
    step's completions, and it is a multiple or a divisor of num_generations. null: all of the step."""
    rollout_batch_completions: Count | None = None
    """How many completions are sampled at a time; whole groups, and it divides the step's completions. null: all of
    them. A token costs little more for many rows than for one, so less than all only saves memory."""
    remat: Literal["selective", "full"] | None = None
    """Rematerialisation: what the backward pass computes again instead of keeping it. It saves memory; the preflight
    tries it where memory is short.
    - null: nothing.
    - selective: attention, and what is done element by element. Results of large products with weights are kept.
    - full: each whole layer. This saves the most and costs a third more compute."""
    num_generations: Annotated[int, Field(ge=2, le=LARGEST_COUNT)] = 4
    """G: completions sampled for each prompt. Advantages are relative to this group, so a group of one has none."""
    advantage_estimator: Literal[tuple(estimators.ADVANTAGE_ESTIMATORS)] = "grpo"
    """How a group's rewards r become advantages.
    - grpo: (r - mean) / standard deviation, as published (DeepSeekMath). With G = 2 it turns any gap into ± 0.707,
      of which the run and its report warn.
    - rloo: r - mean of the others.
    - drgrpo: r - mean, so that groups that differ little weigh little."""
    loss_aggregation: Literal[tuple(estimators.LOSS_AGGREGATIONS)] = "sequence"
    """What weighs the same in the loss of a mini-batch, however the batch is split.
    - sequence: each completion (DeepSeekMath, eq. 3; Tunix from 0.1.4).
    - token: each token (DAPO; Tunix up to 0.1.3).
    - constant: each token too, but sums are divided by a constant length, so that long wrong answers gain nothing (Dr.
      GRPO)."""
    dynamic_sampling_draws: CountOrZero = 0
    """How often a step may draw other prompts in place of groups whose rewards are all equal, since such groups teach
    nothing (DAPO's dynamic sampling, bounded). 0 keeps what was drawn."""
    num_iterations: Count = 1
    """μ: passes over each batch of completions."""
    beta: PositiveOrZero = 0.08
    """β: weight of the KL penalty against the base model. 0 needs no reference model and no reference pass."""
    kl_estimator: Literal[tuple(estimators.KL_ESTIMATORS)] = "k3"
    """Schulman's estimator of the KL penalty. (The default of Tunix 0.1.7, k1 as a loss, has no gradient.)
    - k3: GRPO was published with it (DeepSeekMath, eq. 4), and TRL and Tunix up to 0.1.6 compute it. So published β
      mean the same here.
    - k2: its gradient is that of the exact KL."""
    epsilon: Annotated[float, Field(gt=0, lt=1), AS_WRITTEN] = 0.2
    """ε: clipping range of the probability ratio."""
    epsilon_high: Positive | None = None
    """Upper side of the clipping range where it differs (DAPO's clip-higher). null is ε."""
    max_completion_tokens: Count = 768
    """Longest completion."""
    truncated_completions: Literal["keep", "mask", "penalise"] = "keep"
    """What happens to completions that are cut at the limit.
    - keep: they count as all others.
    - mask: they are left out of the loss.
    - penalise: a further reward falls from 0 to -1 over the last overlong_buffer_tokens before the limit (DAPO, eq.
      13)."""
    overlong_buffer_tokens: Count = 128
    """Tokens before the limit over which the penalty grows."""
    temperature: Positive = 0.9
    """Sampling temperature of the rollouts."""
    top_k: Count | None = 50
    """Rollouts sample among the k likeliest tokens; null is all. Probability ratio and KL still count all tokens:
    metrics.csv has the probability left out (unsampled_mass), and training warns above 1 %."""
    top_p: ShareAboveZero = 1.0
    """Rollouts sample among the likeliest tokens that together have this probability. Ratio and KL count all tokens, as
    with top_k."""
    rewards: Annotated[list[Reward], *DISTINCT] = ["format_exact", "format_approximate", "answer", "number"]
    """The rewards that are summed. docs/rewards.md has their ranges, sources and tables of cases.
    - format_exact, format_approximate, answer, number: those of Tunix and Unsloth.
    - number_boxed: as number, but a number in the last \\boxed{…} goes first.
    - weighted_format, weighted_logic, weighted_accuracy: they weigh 0.25, 0.30 and 0.45.
    - self_correction, fitting_length: bonuses for these three.
    - minigrpo: 1, 0.5 or 0.
    - published_…: each of them as its origin has it, faults and all, for reproductions.
    - path/to/file.py:function: a reward of your own (docs/rewards.md)."""
    custom_reward_limit_seconds: Annotated[float, Field(gt=0, le=86_400), AS_WRITTEN] = 300
    """How long a reward of your own may take for one batch, or to load its file. After that, the stage ends with an
    error. Another value makes no other run."""
    control: Control | None = None
    """The control that takes the place of the rewards. The setting `controls` makes a run of each beside the recipe's
    own. null is none."""
    learning_rate: Positive = 3.0e-6
    """Peak of AdamW's learning rate. It rises linearly, then falls along a cosine."""
    final_learning_rate_fraction: Share = 0
    """Where the learning rate ends, as a share of its peak. With 1, and warmup_fraction 0, it is constant."""
    schedule_steps: Count | None = None
    """Step at which the learning rate has fallen. null is max_steps: then another max_steps is another run. With a
    number, a larger max_steps continues the same run."""
    warmup_fraction: Annotated[float, Field(ge=0, le=0.9), AS_WRITTEN] = 0.1
    """Share of the updates over which the learning rate rises."""
    adam_b1: ShareBelowOne = 0.9
    """AdamW's decay of the first moment."""
    adam_b2: ShareBelowOne = 0.99
    """AdamW's decay of the second moment."""
    weight_decay: PositiveOrZero = 0.1
    """AdamW's weight decay."""
    max_gradient_norm: Positive | None = 0.1
    """Gradients are clipped to this global norm; null clips none."""
    lora: Lora | None = Lora()
    """Low-rank adapters. null trains all weights, and keeps a second model for the KL penalty."""
    checkpoint_interval_steps: Count = 500
    """Steps between checkpoints; the last step has one too. Those that are kept are evaluated."""
    keep_checkpoints: Count | None = None
    """How many of these checkpoints a run keeps: the last ones, to save disk. null is all. Training deletes the others
    before they are evaluated, so the best is chosen among those that are kept. More of them later trains again."""
    kept_completions: CountOrZero = 8
    """How many completions, with their rewards, training/samples.jsonl gets at the first step and at each
    checkpoint."""
    wandb_project: Text | None = None
    """Metrics also go to this project of Weights & Biases, offline unless you are logged in. null is none.
    TensorBoard's files are always written: results/RECIPE/training/runs/*/tensorboard."""
