"""Private parts of other libraries are used in internals/ only."""

import ast

from gsm8k_grpo.common.layout import ROOT

LIBRARY = ROOT / "scripts" / "gsm8k_grpo"
PUBLIC = ("_replace", "_asdict", "_fields", "_exit")  # of named tuples and of os, in spite of their names


def private(name):
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def private_parts(path):
    """Lists the private attributes and modules that a file takes from elsewhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and private(node.attr):
            if getattr(node.value, "id", None) not in ("self", "cls"):
                yield ast.unparse(node)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            yield from (name for name in names if any(map(private, name.split("."))))
        elif isinstance(node, ast.Assign):
            yield from (ast.unparse(each) for each in node.targets if getattr(each, "attr", "") == "__class__")


def test_only_internals_use_private_parts():
    found = {
        str(path.relative_to(LIBRARY)): parts
        for path in LIBRARY.rglob("*.py")
        if path.parent.name != "internals" and (parts := list(private_parts(path)))
    }
    assert not found
    assert any(list(private_parts(path)) for path in (LIBRARY / "internals").glob("*.py"))
