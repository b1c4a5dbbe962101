"""Effective settings: recipes are selected and merged, stages get a part of them, and nobody can change them."""

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
from gsm8k_grpo.config.schema import Settings
from gsm8k_grpo.config.settings_argument import stage_settings
from gsm8k_grpo.grpo.run_identity import identity_settings

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


def sentence(refused):
    """The text of an expected PipelineError, which must be one line."""
    text = str(refused.value)
    assert "\n" not in text
    return text


def test_a_schedule_may_end_with_the_last_step():
    steps = effective_settings("tiny", {})["training"]["max_steps"]
    settings = effective_settings("tiny", {"training": {"schedule_steps": steps, "final_learning_rate_fraction": 0}})
    assert settings["training"]["schedule_steps"] == steps


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


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_over_config_yaml_is_valid(recipe):
    settings = effective_settings(recipe, {})
    assert list(settings) == list(Settings.model_fields)


def test_all_recipes_fit_into_one_report():
    assert list(load_selected(RECIPES, {})) == RECIPES


def test_several_seeds_make_a_run_of_each_and_share_the_rest(project):
    root = project(a={}, b={"seeds": [3]}, c={"seeds": [0, 7], "training": {"beta": 0.5}})
    loaded = load_selected("a,b,c", {"seed": 5}, root)
    assert {name: settings["seed"] for name, settings in loaded.items()} == {
        "a": 5,
        "b-seed-3": 3,
        "c-seed-0": 0,
        "c-seed-7": 7,
    }
    assert runs_by_recipe(loaded) == {"b": ["b-seed-3"], "c": ["c-seed-0", "c-seed-7"]}
    assert {name: loaded["c-seed-0"][name] for name in loaded["a"] if name not in ("seed", "seeds", "training")} == {
        name: loaded["a"][name] for name in loaded["a"] if name not in ("seed", "seeds", "training")
    }


def test_controls_make_a_run_of_each_for_each_seed_which_differs_in_the_control_alone(project):
    root = project(a={"controls": ["format_only", "random"]}, b={"seeds": [0, 7], "controls": ["shuffled_gold"]})
    loaded = load_selected("a,b", {}, root)
    assert {name: (settings["training"]["control"], settings["seed"]) for name, settings in loaded.items()} == {
        "a": (None, 0),
        "a-control-format_only": ("format_only", 0),
        "a-control-random": ("random", 0),
        "b-seed-0": (None, 0),
        "b-seed-7": (None, 7),
        "b-control-shuffled_gold-seed-0": ("shuffled_gold", 0),
        "b-control-shuffled_gold-seed-7": ("shuffled_gold", 7),
    }
    assert runs_by_recipe(loaded) == {
        "b": ["b-seed-0", "b-seed-7"],
        "b-control-shuffled_gold": ["b-control-shuffled_gold-seed-0", "b-control-shuffled_gold-seed-7"],
    }
    alone = load_selected("a", {"controls": []}, root)
    assert loaded["a"] == alone["a"]
    control = loaded["a-control-random"]
    assert control | {"training": control["training"] | {"control": None}} == alone["a"]
    assert identity_settings(control) != identity_settings(alone["a"])  # two fingerprints
    # The settings of a control's run make that run again.
    again = load_selected("a", {"controls": control["controls"], "training": control["training"]}, root)
    assert again == {"a-control-random": control}


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("a-seed-1", "-seed-1"),
        ("a-miniature", "-miniature"),
        ("a-control-random", "-control-random"),
        ("a-control-random-seed-12", "-seed-12"),
    ],
)
def test_no_name_may_be_that_of_another_recipes_run(project, name, ending):
    """Whether both are selected or not: the folder would be there from another call."""
    fault = f"{name!r} ends in {ending!r}, as the folder of another recipe's run may do; choose another name"
    root = project(a={})
    with pytest.raises(PipelineError) as refused:
        load_selected("a", {"name": name}, root)
    assert sentence(refused) == f"recipe a: name: {fault}"
    (root / "recipes/a.yaml").rename(root / f"recipes/{name}.yaml")
    with pytest.raises(PipelineError) as refused:
        load_selected(name, {}, root)
    assert sentence(refused) == f"recipes: {fault}"


