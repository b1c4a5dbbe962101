"""Effective settings: how they are merged, that each fault is one sentence naming its key, that they are read-only."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import yaml

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.conflicts import check_settings
from gsm8k_grpo.config.merging import merge, read_only, read_yaml, to_plain
from gsm8k_grpo.config.recipes import effective_settings, load_selected, recipe_names, runs_by_recipe
from gsm8k_grpo.config.stage_settings import stage_settings
from gsm8k_grpo.rewards import scoring

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))
TOP = yaml.safe_load((ROOT / "schemas" / "config.schema.yaml").read_text(encoding="utf-8"))
ARCHITECTURE = TOP["properties"]["model"]["properties"]["architecture"]["oneOf"][1]
LORA = TOP["properties"]["training"]["properties"]["lora"]["oneOf"][1]
PRETRAINING = TOP["properties"]["model"]["properties"]["pretraining"]["oneOf"][1]


def sentence(refused):
    """The text of an expected PipelineError, which must be one line."""
    text = str(refused.value)
    assert "\n" not in text
    return text


@pytest.fixture
def project(tmp_path):
    """Makes a project's folder whose recipes are `tiny` with changes, or texts as they stand."""

    def make(**recipes):
        shutil.copyfile(ROOT / "config.yaml", tmp_path / "config.yaml")
        (tmp_path / "recipes").mkdir()
        tiny = read_yaml(ROOT / "recipes" / "tiny.yaml")
        for name, recipe in recipes.items():
            text = recipe if isinstance(recipe, str) else yaml.safe_dump(merge(tiny, recipe))
            (tmp_path / "recipes" / f"{name}.yaml").write_text(text, encoding="utf-8")
        return tmp_path

    return make


