"""Settings of the devices, the data set, the base model and the prompt."""

from typing import Annotated, Literal

from pydantic import Field

from gsm8k_grpo.config.fields import (
    DATASET_HANDLE,
    LAYOUT,
    MODEL_HANDLE,
    Block,
    Count,
    Devices,
    Name,
    Positive,
    Seed,
    Share,
    Size,
    Text,
)
from gsm8k_grpo.data.sources import SOURCES
from gsm8k_grpo.models import families
from gsm8k_grpo.rewards import answers


class Mesh(Block):
    """The devices of training and evaluation, as a mesh of fsdp × tp."""

    fsdp: Devices = 1
    """Devices that share the batch and the weights."""
    tp: Devices = 4
    """Devices that share heads and features. It must divide the number of KV heads."""
    decode_weights: Literal["gathered", "sharded"] = "gathered"
    """How weights that are sharded over fsdp are read while tokens are generated.
    - gathered: each device gets a whole copy once a batch.
    - sharded: each token gathers them again, layer by layer. That is slower, but needs no memory for copies."""


class Dataset(Block):
    """Where the questions come from."""

    name: Name = "gsm8k"
    """Names the folder results/data/NAME. Recipes that share a data set share its folder."""
    source: Literal[tuple(SOURCES)] = "jsonl"
    """The first three give the same bytes, which are checked against the published files.
    - huggingface, kaggle: downloads GSM8K from there.
    - tfds: takes it from TensorFlow Datasets, after `make setup-tfds`.
    - jsonl: reads train.jsonl and test.jsonl in `path`: GSM8K as published, or any rows in that form.
    - generated: makes word problems."""
    handle: Annotated[str, Field(pattern=DATASET_HANDLE)] | None = None
    """Where a hub has GSM8K. null is openai/gsm8k (huggingface) or thedevastator/grade-school-math-8k-q-a (kaggle)."""
    path: str | None = "data/gsm8k"
    """Folder with train.jsonl and test.jsonl (source jsonl)."""
    train_rows: Count | None = None
    """How many train rows to use, from the beginning; null is all. Source generated needs a number."""
    test_rows: Count | None = None
    """How many test rows to use, from the beginning; null is all. Source generated needs a number."""
    seed: Seed = 0
    """Seed of generated problems."""
    shuffle_seed: Seed | None = None
    """Shuffles the rows of each split before train_rows and test_rows are taken, in the order of Hugging Face's
    `datasets` with this seed; null keeps their order."""


class Tags(Block):
    """The output format. Rewards ask for it, and evaluation reads it."""

    reasoning_start: Text = "<reasoning>"
    """Opens the reasoning."""
    reasoning_end: Text = "</reasoning>"
    """Closes the reasoning."""
    answer_start: Text = "<answer>"
    """Opens the answer."""
    answer_end: Text = "</answer>"
    """Closes the answer."""


class Reasoning(Block):
    """What counts as reasoning in the exact format: enough calculations, or enough words. null does not count. The
    defaults let all 7,473 train solutions of GSM8K count (docs/rewards.md)."""

    calculations: Count | None = answers.Reasoning.calculations
    """How many calculations, such as 48/2=24, are enough. null: calculations do not count."""
    words: Count | None = answers.Reasoning.words
    """How many different words are enough. null: words do not count."""


class Architecture(Block):
    """The sizes of a miniature (see recipes/tiny.yaml)."""

    family: Literal[tuple(families.FAMILIES)]
    """Gemma 2, Gemma 3 or Qwen2.5."""
    num_layers: Size
    """Decoder layers."""
    embed_dim: Size
    """Width of the residual stream."""
    hidden_dim: Size
    """Width of the feed-forward layers."""
    num_heads: Size
    """Query heads."""
    num_kv_heads: Size
    """Key and value heads. Their number divides num_heads."""
    head_dim: Annotated[int, Field(ge=2, le=2**20, multiple_of=2)]
    """Width of a head."""
    vocabulary_size: Annotated[int, Field(ge=400, le=2**20)]
    """Pieces of the tokenizer."""
    sliding_window_tokens: Count | None
    """Window of local layers: every other layer of gemma2, five of six of gemma3. qwen2 has no local layers: null."""