@pytest.mark.parametrize("name", ["a-seed", "seed-1", "a-seed-1b", "a-seeds-1", "a-control-x", "miniature"])
def test_other_names_are_free(project, name):
    assert list(load_selected(name, {"name": f"{name}.x"}, project(**{name: {}}))) == [f"{name}.x"]


def test_the_command_line_goes_over_the_recipe_and_the_recipe_over_config_yaml(project):
    root = project(mine={"seed": 5, "training": {"beta": 0.5, "epsilon": 0.3}})
    settings = effective_settings("mine", {"training": {"beta": 0.25}, "report": {"title": "Mine"}}, root)
    assert (settings["seed"], settings["training"]["beta"], settings["training"]["epsilon"]) == (5, 0.25, 0.3)
    assert settings["report"] == {"title": "Mine", "examples": None}


def test_a_recipe_can_go_over_another(project):
    small = {"extends": "a", "training": {"beta": 0.5}, "published": None}
    root = project(
        a={"seed": 5, "training": {"epsilon": 0.3}},
        b=yaml.safe_dump(small),
        c="extends: b\n",
        d="extends: x\n",
        e="extends: e\n",
    )
    above, below = effective_settings("b", {}, root), effective_settings("a", {}, root)
    assert above == merge(below, small)
    assert effective_settings("b", {"extends": "a"}, root) == above  # as its own settings.yaml has it
    for name, fault in (
        ("c", "recipe c: extends: 'b' extends another recipe itself; name that one"),
        ("d", "recipe d: extends: there is no recipe 'x'; there are a, b, c, d, e"),
        ("e", "recipe e: extends: it names itself; name another recipe, or leave it out"),
    ):
        with pytest.raises(PipelineError) as refused:
            effective_settings(name, {}, root)
        assert sentence(refused) == fault


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


def test_a_custom_reward_is_looked_up_in_the_project_and_does_not_run(project):
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
    settings = effective_settings("tiny", {})
    del settings["training"]["beta"]
    with pytest.raises(PipelineError) as refused:
        check_settings(settings, "here")
    assert sentence(refused) == "here: training.beta: this key is missing"


def test_a_learning_rate_that_yaml_reads_as_text_says_how_to_write_it(project):
    root = project(mine="training:\n  learning_rate: 1e-6\n")
    with pytest.raises(PipelineError) as refused:
        effective_settings("mine", {}, root)
    assert sentence(refused) == (
        "recipe mine: training.learning_rate: expected a number, found '1e-6' (YAML reads 1e-6 as text; write 1.0e-6)"
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
        ("1" * 5000, f"there is no recipe '{'1' * 79}; there are {', '.join(RECIPES)}"),
        ([16**5000], "expected a recipe's name or a list of names, found a number of more digits than anyone needs"),
    ],
    ids=lambda value: ascii(value)[:20] if not isinstance(value, list) or value != [16**5000] else "huge number",
)
def test_a_selection_that_names_no_recipes_is_refused(selected, fault):
    with pytest.raises(PipelineError) as refused:
        load_selected(selected, {})
    assert sentence(refused) == f"recipes: {fault}"


@pytest.mark.parametrize("name", ["data", "models", "logs", "records", "cache", "tables", "report.html", "failures"])
def test_a_recipe_may_not_be_named_as_what_else_is_in_results(project, name):
    with pytest.raises(PipelineError) as refused:
        load_selected(name, {}, project(**{name: {}}))
    assert sentence(refused).startswith(f"recipes: '{name}' is already a name in results/")


