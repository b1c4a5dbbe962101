"""All settings: their names, types, limits, defaults and descriptions, and how a fault in them is reported.

config.yaml, schemas/config.schema.json and docs/configuration.md are generated from this model (`make generated`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal

import pydantic

from gsm8k_grpo.common.errors import PipelineError
from gsm8k_grpo.config.blocks_inputs import Dataset, Mesh, Model, Prompt
from gsm8k_grpo.config.blocks_results import Evaluation, Preflight, Published, Report
from gsm8k_grpo.config.blocks_training import Control, Training
from gsm8k_grpo.config.fields import DISTINCT, DISTINCT_OR_NONE, PATTERNS, Block, Name, Positive, Seed, nested_block


class Settings(Block):
    """Every setting of the pipeline."""

    recipes: str | Annotated[list[str], *DISTINCT] = ["tiny"]
    """Which recipes to run and to put into one report: names of files in recipes/."""
    miniature: bool = False
    """Runs a recipe at the size of recipes/tiny.yaml, on a CPU, in minutes: its own family of model, tags, rewards, β,
    ε, G and μ, on generated problems. The results are in results/RECIPE-miniature."""
    at_miniature_size: dict[str, Any] = {}
    """What a recipe's miniature needs beyond that (steps, learning rate), as blocks of settings."""
    seed: Seed = 0
    """Seed of training. The initial LoRA weights, the order of the prompts and the noise of every rollout derive from
    it."""
    seeds: Annotated[list[Seed], *DISTINCT] | None = None
    """Several seeds, [0, 1, 2], run each recipe once a seed, as RECIPE-seed-0 and so on, and report mean and interval
    over them (results/RECIPE/seeds.json). null runs it once, with `seed`."""
    controls: Annotated[list[Control], *DISTINCT_OR_NONE] = []
    """Controls of the result: the same run once more with each of these in place of its rewards, for each seed, as
    RECIPE-control-NAME. The page shows them beside the result and says which part of the gain they explain too.
    - format_only: those of the recipe's rewards that do not look at the gold answer.
    - shuffled_gold: the recipe's rewards, with the gold answer of another row.
    - random: 1 or 0 by the toss of a coin."""
    extends: Name | None = None
    """In a recipe's file: the name of another recipe, over which this one goes and which extends none itself. null is
    config.yaml alone; then the recipe must name its model (`model.name`)."""
    name: Name | None = None
    """Names the folder of a variant, results/NAME in place of results/RECIPE, so that both stay: `--config seed=1
    name=tiny-seed-one`. Data and base model have names of their own (`dataset.name`, `model.name`)."""
    platform: Literal["cpu", "tpu", "cuda"] = "cpu"
    """What training and evaluation compute on; where JAX finds another kind of device, they stop. It also says which
    environment of envs/ the rules get with `--sdm conda`."""
    stop_after_hours: Positive | None = None
    """Training and evaluation stop themselves so many hours after Snakemake began, saved and with exit status 75; the
    same command goes on. For machines that are lent for some hours: name less than those. It changes no result and
    reruns nothing. null stops nothing; of several recipes, the least counts."""
    mesh: Mesh = Mesh()
    dataset: Dataset = Dataset()
    model: Model = Model()
    prompt: Prompt = Prompt()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    preflight: Preflight = Preflight()
    report: Report = Report()
    published: Published | None = None
    """What the recipe's origin published, shown beside what came out here: `text`, `source`, `conditions` (how they
    differ from this run's) and `values`, a list of {metric, base, trained, difference}. A rate with counts,
    {correct: 58, n: 400}, gets an interval. null is nothing."""


# Most stages do not get this list: no evaluation depends on which other sets there are.
NOT_FOR_EVERY_STAGE = "evaluation.transfer"

POWER_OF_TEN = re.compile(r"[-+]?[\d.]+[eE][-+]?\d+")
EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "keys and values",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt:,.12g}",
    "greater_than_equal": "at least {ge:,.12g}",
    "int_type": "a whole number",
    "less_than": "less than {lt:,.12g}",
    "less_than_equal": "at most {le:,.12g}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "keys and values",
    "multiple_of": "a multiple of {multiple_of}",
    "repeated": "no item twice",
    "repeated_name": "no name twice",
    "string_too_short": "text that is not empty",
    "string_type": "text",
    "string_unicode": "text",
    "transfer_columns": "question and answer too, where columns of a published set are named",
    "transfer_handle": "path (a file there) and revision (a commit) beside handle",
    "transfer_path": "the path of a file, or the name of a published set",
    "too_long": "a list of at most {max_length}",
    "too_short": "a list of at least {min_length}",
}


