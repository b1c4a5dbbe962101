"""Reads the text of a compiled program (XLA's HLO): its collectives, and which of them a loop repeats."""

import math
import re
from collections.abc import Iterator

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
# Types whose names do not end in their number of bits.
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply|condition|body|async_execution_thread_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_LESS_THAN = re.compile(r"ROOT \S+ = pred\[\]\S* compare\([^,]+, %?([\w.\-]+)\), direction=LT")
_SHAPE = re.compile(r"\b([a-z]+[0-9]*(?:e[0-9]m[0-9][a-z]*)?)\[([0-9,]*)\]")


def count_collectives(text: str) -> dict[str, dict[str, dict[str, int]]]:
    """Counts the collectives of a program and the bytes of their results on one device.

    Args:
      text: the result of `jax.stages.Compiled.as_text`.

    Returns:
      {"in_loops", "outside": {kind: {"count", "bytes"}}}. `in_loops` counts each loop's body once.
    """
    counts: dict[str, dict[str, dict[str, int]]] = {"in_loops": {}, "outside": {}}
    for kind, size, trip_counts in _all_collectives(text):
        count = counts["in_loops" if trip_counts else "outside"].setdefault(kind, {"count": 0, "bytes": 0})
        count["count"] += 1
        count["bytes"] += size
    return counts


def collective_bytes(text: str) -> int:
    """Bytes of the results of all collectives on one device while the program runs once, loops included.

    Raises:
      ValueError: a collective is in a loop whose trip count the text does not give.
    """
    total = 0
    for kind, size, trip_counts in _all_collectives(text):
        if None in trip_counts:
            raise ValueError(f"{kind} is in a loop whose trip count the program's text does not give")
        total += size * math.prod(trip_counts)
    return total


def _all_collectives(text: str) -> Iterator[tuple[str, int, tuple[int | None, ...]]]:
    """Yields what `_collectives_within` does, for the whole program."""
    computations = _computations(text)
    entry = next(name for name in computations if name.startswith("ENTRY "))
    return _collectives_within(computations, entry, ())


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation by its name. The entry's name starts with `ENTRY `."""
    computations, lines = {}, None
    for line in text.splitlines():
        if lines is None:
            header = _COMPUTATION.match(line)
            if header:
                lines = computations.setdefault(("ENTRY " if line.startswith("ENTRY ") else "") + header[1], [])
        elif line.startswith("}"):
            lines = None
        else:
            lines.append(line)
    return computations


def _collectives_within(
    computations: dict[str, list[str]], name: str, trip_counts: tuple[int | None, ...]
) -> Iterator[tuple[str, int, tuple[int | None, ...]]]:
    """Yields (kind, bytes, trip counts of the loops around it) for a computation and all that it calls.

    A trip count is None where the text does not give it.
    """
    for line in computations.get(name, ()):
        operation = _OPERATION.match(line)
        if not operation:
            continue
        shape, opcode = operation.groups()
        kind = opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            yield kind, _result_bytes(shape, opcode), trip_counts
            continue  # the computation that it applies adds two scalars
        called = _CALLED.findall(line)
        for branches in _BRANCHES.findall(line):
            called += [branch.strip().lstrip("%") for branch in branches.split(",")]
        inside = (*trip_counts, _trip_count(line, computations)) if opcode == "while" else trip_counts
        for each in called:
            yield from _collectives_within(computations, each, inside)


def _trip_count(loop: str, computations: dict[str, list[str]]) -> int | None:
    """How often a loop runs: XLA's own note, or the limit of its counter, which starts at 0 in JAX's loops."""
    if noted := _TRIP_COUNT.search(loop):
        return int(noted[1])
    condition = "\n".join(computations.get(_CONDITION.search(loop)[1], ()))
    less_than = _LESS_THAN.search(condition)
    limit = less_than and re.search(rf"%?{re.escape(less_than[1])} = s32\[\]\S* constant\((\d+)\)", condition)
    return int(limit[1]) if limit else None


def _result_bytes(shape: str, opcode: str) -> int:
    """Bytes of a collective's results. The shape of an asynchronous one lists its operands before them."""
    sizes = []
    for kind, dimensions in _SHAPE.findall(shape):
        bits = _BITS.get(kind) or int(re.search(r"[0-9]+", kind)[0])
        sizes.append(math.ceil(math.prod(int(each) for each in dimensions.split(",") if each) * bits / 8))
    if opcode == "all-gather-start":
        sizes = sizes[len(sizes) // 2 :]
    elif opcode == "collective-permute-start":
        sizes = sizes[1:2]
    return sum(sizes)