def objects(schema, path="top level"):
    """Each object of the schema that has keys, with where it stands."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict):
            yield path, schema
        for key, value in schema.items():
            yield from objects(value, f"{path}.{key}")
    elif isinstance(schema, list):
        for index, value in enumerate(schema):
            yield from objects(value, f"{path}.{index}")


def leaves(schema, path=""):
    """Dotted names of all keys that the schema spells out in objects; what has alternatives is one key."""
    schema = {**TOP["$defs"][schema["$ref"].rpartition("/")[2]], **schema} if "$ref" in schema else schema
    if "properties" not in schema:
        return {path}
    return {leaf for key, value in schema["properties"].items() for leaf in leaves(value, f"{path}.{key}")}


def flat(value, path=""):
    """Dotted names of all keys of nested settings."""
    if not isinstance(value, dict) or not value:
        return {path}
    return {leaf for key, item in value.items() for leaf in flat(item, f"{path}.{key}")}


def test_every_key_of_the_schema_is_described_and_required_and_no_other_is_allowed():
    found = list(objects(TOP))
    assert {"top level.properties.training", "top level.$defs.tags"} <= {path for path, _ in found}
    for path, schema in found:
        assert schema["additionalProperties"] is False, path
        assert set(schema["required"]) == set(schema["properties"]), path
        for key, value in schema["properties"].items():
            assert value.get("description", "").strip(), f"{path}.{key}"


def test_config_yaml_holds_every_key_of_the_schema_and_the_miniature_the_rest():
    assert flat(yaml.safe_load((ROOT / "config.yaml").read_text(encoding="utf-8"))) == (
        leaves(TOP) - {".training.lora"} | leaves(LORA, ".training.lora")
    )
    model = effective_settings("tiny", {})["model"]
    assert flat(model["architecture"]) == leaves(ARCHITECTURE)
    assert flat(model["pretraining"]) == leaves(PRETRAINING)


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_over_config_yaml_is_valid(recipe):
    chosen = effective_settings(recipe, {})
    assert set(chosen) == set(TOP["properties"])


def test_all_recipes_fit_into_one_report():
    assert list(load_selected(RECIPES, {})) == RECIPES


def test_several_seeds_make_a_run_of_each_and_share_the_rest(project):
    root = project(a={}, b={"seeds": [3]}, c={"seeds": [0, 7], "training": {"beta": 0.5}})
    loaded = load_selected("a,b,c", {"seed": 5}, root)
    assert {name: chosen["seed"] for name, chosen in loaded.items()} == {
        "a": 5,
        "b-seed-3": 3,
        "c-seed-0": 0,
        "c-seed-7": 7,
    }
    assert runs_by_recipe("a,b,c", loaded) == {"b": ["b-seed-3"], "c": ["c-seed-0", "c-seed-7"]}
    assert {name: loaded["c-seed-0"][name] for name in loaded["a"] if name not in ("seed", "seeds", "training")} == {
        name: loaded["a"][name] for name in loaded["a"] if name not in ("seed", "seeds", "training")
    }


def test_a_run_that_is_named_as_a_recipe_is_refused(project):
    root = project(**{"a": {"seeds": [1]}, "a-seed-1": {}})
    with pytest.raises(PipelineError) as refused:
        load_selected("a,a-seed-1", {}, root)
    assert sentence(refused).startswith("recipes: 'a-seed-1' is a recipe and a seed of another")


def test_the_command_line_goes_over_the_recipe_and_the_recipe_over_config_yaml(project):
    root = project(mine={"seed": 5, "training": {"beta": 0.5, "epsilon": 0.3}})
    chosen = effective_settings("mine", {"training": {"beta": 0.25}, "report": {"title": "Mine"}}, root)
    assert (chosen["seed"], chosen["training"]["beta"], chosen["training"]["epsilon"]) == (5, 0.25, 0.3)
    assert chosen["report"] == {"title": "Mine", "examples": None}


@pytest.mark.parametrize(
    ("below", "above", "merged"),
    [
        ({"a": 1, "b": 2}, {"b": 3, "c": 4}, {"a": 1, "b": 3, "c": 4}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}}, {"a": {"x": 1, "y": 3}}),
        ({"a": {"x": {"p": 1, "q": 2}}}, {"a": {"x": {"q": 3}}}, {"a": {"x": {"p": 1, "q": 3}}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"x": 1}}, {"a": None}, {"a": None}),
        ({"a": "name"}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": 1}, {}, {"a": 1}),
    ],
    ids=["keys", "nested", "deeper", "a list is replaced", "null replaces", "a mapping replaces a name", "nothing"],
)
def test_mappings_merge_by_key_and_all_else_is_replaced(below, above, merged):
    before = copy.deepcopy((below, above))
    assert merge(below, above) == merged
    assert (below, above) == before


SIZES = {"num_heads": 4, "num_kv_heads": 2}
FAULTS = {
    "unknown key at top": ({"train": 1}, "train: unknown key; there are recipes, miniature, "),
    "unknown nested key": ({"training": {"lr": 1}}, "training.lr: unknown key; there are max_steps, "),
    "unknown deeper key": (
        {"training": {"lora": {"r": 1}}},
        "training.lora.r: unknown key; there are rank, alpha, dropout, base_weights, target_modules",
    ),
    "unknown size": ({"model": {"architecture": {"layers": 3}}}, "model.architecture.layers: unknown key"),
    "unknown keys that are no text": ({1: 2, "abc": 3}, "1: unknown key"),
    "block left empty": ({"training": None}, "training: None is not of type 'object'"),
    "text for an integer": ({"training": {"max_steps": "100"}}, "training.max_steps: '100' is not of type 'integer'"),
    "decimal for an integer": (
        {"training": {"max_steps": 100.0}},
        "training.max_steps: 100.0 is not of type 'integer'",
    ),
    "truth for an integer": ({"seed": True}, "seed: True is not of type 'integer'"),
    "text for a number": ({"training": {"learning_rate": "1e-6"}}, "training.learning_rate: '1e-6' is text"),
    "no number": ({"training": {"learning_rate": float("nan")}}, "training.learning_rate: nan is not"),
    "infinite number": ({"training": {"max_gradient_norm": float("inf")}}, "training.max_gradient_norm: inf is not"),
    "group of one": ({"training": {"num_generations": 1}}, "training.num_generations: 1 is less than the minimum of 2"),
    "negative beta": ({"training": {"beta": -0.1}}, "training.beta: -0.1 is less than the minimum of 0"),
    "no steps": ({"training": {"max_steps": 0}}, "training.max_steps: 0 is less than the minimum of 1"),
    "unknown reward": (
        {"training": {"rewards": ["answer", "speed"]}},
        "training.rewards.1: 'speed' is not one of ['format_exact', 'format_approximate', 'answer', ",
    ),
    "a reward that is no text": ({"training": {"rewards": [3]}}, "training.rewards.0: 3 is not of type 'string'"),
    "a reward without a function": (
        {"training": {"rewards": ["mine.py:"]}},
        "training.rewards.0: 'mine.py:' does not match",
    ),
    "a reward's file that is not there": (
        {"training": {"rewards": ["nowhere/mine.py:f"]}},
        f"training.rewards: nowhere/mine.py:f: {ROOT}/nowhere/mine.py: no such file",
    ),
    "reward twice": (
        {"training": {"rewards": ["answer"] * 2}},
        "training.rewards: ['answer', 'answer'] has non-unique",
    ),
    "no rewards": ({"training": {"rewards": []}}, "training.rewards: [] should be non-empty"),
    "unknown platform": ({"platform": "gpu"}, "platform: 'gpu' is not one of"),
    "unknown architecture": ({"model": {"architecture": "gemma9"}}, "model.architecture: 'gemma9' is not valid"),
    "name that is a path": ({"dataset": {"name": "../x"}}, "dataset.name: '../x' does not match"),
    "batch that does not divide": (
        {"training": {"prompts_per_step": 8, "micro_batch_prompts": 3}},
        "training.micro_batch_prompts: 3 does not divide prompts_per_step 8",
    ),
    "checkpoint after the last step": (
        {"training": {"max_steps": 100, "checkpoint_interval_steps": 101}},
        "training.checkpoint_interval_steps: 101 lies beyond the last step (max_steps 100)",
    ),
    "generated without train rows": ({"dataset": {"train_rows": None}}, "dataset.train_rows: generated problems need"),
    "generated without test rows": ({"dataset": {"test_rows": None}}, "dataset.train_rows: generated problems need"),
    "file without a path": ({"dataset": {"source": "jsonl", "path": None}}, "dataset.path: source jsonl needs"),
    "no row left to train on": (
        {"dataset": {"train_rows": 50}, "prompt": {"dev_rows": 50}},
        "prompt.dev_rows: holds out all of the 50 train rows",
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
        "model.handle: LFM2 is not supported: Tunix has no such model, and LFM2-350M was tried on this task and never",
    ),
    "data set without an owner": ({"dataset": {"handle": "gsm8k"}}, "dataset.handle: 'gsm8k' does not match"),
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
        {"mesh": {"fsdp": 3}, "model": {"architecture": {"embed_dim": 384}}, "training": {"num_generations": 4}},
        "mesh.fsdp: 3 does not divide the 32 sequences of a micro-batch (micro_batch_prompts × num_generations); with "
        "these settings it can be 1, 2, 4, 8, 16, 32",
    ),
    "a mesh that does not share the width": (
        {"mesh": {"fsdp": 3}, "training": {"num_generations": 3}},
        "mesh.fsdp: 3 does not divide the 128 embed_dim; with these settings it can be 1, 2, 4, 8",
    ),
    "a group whose gaps are lost": (
        {"training": {"num_generations": 2}},
        "training.advantage_estimator: with num_generations 2, grpo turns any gap of rewards, 0.001 or 3, into",
    ),
    "a ratio of noise": (
        {"training": {"num_iterations": 2, "lora": {"dropout": 0.1}}},
        "training.lora.dropout: with num_iterations > 1 the ratio to the old policy",
    ),
    "a schedule that ends early": (
        {"training": {"schedule_steps": 30}},
        "training.schedule_steps: 30 is less than max_steps 60",
    ),
    "a penalty over more than the limit": (
        {"training": {"truncated_completions": "penalise", "overlong_buffer_tokens": 37}},
        "training.overlong_buffer_tokens: 37 is more than max_completion_tokens 36",
    ),
    "an estimator without gradient": ({"training": {"kl_estimator": "k1"}}, "training.kl_estimator: 'k1' is not one"),
    "more rows than the split": ({"evaluation": {"rows": 601}}, "evaluation.rows: 601 rows wanted, the test split has"),
    "a step beyond the rows": (
        {"prompt": {"dev_rows": 15_999}},
        "training.prompts_per_step: 8 prompts, but only 1 train rows",
    ),
    "more candidates than tokens": ({"training": {"top_k": 641}}, "training.top_k: 641 is more than the 640 pieces"),
    "a rate that never falls": (
        {"training": {"warmup_fraction": 1.0}},
        "training.warmup_fraction: 1.0 is greater than",
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
        "training.lora.target_modules: q_einsum is no module of Qwen2.5; there are q_proj, k_proj, ",
    ),
    "fused attention": (
        {"model": {"architecture": {"num_heads": 2, "num_kv_heads": 2}}},
        "model.architecture.num_kv_heads: as many as num_heads (2): Tunix then has one matrix",
    ),
    "tag inside another": (
        {"prompt": {"tags": {"answer_start": "<reason"}}},
        "prompt.tags: the tag '<reason' is a part",
    ),
    "the same tag twice": (
        {"prompt": {"tags": {"answer_start": "<a>", "answer_end": "<a>"}}},
        "prompt.tags: the tag '<a>' is a part of another tag",
    ),
    "empty tag": ({"prompt": {"tags": {"answer_end": ""}}}, "prompt.tags.answer_end: '' should be non-empty"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_one_sentence_that_names_recipe_and_key(what):
    overrides, expected = FAULTS[what]
    with pytest.raises(PipelineError) as refused:
        effective_settings("tiny", overrides)
    assert sentence(refused).startswith(f"recipe tiny: {expected}")


def test_the_schema_names_the_rewards_that_there_are():
    assert TOP["$defs"]["reward"]["else"]["enum"] == list(scoring.REWARDS)


def test_a_reward_of_ones_own_is_looked_up_in_the_project_and_never_run(project):
    root = project(mine={"training": {"rewards": ["answer", "more/mine.py:brief"]}})
    (root / "more").mkdir()
    (root / "more" / "mine.py").write_text("def brief(prompts, completions, answers): ...\nraise SystemExit('run')\n")
    assert effective_settings("mine", {}, root)["training"]["rewards"] == ["answer", "more/mine.py:brief"]
    with pytest.raises(PipelineError) as refused:
        effective_settings("mine", {"training": {"rewards": ["more/mine.py:long"]}}, root)
    assert sentence(refused) == (
        "recipe mine: training.rewards: more/mine.py:long: more/mine.py has no `def long`; it has brief"
    )


def test_a_missing_key_is_named():
    chosen = effective_settings("tiny", {})
    del chosen["training"]["beta"]
    with pytest.raises(PipelineError) as refused:
        check_settings(chosen, "here")
    assert sentence(refused) == "here: training: 'beta' is a required property"


def test_a_learning_rate_that_yaml_reads_as_text_says_how_to_write_it(project):
    root = project(mine="training:\n  learning_rate: 1e-6\n")
    with pytest.raises(PipelineError) as refused:
        effective_settings("mine", {}, root)
    assert sentence(refused) == (
        "recipe mine: training.learning_rate: '1e-6' is text, expected a number (write 1.0e-6: YAML reads 1e-6 as text)"
    )


@pytest.mark.parametrize(
    ("selected", "names"),
    [("tiny", ["tiny"]), ("tiny, other", ["tiny", "other"]), (["other", "tiny"], ["other", "tiny"])],
    ids=str,
)
def test_recipes_are_selected_by_text_or_list(selected, names):
    assert recipe_names(selected) == names


@pytest.mark.parametrize(
    ("selected", "fault"),
    [
        ("tiny,tiny", "'tiny' is named twice"),
        (["tiny", "x", "tiny"], "'tiny' is named twice"),
        ("tiny,", "expected a recipe's name or a list of names, found 'tiny,'"),
        ("", "expected a recipe's name or a list of names, found ''"),
        ([], "expected a recipe's name or a list of names, found []"),
        ([1], "expected a recipe's name or a list of names, found [1]"),
        (None, "expected a recipe's name or a list of names, found None"),
        ("huge", f"there is no recipe 'huge'; there are {', '.join(RECIPES)}"),
        ("./tiny", f"there is no recipe './tiny'; there are {', '.join(RECIPES)}"),
        ("../config", f"there is no recipe '../config'; there are {', '.join(RECIPES)}"),
    ],
    ids=str,
)
def test_a_selection_that_names_no_recipes_is_refused(selected, fault):
    with pytest.raises(PipelineError) as refused:
        load_selected(selected, {})
    assert sentence(refused) == f"recipes: {fault}"


@pytest.mark.parametrize("name", ["data", "models", "logs", "cache"])
def test_a_recipe_may_not_be_named_as_a_folder_of_results(project, name):
    with pytest.raises(PipelineError) as refused:
        load_selected(name, {}, project(**{name: {}}))
    assert sentence(refused).startswith(f"recipes: '{name}' is a folder of results/ already")


@pytest.mark.parametrize(
    ("second", "fault"),
    [
        ({"dataset": {"test_rows": 7}}, "recipes a and b: dataset.name: both write results/data/word-problems,"),
        ({"model": {"dtype": "bfloat16"}}, "recipes a and b: model.name: both write results/models/tiny,"),
        ({"dataset": {"name": "other"}}, "recipes a and b: model.name: both write results/models/tiny,"),
    ],
    ids=["other rows", "other precision", "a miniature of other data"],
)
def test_recipes_that_claim_one_folder_with_two_meanings_are_refused(project, second, fault):
    with pytest.raises(PipelineError) as refused:
        load_selected("a,b", {}, project(a={}, b=second))
    assert sentence(refused).startswith(fault)


def test_recipes_that_agree_share_their_folders_and_a_download_serves_any_data(project):
    root = project(
        a={"training": {"beta": 0.1}},
        b={"training": {"beta": 0.2}},
        c="dataset: {name: some, train_rows: 1000}\n",
        d="dataset: {name: more, train_rows: 2000}\n",
    )
    loaded = load_selected("a,b,c,d", {}, root)
    assert [chosen["model"]["name"] for chosen in loaded.values()] == ["tiny", "tiny", "gemma2-2b-it", "gemma2-2b-it"]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"a: [1", "not valid YAML ("),
        (b"a: b: c", "not valid YAML ("),
        (b"a: \xff", "not valid YAML ("),
        (b"a: 2024-13-01", "not valid YAML ("),
        (b"- a", "expected keys and values, found list"),
        (b"[]", "expected keys and values, found list"),
        (b"false", "expected keys and values, found bool"),
    ],
)
def test_a_file_that_holds_no_settings_is_named(tmp_path, content, fault):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(PipelineError) as refused:
        read_yaml(path)
    assert sentence(refused).startswith(f"{path}: {fault}")


def test_an_empty_recipe_changes_nothing(project):
    assert effective_settings("mine", {}, project(mine="# nothing\n")) == read_yaml(ROOT / "config.yaml")


def test_frozen_settings_are_read_only_at_every_level():
    source = {"training": {"lora": {"rank": 1}, "rewards": ["answer"], "pairs": [{"a": 1}, [2]]}}
    frozen = read_only(source)
    for mapping, key in (
        (frozen, "training"),
        (frozen["training"], "rewards"),
        (frozen["training"]["lora"], "rank"),
        (frozen["training"]["rewards"], 0),
        (frozen["training"]["pairs"][0], "a"),
        (frozen["training"]["pairs"][1], 0),
    ):
        with pytest.raises(TypeError):
            mapping[key] = 0
    source["training"]["lora"]["rank"] = 2
    assert frozen["training"]["lora"]["rank"] == 1
    assert to_plain(frozen)["training"] == {
        "lora": {"rank": 1},
        "rewards": ["answer"],
        "pairs": [{"a": 1}, [2]],
    }


def test_a_stage_gets_its_blocks_from_json_and_from_a_settings_file(tmp_path):
    chosen = effective_settings("tiny", {})
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(chosen, allow_unicode=True), encoding="utf-8")
    for argument in (json.dumps(chosen), str(path)):
        given = stage_settings(argument, "seed", "training")
        assert to_plain(given) == {"seed": chosen["seed"], "training": chosen["training"]}
        with pytest.raises(TypeError):
            given["training"]["beta"] = 1


@pytest.mark.parametrize(
    ("argument", "fault"),
    [
        ('{"seed": 0}', "no block 'training'; this stage needs seed, training"),
        ('{"seed": 0', "not valid JSON ("),
        ('{"seed": "0", "training": {}}', "seed: top level: '0' is not of type 'integer'"),
        ("nowhere/settings.yaml", "nowhere/settings.yaml: no such file"),
    ],
)
def test_a_stage_refuses_settings_that_it_cannot_use(argument, fault):
    with pytest.raises(PipelineError) as refused:
        stage_settings(argument, "seed", "training")
    assert sentence(refused).startswith(f"--settings: {fault}")