def validated(settings: Mapping, where: str, blocks: Iterable[str] = tuple(Settings.model_fields)) -> dict:
    """Settings by the types and limits of `Settings`, as plain values.

    Args:
      settings: nested settings; every key of the blocks must be there.
      where: begins the message of an error.
      blocks: the top-level keys that are checked and returned.

    Raises:
      PipelineError: one sentence that names the first faulty key.
    """
    try:
        unwritable = next(_unwritable(settings), None)
    except RecursionError:  # an alias of YAML that stands inside what it names
        raise PipelineError(f"{where}: a setting contains itself; write it out without the alias") from None
    if unwritable:
        raise PipelineError(f"{where}: {': '.join(unwritable)}")
    try:
        checked = Settings.model_validate(settings).model_dump(include=set(blocks), warnings=False)
    except pydantic.ValidationError as error:
        raise PipelineError(f"{where}: {_sentence(error, settings)}") from None
    for key in list(_missing_keys(settings, checked)):
        if key != NOT_FOR_EVERY_STAGE:
            raise PipelineError(f"{where}: {key}: this key is missing")
        del checked["evaluation"]["transfer"]  # a stage has what it was given, and no more
    return checked


MOST_BITS = 10_000  # of a whole number; Python refuses to print one that is much longer


def _unwritable(value: Any, path: str = "top level") -> Iterator[tuple[str, str]]:
    """Yields (key, problem) for what no file could hold, or no message could show, whatever the setting's type."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _unwritable(key, path)
            yield from _unwritable(item, str(key) if path == "top level" else f"{path}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _unwritable(item, f"{path}.{index}")
    elif isinstance(value, str):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            yield path, f"expected text that UTF-8 can write and without \\0, found {ascii(value)[:80]}"
    elif isinstance(value, int) and value.bit_length() > MOST_BITS:
        yield path, f"expected a number of fewer digits, found one of about {int(value.bit_length() * 0.301):,}"


def _missing_keys(given: Mapping, complete: Mapping, path: str = "") -> Iterator[str]:
    for key, value in complete.items():
        if key not in given:
            yield path + key
        elif isinstance(value, Mapping):
            yield from _missing_keys(given[key], value, f"{path}{key}.")


def _sentence(error: pydantic.ValidationError, settings: Any) -> str:
    faults = error.errors(include_url=False)
    keys = [_key(fault, settings) for fault in faults]
    # Where a setting may be a name or a block, each alternative has faults: those within the block say more.
    key = max((each for each in keys if each[: len(keys[0])] == keys[0]), key=len)
    dotted = ".".join(map(str, key)) or "top level"
    faults = [fault for fault, each in zip(faults, keys, strict=True) if each == key]
    if faults[0]["type"] in ("extra_forbidden", "invalid_key"):
        return f"{dotted}: unknown key; there are {', '.join(_block_at(key[:-1]).model_fields)}"
    if faults[0]["type"] == "missing":
        return f"{dotted}: this key is missing"
    found = faults[0]["input"]
    is_power = faults[0]["type"] == "float_type" and isinstance(found, str) and POWER_OF_TEN.fullmatch(found)
    # To YAML, a power of ten has a point and, in its exponent, a sign.
    text, number = ("1.0e6", "1.0e+6") if is_power and "." in found else ("1e-6", "1.0e-6")
    hint = f" (YAML reads {text} as text; write {number})" if is_power else ""
    return f"{dotted}: expected {' or '.join(map(_expected, faults))}, found {repr(found)[:80]}{hint}"


def _key(fault: Mapping, settings: Any) -> tuple:
    """Where a fault lies, without pydantic's names of alternatives."""
    key, value = [], settings
    for part in fault["loc"]:
        if (isinstance(value, Mapping) and part in value) or (isinstance(value, list) and isinstance(part, int)):
            key.append(part)
            value = value[part]
        elif fault["type"] in ("missing", "invalid_key") and part == fault["loc"][-1]:
            key.append(part)
    return tuple(key)


def _expected(fault: Mapping) -> str:
    context = fault.get("ctx", {})
    if "pattern" in context:
        return PATTERNS[context["pattern"]]
    return EXPECTED.get(fault["type"], "another value").format(**context)


def _block_at(key: tuple) -> type[Block]:
    block = Settings
    for part in key:
        if isinstance(part, str):  # numbers are places in a list
            block = nested_block(block.model_fields[part].annotation)
    return block
