"""Parts of Tunix that are private or that we replace, each with the reason. All were seen in Tunix 0.1.7."""

import functools
import importlib.util
import logging
import sys
import types
from typing import Any


def import_without_extras() -> None:
    """Lets modules of `tunix` be imported without running the package's `__init__`.

    `tunix/__init__.py` imports agents and distillation, and through them pandas: a quarter of a stage's import time.
    We register an empty package with the same search path in its place.
    """
    spec = importlib.util.find_spec("tunix")
    if spec and "tunix" not in sys.modules:
        package = types.ModuleType("tunix")
        package.__spec__, package.__path__ = spec, list(spec.submodule_search_locations)
        sys.modules["tunix"] = package


@functools.cache
def hide_memory_warning() -> None:
    """Keeps Tunix from warning on a CPU that `jax[tpu]` may be missing: its learner asks for a device's memory."""
    logging.getLogger("absl").addFilter(lambda record: "Skipping non-TPU device" not in record.getMessage())


def drop_anchor_policy(rl_cluster: Any) -> None:
    """Frees the copy of all weights that Tunix's `RLCluster` makes at its start, in the host's memory.

    Tunix computes the old policy's log-probs with it. We compute them before the first update of a step instead.
    """
    rl_cluster._anchor_policy_state = None


def replace_class(module: Any, kind: type) -> None:
    """Turns a finished module into one of a subclass, with its weights.

    Tunix's models name the classes of their parts in their constructors and take no others. Assigning `__class__` keeps
    the module's variables, paths and random draws as they are.
    """
    module.__class__ = kind


def normalise_query_and_key(attention: Any, query: Any, key: Any) -> tuple:
    """Applies the norms of Gemma 3's attention, which it keeps in `_query_norm` and `_key_norm`."""
    return attention._query_norm(query), attention._key_norm(key)


def qwen2_rotary_angles(positions: Any, config: Any) -> tuple:
    """The sines and cosines of rotary positions, which Qwen 2's forward pass keeps to itself."""
    from tunix.models.qwen2 import model

    return model._generate_pos_embeddings(positions, config.head_dim, config.rope_theta)
