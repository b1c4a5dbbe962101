"""Parts of Tunix that are private or that we patch, each with the reason and the version."""

import importlib.util
import sys
import types


def import_without_extras() -> None:
    """Puts an empty package in the place of `tunix`, from which its modules are imported as ever.

    Its own `__init__` imports agents, distillation and, with these, pandas: a quarter of each stage's imports.
    """
    spec = importlib.util.find_spec("tunix")
    if spec and "tunix" not in sys.modules:
        package = types.ModuleType("tunix")
        package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations)
        sys.modules["tunix"] = package
