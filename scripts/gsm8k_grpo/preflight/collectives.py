"""What a compiled program's text says: its collectives, and which of them are run again in every round of a loop."""

import math
import re
from collections.abc import Iterator

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "s4": 4, "u4": 4, "bf16": 16, "c64": 64, "c128": 128}
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][a-z0-9\-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply|condition|body|async_execution_thread_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_ROUNDS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_BELOW = re.compile(r"ROOT \S+ = pred\[\]\S* compare\([^,]+, %?([\w.\-]+)\), direction=LT")
_SHAPE = re.compile(r"\b([a-z]+[0-9]*(?:e[0-9]m[0-9][a-z]*)?)\[([0-9,]*)\]")


def count_collectives(text: str) -> dict[str, dict[str, dict[str, int]]]:
    """Counts a program's collectives and the bytes that they make, on one device.

    Args:
      text: of the compiled program (`jax.stages.Compiled.as_text`).

    Returns:
      {"in_loops", "outside": {kind: {"count", "bytes"}}}; `in_loops` has what any loop's body runs, once a round.
    """
    found: dict[str, dict[str, dict[str, int]]] = {"in_loops": {}, "outside": {}}
    for kind, size, loops in _all_collectives(text):
        counted = found["in_loops" if loops else "outside"].setdefault(kind, {"count": 0, "bytes": 0})
        counted["count"] += 1
        counted["bytes"] += size
    return found


def collective_bytes(text: str) -> int:
    """What all collectives of a program make on one device while it runs once.

    Raises:
      ValueError: one is in a loop of which the text does not say how often it runs.
    """
    total = 0
    for kind, size, loops in _all_collectives(text):
        if None in loops:
            raise ValueError(f"{kind} in a loop of which the program's text does not say how often it runs")
        total += size * math.prod(loops)
    return total


def _all_collectives(text: str) -> Iterator[tuple[str, int, tuple[int | None, ...]]]:
    """A program's collectives, as `_within` yields them."""
    bodies = _computations(text)
    return _collectives_within(bodies, next(name for name in bodies if name.startswith("ENTRY ")), ())


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation by its name; the entry's name has `ENTRY ` before it."""
    bodies, lines = {}, None
    for line in text.splitlines():
        if lines is None:
            begins = _COMPUTATION.match(line)
            if begins:
                lines = bodies.setdefault(("ENTRY " if line.startswith("ENTRY ") else "") + begins[1], [])
        elif line.startswith("}"):
            lines = None
        else:
            lines.append(line)
    return bodies


def _collectives_within(
    bodies: dict[str, list[str]], name: str, loops: tuple[int | None, ...]
) -> Iterator[tuple[str, int, tuple[int | None, ...]]]:
    """Yields (kind, bytes, loops around it) of one computation's collectives and of those that it calls.

    A loop is how often it runs, None where that is not known.
    """
    for line in bodies.get(name, ()):
        operation = _OPERATION.match(line)
        if not operation:
            continue
        shape, opcode = operation.groups()
        kind = opcode.removesuffix("-start")
        if kind in COLLECTIVES:
            yield kind, _result_bytes(shape, opcode), loops
            continue  # what it applies is one scalar's addition
        called = _CALLED.findall(line)
        for branches in _BRANCHES.findall(line):
            called += [branch.strip().lstrip("%") for branch in branches.split(",")]
        inside = (*loops, _loop_rounds(line, bodies)) if opcode == "while" else loops
        for each in called:
            yield from _collectives_within(bodies, each, inside)


def _loop_rounds(loop: str, bodies: dict[str, list[str]]) -> int | None:
    """How often a loop runs: what is noted on it, or what its counter, which JAX begins with 0, must be below."""
    if noted := _ROUNDS.search(loop):
        return int(noted[1])
    condition = "\n".join(bodies.get(_CONDITION.search(loop)[1], ()))
    below = _BELOW.search(condition)
    limit = below and re.search(rf"%?{re.escape(below[1])} = s32\[\]\S* constant\((\d+)\)", condition)
    return int(limit[1]) if limit else None


def _result_bytes(shape: str, opcode: str) -> int:
    """Bytes of a collective's results; an asynchronous one's shape also has its operands, before them."""
    sizes = []
    for kind, dimensions in _SHAPE.findall(shape):
        bits = _BITS.get(kind) or int(re.search(r"[0-9]+", kind)[0])
        sizes.append(math.ceil(math.prod(int(each) for each in dimensions.split(",") if each) * bits / 8))
    if opcode == "all-gather-start":
        sizes = sizes[len(sizes) // 2 :]
    elif opcode == "collective-permute-start":
        sizes = sizes[1:2]
    return sum(sizes)
