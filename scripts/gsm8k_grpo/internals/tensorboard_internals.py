"""tensorboardX, with the reason why it is imported in another way. This was seen in tensorboardX 2.6.5."""

import importlib
import sys
from types import ModuleType


def import_without_torch() -> ModuleType:
    """Imports tensorboardX as if PyTorch were not installed; call it before Tunix is imported, which imports it too.

    It imports PyTorch to take its tensors, which we have none of: seconds, and hundreds of megabytes.
    """
    if "torch" in sys.modules:
        return importlib.import_module("tensorboardX")
    sys.modules["torch"] = None  # importing it is an ImportError
    try:
        return importlib.import_module("tensorboardX")
    finally:
        del sys.modules["torch"]