@pytest.mark.parametrize("name", ["a b", "Tiny", "a|b", "a\n", "-a", "x;touch PWNED;", "c++", "a{b}", "a" * 65])
def test_a_recipe_may_only_have_a_name_that_is_safe_as_a_folder_and_in_a_pattern(project, name):
    with pytest.raises(PipelineError) as refused:
        load_selected([name], {}, project(**{name: {}}))
    assert sentence(refused).startswith("recipes: expected a name of a-z, 0-9, '.', '_' and '-', at most 64 ")


@pytest.mark.parametrize(
    ("second", "fault"),
    [
        ({"dataset": {"test_rows": 7}}, "recipes a and b: dataset.name: both write results/data/word-problems,"),
        ({"model": {"dtype": "bfloat16"}}, "recipes a and b: model.name: both write results/models/tiny,"),
        ({"dataset": {"name": "other"}}, "recipes a and b: model.name: both write results/models/tiny,"),
        (
            {"evaluation": {"transfer": [{"name": "word-problems", "path": "x.csv"}]}},
            "recipes a and b: evaluation.transfer: both write results/data/word-problems,",
        ),
    ],
    ids=["other rows", "other precision", "a miniature of other data", "another set of the same name"],
)
def test_recipes_that_claim_one_folder_with_two_meanings_are_refused(project, second, fault):
    with pytest.raises(PipelineError) as refused:
        load_selected("a,b", {}, project(a={}, b=second))
    assert sentence(refused).startswith(fault)


def test_another_set_has_a_name_of_its_own_and_a_second_gold_labels_what_is_evaluated(project):
    own, gold = ([{"name": name, "path": "x.csv"}] for name in ("word-problems", "gsm8k_platinum"))
    root = project(a={})
    with pytest.raises(PipelineError) as refused:
        load_selected("a", {"evaluation": {"transfer": own}}, root)
    assert sentence(refused).startswith("recipe a: evaluation.transfer: results/data/word-problems has the recipe's ow")
    published = {"source": "jsonl", "path": "/where/it/is"}
    for changed, problem in (
        ({"evaluation": {"transfer": gold}}, "labels rows of GSM8K, and these rows are generated"),
        ({"evaluation": {"transfer": gold, "split": "dev"}, "dataset": published}, "labels test rows alone"),
    ):
        with pytest.raises(PipelineError, match=f"evaluation.transfer: gsm8k_platinum {problem}"):
            load_selected("a", changed, root)
    assert load_selected("a", {"evaluation": {"transfer": gold}, "dataset": published}, root)


def test_recipes_that_agree_share_their_folders_and_a_download_serves_any_data(project):
    root = project(
        a={"training": {"beta": 0.1}},
        b={"training": {"beta": 0.2}},
        c="model: {name: gemma2-2b-it}\ndataset: {name: some, train_rows: 1000}\n",
        d="model: {name: gemma2-2b-it}\ndataset: {name: more, train_rows: 2000}\n",
    )
    loaded = load_selected("a,b,c,d", {}, root)
    assert [settings["model"]["name"] for settings in loaded.values()] == [
        "tiny",
        "tiny",
        "gemma2-2b-it",
        "gemma2-2b-it",
    ]


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


def test_a_recipe_that_names_the_default_model_alone_changes_nothing(project):
    root = project(mine="model: {name: gemma2-2b-it}\n")
    assert effective_settings("mine", {}, root) == read_yaml(ROOT / "config.yaml")


@pytest.mark.parametrize("recipe", ["# nothing\n", "seed: 1\n", "model: {dtype: bfloat16}\n"])
def test_a_recipe_that_names_no_model_is_refused(project, recipe):
    root = project(mine=recipe, above="extends: tiny\nseed: 1\n", tiny={})
    with pytest.raises(PipelineError) as refused:
        effective_settings("mine", {}, root)
    assert sentence(refused).startswith(
        "recipe mine: model.name: this recipe names no model; write `extends: NAME` (such as gemma2-2b-it or tiny)"
    )
    assert effective_settings("mine", {"model": {"name": "x"}}, root)["model"]["name"] == "x"
    assert effective_settings("above", {}, root)["model"]["name"] == "tiny"  # named by what it extends


