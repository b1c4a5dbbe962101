"""Each fault in the settings is one sentence that names the recipe and the key."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.conflicts import check_settings
from gsm8k_grpo.config.merging import merge
from gsm8k_grpo.config.recipes import effective_settings

ROOT = Path(__file__).parents[2]
SIZES = {"num_heads": 4, "num_kv_heads": 2}
RATE = {"metric": "answer_accuracy", "base": None, "trained": 0.5, "difference": None}
LOOP = []
LOOP.append(LOOP)
FAULTS = {
    "a list that contains itself": ({"seeds": LOOP}, "a setting contains itself; write it out without the alias"),
    "unknown key at top": ({"train": 1}, "train: unknown key; there are recipes, miniature, "),
    "unknown nested key": ({"training": {"lr": 1}}, "training.lr: unknown key; there are method, warm_start_steps, "),
    "unknown deeper key": (
        {"training": {"lora": {"r": 1}}},
        "training.lora.r: unknown key; there are rank, alpha, dropout, base_weights, target_modules",
    ),
    "unknown size": ({"model": {"architecture": {"layers": 3}}}, "model.architecture.layers: unknown key"),
    "unknown keys that are no text": ({1: 2, "abc": 3}, "1: unknown key"),
    "block left empty": ({"training": None}, "training: expected keys and values, found None"),
    "text for an integer": (
        {"training": {"max_steps": "100"}},
        "training.max_steps: expected a whole number, found '100'",
    ),
    "decimal for an integer": (
        {"training": {"max_steps": 100.0}},
        "training.max_steps: expected a whole number, found 100.0",
    ),
    "truth for an integer": ({"seed": True}, "seed: expected a whole number, found True"),
    "text for a number": (
        {"training": {"learning_rate": "1e-6"}},
        "training.learning_rate: expected a number, found '1e-6' (YAML reads 1e-6 as text; write 1.0e-6)",
    ),
    "a power of ten without a sign": (
        {"stop_after_hours": "1.0e9"},
        "stop_after_hours: expected a number, found '1.0e9' (YAML reads 1.0e6 as text; write 1.0e+6)",
    ),
    "text for a text": ({"prompt": {"system": 3}}, "prompt.system: expected text, found 3"),
    "truth for a number": ({"training": {"beta": True}}, "training.beta: expected a number, found True"),
    "number for a truth": ({"miniature": 1}, "miniature: expected true or false, found 1"),
    "no number": (
        {"training": {"learning_rate": float("nan")}},
        "training.learning_rate: expected a finite number, found nan",
    ),
    "infinite number": (
        {"training": {"max_gradient_norm": float("inf")}},
        "training.max_gradient_norm: expected a finite number, found inf",
    ),
    "number beyond all floats": (
        {"training": {"lora": {"alpha": 10**400}}},
        "training.lora.alpha: expected a number, found 1000",
    ),
    "size beyond all machines": (
        {"model": {"architecture": {"embed_dim": 10**12}}},
        "model.architecture.embed_dim: expected at most 1,048,576, found 1000000000000",
    ),
    "more devices than there are": ({"mesh": {"tp": 10**6}}, "mesh.tp: expected at most 65,536, found 1000000"),
    "steps without end": (
        {"training": {"max_steps": 10**12}},
        "training.max_steps: expected at most 1,000,000,000, found 1000000000000",
    ),
    "odd heads": (
        {"model": {"architecture": {"head_dim": 33}}},
        "model.architecture.head_dim: expected a multiple of 2, found 33",
    ),
    "group of one": ({"training": {"num_generations": 1}}, "training.num_generations: expected at least 2, found 1"),
    "negative beta": ({"training": {"beta": -0.1}}, "training.beta: expected at least 0, found -0.1"),
    "no steps": ({"training": {"max_steps": 0}}, "training.max_steps: expected at least 1, found 0"),
    "unknown reward": (
        {"training": {"rewards": ["answer", "speed"]}},
        "training.rewards.1: expected 'format_exact', 'format_approximate', 'answer', 'number', 'number_boxed', "
        "'weighted_format', 'weighted_logic', 'weighted_accuracy', 'self_correction', 'fitting_length', 'minigrpo', "
        "'published_format_exact', 'published_answer', 'published_number', 'published_number_boxed', "
        "'published_minigrpo', 'published_weighted_format', 'published_weighted_logic', "
        "'published_weighted_accuracy', 'published_self_correction' or 'published_length' "
        "or path/to/file.py:function, found 'speed'",
    ),
    "unknown control": (
        {"controls": ["format_only", "none"]},
        "controls.1: expected 'format_only', 'shuffled_gold' or 'random', found 'none'",
    ),
    "a control twice": ({"controls": ["random", "random"]}, "controls: expected no item twice, found "),
    "controls of a control": (
        {"controls": ["random"], "training": {"control": "format_only"}},
        "controls: training.control is format_only, so this run is a control itself; set only one",
    ),
    "no reward for format_only": (
        {"controls": ["random", "format_only"], "training": {"rewards": ["minigrpo"]}},
        "controls: format_only keeps the rewards that do not look at the gold answer, and there is none among "
        "minigrpo; leave format_only out",
    ),
    "no reward for a run that is a control": (
        {"training": {"control": "format_only", "rewards": ["answer"]}},
        "training.control: format_only keeps the rewards that do not look at the gold answer, and there is none among ",
    ),
    "a reward that is no text": ({"training": {"rewards": [3]}}, "training.rewards.0: expected 'format_exact', "),
    "a reward without a function": (
        {"training": {"rewards": ["mine.py:"]}},
        "training.rewards.0: expected 'format_exact', ",
    ),
    "a reward's file that is not there": (
        {"training": {"rewards": ["nowhere/mine.py:f"]}},
        f"training.rewards: nowhere/mine.py:f: {ROOT}/nowhere/mine.py: no such file",
    ),
    "reward twice": (
        {"training": {"rewards": ["answer"] * 2}},
        "training.rewards: expected no item twice, found ['answer', 'answer']",
    ),
    "no rewards": ({"training": {"rewards": []}}, "training.rewards: expected a list of at least 1, found []"),
    "unknown platform": ({"platform": "gpu"}, "platform: expected 'cpu', 'tpu' or 'cuda', found 'gpu'"),
    "unknown architecture": (
        {"model": {"architecture": "gemma9"}},
        "model.architecture: expected 'gemma2_2b', 'gemma3_1b', 'gemma3_270m' or 'qwen2.5_0.5b' or keys and values, "
        "found 'gemma9'",
    ),
    "name that is a path": (
        {"dataset": {"name": "../x"}},
        "dataset.name: expected a name of a-z, 0-9, '.', '_' and '-', at most 64 of them, found '../x'",
    ),
    "name that is too long for a file": (
        {"model": {"name": "x" * 65}},
        "model.name: expected a name of a-z, 0-9, '.', '_' and '-', at most 64 of them, found 'xxx",
    ),
    "a model's handle with a line's end": (
        {"model": {"handle": "a/b\n"}},
        "model.handle: expected a handle without spaces, found 'a/b\\n'",
    ),
    "half of a character": (
        {"prompt": {"system": "x\ud800"}},
        "prompt.system: expected text that UTF-8 can write and without \\0, found 'x\\ud800'",
    ),
    "half of a character where anything may stand": (
        {"at_miniature_size": {"training": {"\udfff": 1}}},
        "at_miniature_size.training: expected text that UTF-8 can write",
    ),
    "a path that no system takes": ({"dataset": {"path": "a\0"}}, "dataset.path: expected text that UTF-8 can write"),
    "a number too long to print": (
        {"training": {"lora": {"alpha": 16**5000}}},
        "training.lora.alpha: expected a number of fewer digits, found one of about 6,02",
    ),
    "more checkpoints than anyone evaluates": (
        {"training": {"max_steps": 10**8, "checkpoint_interval_steps": 1}},
        "training.checkpoint_interval_steps: 1 makes 100,000,000 checkpoints, and each is kept and evaluated; take at "
        "least 200,000, which makes 500 at most",
    ),
    "more seeds than anyone compares": ({"seeds": list(range(10**5))}, "seeds: expected a list of at most 1000, found"),
    "name with a line's end": ({"model": {"name": "x\n"}}, "model.name: expected a name of a-z, 0-9, "),
    "a reward with a line's end": (
        {"training": {"rewards": ["mine.py:f\n"]}},
        "training.rewards.0: expected 'format_exact', ",
    ),
    "a handle with a line's end": ({"dataset": {"handle": "a/b\n"}}, "dataset.handle: expected OWNER/NAME, found"),
    "a published range of three": (
        {"published": {"text": "x", "source": "x", "conditions": "x", "values": [{**RATE, "base": [0.1, 0.2, 0.3]}]}},
        "published.values.0.base: expected a number or a list of at most 2 or keys and values, found [0.1, 0.2, 0.3]",
    ),
    "a published rate above one": (
        {"published": {"text": "x", "source": "x", "conditions": "x", "values": [{**RATE, "base": [0.1, 2]}]}},
        "published.values.0.base.1: expected at most 1, found 2",
    ),
    "more published answers than rows": (
        {
            "published": {
                **dict.fromkeys(("text", "source", "conditions"), "x"),
                "values": [RATE, {**RATE, "trained": {"correct": 5, "n": 4}}],
            }
        },
        "published.values.1.trained.correct: 5 are more than the 4 rows of n",
    ),
    "a published rate in part": (
        {"published": {"text": "x", "source": "x", "conditions": "x", "values": [{"metric": "answer_accuracy"}]}},
        "published.values.0.base: this key is missing",
    ),
    "an unknown key of a published rate": (
        {"published": {"text": "x", "source": "x", "conditions": "x", "values": [{**RATE, "rows": 3}]}},
        "published.values.0.rows: unknown key; there are metric, base, trained, difference",
    ),
    "batch that does not divide": (
        {"training": {"prompts_per_step": 8, "micro_batch_completions": 3}},
        "training.micro_batch_completions: 3 does not divide the 64 completions of a step",
    ),
    "checkpoint after the last step": (
        {"training": {"max_steps": 100, "checkpoint_interval_steps": 101}},
        "training.checkpoint_interval_steps: 101 lies beyond the last step (max_steps 100)",
    ),
    "generated without train rows": ({"dataset": {"train_rows": None}}, "dataset.train_rows: source generated needs"),
    "generated without test rows": ({"dataset": {"test_rows": None}}, "dataset.train_rows: source generated needs"),
    "file without a path": ({"dataset": {"source": "jsonl", "path": None}}, "dataset.path: source jsonl needs"),
    "no row left to train on": (
        {"dataset": {"train_rows": 50}, "prompt": {"dev_rows": 50}},
        "prompt.dev_rows: 50 held-out rows leave none of the 50 train rows",
    ),
    "download without a handle": ({"model": {"source": "kaggle", "handle": None}}, "model.handle: source kaggle needs"),
    "version in a handle": (
        {"model": {"source": "kaggle", "handle": "google/gemma-2/flax/gemma2-2b-it/2"}},
        "model.handle: source kaggle needs a handle such as google/gemma-2/flax/gemma2-2b-it; a version goes into",
    ),
    "commit of Kaggle": (
        {"model": {"source": "kaggle", "handle": "a/b/flax/c", "revision": "main"}},
        "model.revision: 'main' is no version of a Kaggle model; expected a number from 1, or null",
    ),
    "version of Hugging Face": (
        {"model": {"source": "huggingface", "handle": "a/b", "revision": 2}},
        "model.revision: 2 is no revision of Hugging Face; expected a commit, tag or branch, or null",
    ),
    "half a handle": (
        {"model": {"source": "huggingface", "handle": "gemma"}},
        "model.handle: source huggingface needs a handle such as google/gemma-2-2b-it",
    ),
    "folder without a path": (
        {"model": {"source": "local", "path": None}},
        "model.path: source local needs the folder",
    ),
    "LFM2": (
        {"model": {"source": "huggingface", "handle": "LiquidAI/LFM2-350M"}},
        "model.handle: LFM2 is not supported: Tunix has no such model; take a Gemma or Qwen2.5 model",
    ),
    "data set without an owner": (
        {"dataset": {"handle": "gsm8k"}},
        "dataset.handle: expected OWNER/NAME, found 'gsm8k'",
    ),
    "miniature without pretraining": ({"model": {"pretraining": None}}, "model.pretraining: source pretrained needs"),
    "miniature without sizes": (
        {"model": {"architecture": "gemma2_2b"}},
        "model.pretraining: source pretrained needs model.pretraining and the sizes of model.architecture",
    ),
    "heads not shared evenly": (
        {"model": {"architecture": {"num_heads": 4, "num_kv_heads": 3}}},
        "model.architecture.num_kv_heads: 3 does not divide num_heads 4",
    ),
    "more devices than KV heads": (
        {"model": {"architecture": SIZES}, "mesh": {"tp": 4}},
        "mesh.tp: 4 does not divide the 2 KV heads; with these settings it can be 1, 2",
    ),
    "a mesh that does not share the batch": (
        {
            "mesh": {"fsdp": 3},
            "model": {"architecture": {"embed_dim": 384}},
            "training": {"num_generations": 4},
        },
        "mesh.fsdp: 3 does not divide the 32 completions of a batch (micro_batch_completions, "
        "rollout_batch_completions); with these settings it can be 1, 2, 4, 8, 16, 32",
    ),
    "a mesh that does not share the width": (
        {"mesh": {"fsdp": 3}, "training": {"num_generations": 3}},
        "mesh.fsdp: 3 does not divide the 128 embed_dim; with these settings it can be 1, 2, 4, 8",
    ),
    "another recipe below": ({"extends": "tiny"}, "extends: only the recipe's file can set it, not the command line"),
    "a layout without the question": (
        {"prompt": {"layout": "{system}\n\nQuestion:"}},
        "prompt.layout: expected text with {system} and then {question}, found ",
    ),
    "a layout with another field": (
        {"prompt": {"layout": "{system} {question} {answer}"}},
        "prompt.layout: expected text with {system} and then {question}, found ",
    ),
    "a layout for the warm start without the question": (
        {"prompt": {"warm_start_layout": "{system} 1 + 1 = 2"}},
        "prompt.warm_start_layout: expected text with {system} and then {question}, found ",
    ),
    "rejection sampling with a penalty": (
        {"training": {"method": "rejection_sampling"}},
        "training.beta: method rejection_sampling has none; set it to 0",
    ),
    "rejection sampling without a base model": (
        {"training": {"method": "rejection_sampling", "beta": 0, "lora": None}},
        "training.lora: method rejection_sampling samples from the base model, whose weights must stay in memory",
    ),
    "a warm start without a base model": (
        {"training": {"warm_start_steps": 5, "lora": {"base_weights": "int8"}}},
        "training.lora: a warm start samples from the base model, whose weights must stay in memory",
    ),
    "a warm start throughout": (
        {"training": {"warm_start_steps": 60}},
        "training.warm_start_steps: 60 steps leave none of the 60 for GRPO",
    ),
    "a warm start of rejection sampling": (
        {"training": {"method": "rejection_sampling", "beta": 0, "warm_start_steps": 5}},
        "training.warm_start_steps: method rejection_sampling is a warm start throughout; set it to 0",
    ),
    "a warm start of several passes": (
        {"training": {"warm_start_steps": 5, "num_iterations": 2}},
        "training.num_iterations: a warm start makes one pass over each batch; set it to 1",
    ),
    "a ratio of noise": (
        {"training": {"num_iterations": 2, "lora": {"dropout": 0.1}}},
        "training.lora.dropout: with num_iterations > 1, dropout adds noise to the ratio to the old policy",
    ),
    "a schedule that ends early": (
        {"training": {"schedule_steps": 30}},
        "training.schedule_steps: 30 is less than max_steps 60",
    ),
    "a penalty over more than the limit": (
        {"training": {"truncated_completions": "penalise", "overlong_buffer_tokens": 37}},
        "training.overlong_buffer_tokens: 37 is more than max_completion_tokens 36",
    ),
    "an estimator without gradient": (
        {"training": {"kl_estimator": "k1"}},
        "training.kl_estimator: expected 'k2' or 'k3', found 'k1'",
    ),
    "more rows than the split": (
        {"evaluation": {"rows": 601}},
        "evaluation.rows: 601 rows are more than the 600 of the test",
    ),
    "a step beyond the rows": (
        {"prompt": {"dev_rows": 15_999}},
        "training.prompts_per_step: 8 prompts are more than the 1 rows to train on",
    ),
    "more candidates than tokens": ({"training": {"top_k": 641}}, "training.top_k: 641 is more than the 640 pieces"),
    "a rate that never falls": (
        {"training": {"warmup_fraction": 1.0}},
        "training.warmup_fraction: expected at most 0.9, found 1.0",
    ),
    "no window": (
        {"model": {"architecture": {"sliding_window_tokens": None}}},
        "model.architecture.sliding_window_tokens: Gemma 2 has local layers: expected a number",
    ),
    "a window where there is none": (
        {"model": {"architecture": {"family": "qwen2"}}},
        "model.architecture.sliding_window_tokens: Qwen2.5 has no local layers: expected null",
    ),
    "adapters on modules of another family": (
        {"model": {"architecture": {"family": "qwen2", "sliding_window_tokens": None}}},
        "training.lora.target_modules: Qwen2.5 has no module q_einsum; it has q_proj, k_proj, ",
    ),
    "fused attention": (
        {"model": {"architecture": {"num_heads": 2, "num_kv_heads": 2}}},
        "model.architecture.num_kv_heads: with as many KV heads as num_heads (2), Tunix makes one matrix",
    ),
    "tag inside another": (
        {"prompt": {"tags": {"answer_start": "<reason"}}},
        "prompt.tags: the tag '<reason' is a part",
    ),
    "the same tag twice": (
        {"prompt": {"tags": {"answer_start": "<a>", "answer_end": "<a>"}}},
        "prompt.tags: the tag '<a>' is a part of another tag",
    ),
    "nothing counts as reasoning": (
        {"prompt": {"reasoning": {"calculations": None, "words": None}}},
        "prompt.reasoning: nothing would count as reasoning; give calculations, words or both a number",
    ),
    "no words as reasoning": (
        {"prompt": {"reasoning": {"words": 0}}},
        "prompt.reasoning.words: expected at least 1, found 0",
    ),
    "a blank tag": (
        {"prompt": {"tags": {"answer_end": " \n"}}},
        "prompt.tags.answer_end: the tag ' \\n' is blank, so that it would stand everywhere; choose another",
    ),
    "a tag that is a number": (
        {"prompt": {"tags": {"answer_start": "7"}}},
        "prompt.tags.answer_start: the digit in '7' would be read as an answer; choose a tag without digits",
    ),
    "empty tag": (
        {"prompt": {"tags": {"answer_end": ""}}},
        "prompt.tags.answer_end: expected text that is not empty, found ''",
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_one_sentence_that_names_recipe_and_key(what):
    overrides, expected = FAULTS[what]
    with pytest.raises(PipelineError) as refused:
        effective_settings("tiny", overrides)
    assert str(refused.value).startswith(f"recipe tiny: {expected}") and "\n" not in str(refused.value)


def nested_keys(settings, key=()):
    """The path of each setting and block."""
    for name, value in settings.items():
        yield (*key, name)
        if isinstance(value, dict):
            yield from nested_keys(value, (*key, name))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers() | st.none(), inner, max_size=3)
    ),
)
TINY = effective_settings("tiny", {})


@given(st.sampled_from(sorted(nested_keys(TINY))), VALUES)
def test_any_value_of_any_setting_is_either_valid_or_refused_with_one_sentence(key, value):
    overrides = value
    for name in reversed(key):
        overrides = {name: overrides}
    try:
        check_settings(merge(TINY, overrides), "here")
    except PipelineError as error:
        assert str(error).startswith("here: ") and len(str(error).splitlines()) == 1
