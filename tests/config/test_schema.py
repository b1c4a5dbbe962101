"""The typed model of all settings, and the files that are generated from it."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pydantic
import pytest

from gsm8k_grpo.config.blocks_inputs import Architecture, Pretraining
from gsm8k_grpo.config.documentation import generated_files, json_schema
from gsm8k_grpo.config.fields import nested_block
from gsm8k_grpo.config.merging import read_yaml
from gsm8k_grpo.config.recipes import effective_settings
from gsm8k_grpo.config.schema import Settings, validated

ROOT = Path(__file__).parents[2]


def all_blocks(block=Settings):
    """A block and those in it."""
    yield block
    for field in block.model_fields.values():
        if nested_block(field.annotation):
            yield from all_blocks(nested_block(field.annotation))


@pytest.mark.parametrize("path", generated_files(), ids=str)
def test_generated_files_are_current(path):
    assert (ROOT / path).read_text(encoding="utf-8") == generated_files()[path], "run make generated"


def test_config_yaml_holds_the_defaults_as_they_are_written():
    """Integers stay integers where a number is allowed: settings are hashed as text."""
    assert json.dumps(read_yaml(ROOT / "config.yaml")) == json.dumps(Settings().model_dump())
    assert json.dumps(validated(read_yaml(ROOT / "config.yaml"), "here")) == json.dumps(Settings().model_dump())


def test_a_miniature_sets_every_size_and_all_of_its_pretraining():
    model = effective_settings("tiny", {})["model"]
    assert set(model["architecture"]) == set(Architecture.model_fields)
    assert set(model["pretraining"]) == set(Pretraining.model_fields)


def test_every_setting_is_described_and_no_other_is_allowed():
    found = {block.__name__: block for block in all_blocks()}
    assert {"Training", "Lora", "Tags", "PublishedRate"} <= set(found)
    for name, block in found.items():
        assert block.model_config["extra"] == "forbid" and block.model_config["frozen"], name
        for key, field in block.model_fields.items():
            described = field.description or nested_block(field.annotation).__doc__
            assert described.strip().endswith((".", ")")), f"{name}.{key}"


def test_settings_are_frozen():
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        Settings().training.beta = 1


@pytest.mark.parametrize(
    "path", ["config.yaml", *sorted((ROOT / "recipes").glob("*.yaml"))], ids=lambda path: str(path)[-20:]
)
def test_editors_accept_config_yaml_and_every_recipe(path):
    """And the schema that the file names for them is there."""
    path = ROOT / path
    schema = path.parent / path.read_text(encoding="utf-8").splitlines()[0].removeprefix(
        "# yaml-language-server: $schema="
    )
    assert json.loads(schema.read_text(encoding="utf-8")) == json_schema()
    jsonschema.Draft202012Validator(json_schema()).validate(read_yaml(path))


@pytest.mark.parametrize(
    "fault", [{"training": {"bata": 1}}, {"training": {"rewards": ["x"]}}, {"seeds": [0, 0]}], ids=str
)
def test_editors_refuse_faults(fault):
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(json_schema()).validate(fault)


def test_settings_load_without_jax():
    statement = (
        "import sys; sys.path.insert(0, 'scripts'); import gsm8k_grpo.config.recipes; print('jax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", statement], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
