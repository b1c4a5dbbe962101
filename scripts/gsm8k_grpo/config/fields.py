"""The types that settings are made of, and what all blocks of settings have in common."""

from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidatorFunctionWrapHandler, WrapValidator
from pydantic_core import PydanticCustomError


class Block(BaseModel):
    """A block of settings: read-only, without unknown keys, without conversions. Docstrings describe the settings."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def nested_block(annotation: Any) -> type[Block] | None:
    """The block that a setting's type allows, if there is one: `Lora` of `Lora | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return annotation
    return next(filter(None, map(nested_block, get_args(annotation))), None)


def _as_written(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Leaves 64 an integer where 64.0 is allowed too: settings are hashed as text."""
    validate(value)
    return value


def _without_repetition(items: list) -> list:
    if any(item in items[:index] for index, item in enumerate(items)):
        raise PydanticCustomError("repeated", "an item is repeated")
    return items


AS_WRITTEN = WrapValidator(_as_written)
# The limit comes first: comparing each two items of a long list takes long.
DISTINCT_OR_NONE = (
    Field(max_length=1000, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_without_repetition),
)
DISTINCT = (
    Field(min_length=1, max_length=1000, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_without_repetition),
)

# Upper limits stand far above every use. They stop typing errors before a loop or a compiler meets them.
LARGEST_COUNT, LARGEST_NUMBER = 10**9, 1e12
Count = Annotated[int, Field(ge=1, le=LARGEST_COUNT)]
CountOrZero = Annotated[int, Field(ge=0, le=LARGEST_COUNT)]
Size = Annotated[int, Field(ge=1, le=2**20)]
Devices = Annotated[int, Field(ge=1, le=2**16)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]

Positive = Annotated[float, Field(gt=0, le=LARGEST_NUMBER), AS_WRITTEN]
PositiveOrZero = Annotated[float, Field(ge=0, le=LARGEST_NUMBER), AS_WRITTEN]
Share = Annotated[float, Field(ge=0, le=1), AS_WRITTEN]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1), AS_WRITTEN]
ShareAboveZero = Annotated[float, Field(gt=0, le=1), AS_WRITTEN]

# In these patterns `$` is the end of the text, not a line's: pydantic uses Rust's regular expressions.
NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"  # of recipes, data sets and models; with what a run adds, a file's name
DATASET_HANDLE = r"^[^/\s]+/[^/\s]+$"
MODEL_HANDLE = r"^\S+$"
PINNED_COMMIT = r"^[0-9a-f]{40}$"
CUSTOM_REWARD = r"^[^:]+\.py:[^\W\d]\w*$"
LAYOUT = r"^[^{}]*\{system\}[^{}]*\{question\}[^{}]*$"
PATTERNS = {
    NAME: "a name of a-z, 0-9, '.', '_' and '-', at most 64 of them",
    DATASET_HANDLE: "OWNER/NAME",
    MODEL_HANDLE: "a handle without spaces",
    PINNED_COMMIT: "a commit of 40 hexadecimal digits",
    CUSTOM_REWARD: "path/to/file.py:function",
    LAYOUT: "text with {system} and then {question}",
}
Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=NAME)]