def test_a_variant_has_a_folder_of_its_own(project):
    root = project(a={}, b={"controls": ["random"]})
    assert list(load_selected("a", {"seed": 1, "name": "a-one"}, root)) == ["a-one"]
    both = load_selected("b", {"seeds": [0, 1], "name": "b.x"}, root)
    assert list(both) == ["b.x-seed-0", "b.x-seed-1", "b.x-control-random-seed-0", "b.x-control-random-seed-1"]
    assert list(runs_by_recipe(both)) == ["b.x", "b.x-control-random"]
    # It differs from its recipe in the name alone, so that equal settings train equally.
    (variant,) = load_selected("a", {"name": "a-one"}, root).values()
    assert variant | {"name": None} == load_selected("a", {}, root)["a"]


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("b", "recipe a: name: 'b' is a recipe, or a folder of results/ already; choose another name"),
        ("models", "recipe a: name: 'models' is a recipe, or a folder of results/ already; choose another name"),
        ("A b", "recipe a: name: expected a name of a-z, 0-9, '.', '_' and '-', at most 64 of them, found 'A b'"),
        ("c", "recipes: 'c' is a recipe and a run of another, or two variants have this name; rename one"),
    ],
)
def test_a_variant_may_not_take_the_folder_of_another(project, name, fault):
    with pytest.raises(PipelineError) as refused:
        load_selected("a,b" if name == "c" else "a", {"name": name}, project(a={}, b={}))
    assert sentence(refused) == fault


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


def test_a_stage_gets_its_blocks_from_json_and_from_a_file_of_either_kind(tmp_path):
    settings = effective_settings("tiny", {})
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings, allow_unicode=True), encoding="utf-8")
    as_rules_write_it = tmp_path / "settings.json"
    as_rules_write_it.write_text(json.dumps(settings), encoding="utf-8")  # 3e-06, which YAML would read as text
    for argument in (json.dumps(settings), str(path), str(as_rules_write_it)):
        given = stage_settings(argument, "seed", "training")
        assert to_plain(given) == {"seed": settings["seed"], "training": settings["training"]}
        with pytest.raises(TypeError):
            given["training"]["beta"] = 1


def test_only_the_list_of_other_sets_may_be_missing_in_a_stages_settings():
    """Then it is not there at all: the fingerprint of an evaluation is the same, whatever other sets there are."""
    evaluation = effective_settings("tiny", {"evaluation": {"transfer": ["svamp"]}})["evaluation"]
    assert [each["name"] for each in evaluation.pop("transfer")] == ["svamp"]
    given = stage_settings(json.dumps({"evaluation": evaluation}), "evaluation")["evaluation"]
    assert to_plain(given) == evaluation
    del evaluation["seed"]
    with pytest.raises(PipelineError, match=r"evaluation\.seed: this key is missing"):
        stage_settings(json.dumps({"evaluation": evaluation}), "evaluation")


@pytest.mark.parametrize(
    ("argument", "fault"),
    [
        ('{"seed": 0}', "no block 'training'; this stage needs seed, training"),
        ('{"seed": 0', "not valid JSON ("),
        (f'{{"seed": {"1" * 5000}}}', "not valid JSON (Exceeds the limit (4300 digits)"),
        ('{"seed": "0", "training": {}}', "seed: expected a whole number, found '0'"),
        ("nowhere/settings.yaml", "nowhere/settings.yaml: no such file"),
    ],
)
def test_a_stage_refuses_settings_that_it_cannot_use(argument, fault):
    with pytest.raises(PipelineError) as refused:
        stage_settings(argument, "seed", "training")
    assert sentence(refused).startswith(f"--settings: {fault}")
