"""The files that are generated from the model of all settings: config.yaml, its JSON schema, docs/configuration.md."""

import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema

from gsm8k_grpo.config.fields import LARGEST_COUNT, LARGEST_NUMBER, PATTERNS, Block, nested_block
from gsm8k_grpo.config.schema import Settings

WIDTH = 120
CONFIG_HEADER = """\
# yaml-language-server: $schema=schemas/config.schema.json
# Every setting of the pipeline, once, with its default. The defaults are those of the flagship, Gemma 2 2B-IT on GSM8K.
# A recipe (recipes/NAME.yaml) goes over them, and `--config` or `--configfile` on the command line goes over both.
# Write 1.0e-6: YAML reads 1e-6 as text. docs/configuration.md has types and limits.
# `make generated` writes this file from scripts/gsm8k_grpo/config/; change a default or a description there.
"""
DOCUMENT_HEADER = """\
# Configuration

Every setting has its default in [config.yaml](../config.yaml). A recipe (`recipes/NAME.yaml`) goes over it, and
`--config` or `--configfile` on the command line goes over both. Unknown keys are refused, and no type is converted into
another: write `1.0e-6`, since YAML reads `1e-6` as text. Where a table gives no upper limit, whole numbers end at 10⁹
and others at 10¹².

`make generated` writes this page from `scripts/gsm8k_grpo/config/`.
"""


class _WithoutTitles(GenerateJsonSchema):
    """Leaves out the titles of settings, which would only repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def generated_files() -> dict[Path, str]:
    """The text of each generated file, by its path relative to the project's folder."""
    schema = json_schema()
    return {
        Path("config.yaml"): config_yaml(),
        Path("schemas/config.schema.json"): json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
        Path("docs/configuration.md"): markdown_page(schema),
    }


def json_schema() -> dict:
    """The JSON schema of config.yaml and of recipes, in which every key may be left out."""
    schema = Settings.model_json_schema(schema_generator=_WithoutTitles)
    for block in (schema, *schema["$defs"].values()):
        for described in (block, *block["properties"].values()):
            if "description" in described:
                described["description"] = "\n".join(_paragraphs(described["description"]))
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema}


def _paragraphs(text: str) -> list[str]:
    """A description's first paragraph and the items of its list, each on one line."""
    return re.sub(r"\n(?!- )\s*", " ", inspect.cleandoc(text)).splitlines()


def _description(field: FieldInfo) -> list[str]:
    """The paragraphs of a setting's description; a block of settings without one is described by its class."""
    return _paragraphs(field.description or nested_block(field.annotation).__doc__)


def _choices(annotation: Any) -> tuple[str, ...]:
    """The texts that a setting allows, if its type names them."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next(filter(None, map(_choices, get_args(annotation))), ()) if get_origin(annotation) is Union else ()


def _wrap(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=others, break_on_hyphens=False)


def config_yaml() -> str:
    """config.yaml: each setting with its description as a comment."""
    groups = "\n\n".join("\n".join(_yaml_lines(Settings, name)) for name in Settings.model_fields)
    return f"{CONFIG_HEADER}\n{groups}\n"


def _yaml_lines(block: type[Block], name: str, indent: str = "") -> Iterator[str]:
    field = block.model_fields[name]
    first, *items = _description(field)
    missing = [choice for choice in _choices(field.annotation) if choice not in " ".join([first, *items])]
    if missing:
        first += f" One of {', '.join(_choices(field.annotation))}."
    for paragraph in [first, *items]:
        yield from _wrap(paragraph, f"{indent}# ", f"{indent}#   " if paragraph.startswith("- ") else f"{indent}# ")
    default = field.default
    if isinstance(default, Block):
        yield f"{indent}{name}:"
        for inner in type(default).model_fields:
            yield from _yaml_lines(type(default), inner, f"{indent}  ")
    elif isinstance(default, str) and len(default) > WIDTH - len(indent) - len(name):
        yield f"{indent}{name}: >-"
        yield from _wrap(default, f"{indent}  ", f"{indent}  ")
    else:
        yield f"{indent}{name}: {_yaml_value(default)}"


def _yaml_value(value: Any) -> str:
    """A value on one line of YAML, with 3.0e-6 in place of 3.0e-06."""
    text = yaml.safe_dump(value, default_flow_style=True, width=1000, allow_unicode=True).splitlines()[0]
    return re.sub(r"e-0(\d)$", r"e-\1", text)


def markdown_page(schema: dict) -> str:
    """docs/configuration.md: a table for each block of settings."""
    pages = [DOCUMENT_HEADER, *_markdown_tables(Settings, "", schema)]
    return "\n".join(pages)


def _markdown_tables(block: type[Block], path: str, schema: dict) -> Iterator[str]:
    """Yields a block's table, then those of the blocks in it."""
    title = f"`{path}`" if path else "Top level"
    properties = schema["properties"] if block is Settings else schema["$defs"][block.__name__]["properties"]
    rows = [f"## {title}", "", " ".join(_paragraphs(block.__doc__)), ""]
    rows += ["| key | type and limits | default | what it does |", "| --- | --- | --- | --- |"]
    inner = []
    for name, field in block.model_fields.items():
        key = f"{path}.{name}" if path else name
        if field.is_required():
            default = "required"
        elif isinstance(field.default, Block):
            default = "below"
        else:
            default = f"`{_yaml_value(field.default)}`"
        cells = (f"`{name}`", _type_text(properties[name]), default, "<br>".join(_description(field)))
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
        if nested_block(field.annotation):
            inner.append((nested_block(field.annotation), key))
    yield "\n".join(rows) + "\n"
    for nested, key in inner:
        yield from _markdown_tables(nested, key, schema)


def _type_text(schema: dict) -> str:
    """A setting's type and limits in words, from its JSON schema."""
    if "anyOf" in schema:
        return " or ".join(map(_type_text, schema["anyOf"]))
    if "$ref" in schema:
        return "block below"
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if "pattern" in schema:
        return PATTERNS[schema["pattern"]]
    kind = {
        "array": "list",
        "boolean": "true or false",
        "integer": "whole number",
        "number": "number",
        "object": "keys and values",
        "string": "text",
        "null": "null",
    }[schema["type"]]
    if schema["type"] == "array":
        kind = f"list of ({_type_text(schema['items'])})"
    if schema.get("maximum") in (LARGEST_COUNT, LARGEST_NUMBER):
        schema = {name: limit for name, limit in schema.items() if name != "maximum"}
    limits = {
        "minimum": "≥ {:,.12g}",
        "exclusiveMinimum": "> {:,.12g}",
        "maximum": "≤ {:,.12g}",
        "exclusiveMaximum": "< {:,.12g}",
        "multipleOf": "a multiple of {}",
        "minItems": "at least {}",
        "maxItems": "at most {}",
        "uniqueItems": "none twice",
        "minLength": "not empty",
    }
    return ", ".join([kind, *(text.format(schema[name]) for name, text in limits.items() if name in schema)])