class Pretraining(Block):
    """How a miniature is pretrained (source pretrained; see recipes/tiny.yaml)."""

    system: str
    """System text of the demonstrations."""
    tags: Tags
    """Tags of the demonstrations."""
    max_tokens: Count
    """Longest demonstration. Longer rows are left out."""
    steps: Count
    """Optimizer steps."""
    batch_size: Count
    """Demonstrations of a step."""
    learning_rate: Positive
    """Peak of the schedule."""
    seed: Seed
    """Seed of the weights, the flaws and the order of the rows."""
    tagged_share: Share
    """Share of verbs whose problems are usually answered in the right format. (The verb is the word before a
    question's last number.)"""
    slip_share: Share
    """Share of verbs whose problems usually get a wrong answer."""
    strength: Share
    """How often a demonstration does what is usual for its verb."""


class Model(Block):
    """The base model."""

    name: Name = "gemma2-2b-it"
    """Names the folder results/models/NAME."""
    source: Literal["kaggle", "huggingface", "local", "pretrained"] = "kaggle"
    """Where the weights come from.
    - kaggle (Flax weights), huggingface (safetensors): downloads with the hub's own client, which also finds your
      credentials (docs/models-and-data.md).
    - local: reads the same files from the folder `path`.
    - pretrained: makes a miniature and trains it here on the data set's train rows."""
    handle: Annotated[str, Field(pattern=MODEL_HANDLE)] | None = "google/gemma-2/flax/gemma2-2b-it"
    """OWNER/MODEL/FRAMEWORK/VARIATION on Kaggle; OWNER/NAME (google/gemma-2-2b-it) on Hugging Face."""
    revision: Text | int | None = None
    """The version to use: a version number (kaggle) or a commit (huggingface; a branch or a tag may move). null is the
    newest, with a warning. model.json records which one it was."""
    path: str | None = None
    """Folder of the model's files (source local)."""
    architecture: Literal[tuple(families.PRESETS)] | Architecture = "gemma2_2b"
    """A published shape by name (gemma2_2b, gemma3_1b, gemma3_270m, qwen2.5_0.5b), or the family (gemma2, gemma3,
    qwen2) and the sizes of a miniature."""
    dtype: Literal["float32", "bfloat16", "fastest"] = "float32"
    """Precision of weights and activations. fastest is bfloat16, or float32 on a machine that multiplies it faster. It
    is measured when the base model is made, and model.json records it. The preflight plans with bfloat16."""
    pretraining: Pretraining | None = None
    """How a miniature is pretrained (source pretrained)."""


class Prompt(Block):
    """What the model is asked, and the format in which it should answer."""

    system: str = (
        "You are given a problem. Think about the problem and provide your reasoning. Place it between <reasoning> and "
        "</reasoning>. Then, provide the final answer (i.e., just one numerical value) between <answer> and </answer>."
    )
    """Goes before the question. Gemma has no system role and gets it in the first user turn; Qwen gets a system
    message."""
    layout: Annotated[str, Field(pattern=LAYOUT)] | None = None
    """The whole prompt as text with {system} and {question}, without chat turns. null is the chat template of the
    model's family."""
    warm_start_layout: Annotated[str, Field(pattern=LAYOUT)] | None = None
    """The prompt, as layout, with which the base model samples completions for a warm start or for rejection_sampling:
    one with a worked example, for instance. Training then makes them more likely after the plain prompt. null is the
    plain prompt."""
    tags: Tags = Tags()
    """The output format. Rewards ask for it, and evaluation reads it."""
    reasoning: Reasoning = Reasoning()
    """What counts as reasoning in the exact format: for rewards, for evaluation and for the format check."""
    max_tokens: Count = 256
    """Longest prompt. Rows with a longer one are left out and listed in prompts/summary.json."""
    dev_rows: Count = 500
    """How many rows, the last of train, are held out from GRPO to choose settings and checkpoints on. Test is never
    used for that. The pretraining of a miniature sees them too: they are held out from the training that is
    measured."""
    format_check_rows: Count = 48
    """On how many dev rows the base model is sampled before training, to see whether it writes the tags at all."""
