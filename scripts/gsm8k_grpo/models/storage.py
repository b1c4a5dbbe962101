"""Weights on disk (Orbax) and their hashes."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx, traverse_util
from jax.sharding import Mesh

from gsm8k_grpo.common.errors import PipelineError, is_out_of_memory, silent_stderr
from gsm8k_grpo.internals import orbax_internals
from gsm8k_grpo.models import building
from gsm8k_grpo.models.mesh import abstract_with_shardings
from gsm8k_grpo.models.recorded_hashes import remedy, require_recorded

UNREADABLE = (OSError, ValueError, KeyError, AttributeError, TypeError)  # what Orbax raises on damaged files


def weights_of(model: nnx.Module) -> dict:
    """Gives all weights as nested dicts of arrays by Tunix's names, for `save` and `weights_hash`."""
    return nnx.to_pure_dict(nnx.state(model))


def leaves(weights: Mapping) -> dict[tuple, object]:
    """Gives the arrays of nested dicts by path."""
    return traverse_util.flatten_dict(weights)


def weights_hash(weights: Mapping) -> str:
    """Hashes names, dtypes, shapes and bytes of all weights. (Orbax writes times into its files, so those differ.)"""
    return arrays_hash(leaves(weights))


def arrays_hash(arrays: Mapping[tuple, object]) -> str:
    """Hashes arrays by path like `weights_hash`; it reads a `Stored` one array at a time."""
    digest = hashlib.sha256()
    for path in sorted(arrays, key=str):
        array = np.asarray(arrays[path])
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.hexdigest()


@contextlib.contextmanager
def writing(what: str, stays: str = ""):
    """Turns a failure of Orbax to write `what`, as on a full disk, into one sentence; `stays` says what is left."""
    try:
        with silent_stderr():
            yield
    except Exception as error:  # Orbax, TensorStore and the system raise exceptions of their own
        reason = orbax_internals.write_failure(error)
        raise PipelineError(
            f"{what} cannot be written ({reason}){stays}; free some space or make the folder writable, then run the "
            "same command again"
        ) from error


def save(weights: Mapping, folder: Path) -> None:
    """Writes all weights as an Orbax checkpoint into `folder`, which must not exist yet.

    Raises:
      PipelineError: they cannot be written.
    """
    with writing(f"{folder}: the weights"), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), weights)


def abstract_model(model_config: object, mesh: Mesh, dtype: jnp.dtype) -> nnx.Module:
    """Makes a model without weights that has the shapes, precision and shardings that `load` fills."""
    model = building.structure(model_config, dtype)
    state = nnx.state(model)
    nnx.update(model, abstract_with_shardings(state, mesh, dtype))
    return model


class Stored(Mapping):
    """The arrays in an Orbax checkpoint by path (layers by number); each is read when it is asked for."""

    def __init__(self, folder: Path):
        """
        Raises:
          PipelineError: there is no readable checkpoint.
        """
        orbax_internals.hide_closed_event_loops()
        self._folder, self._checkpointer = folder.absolute(), ocp.PyTreeCheckpointer()
        try:
            flat = traverse_util.flatten_dict(orbax_internals.stored_tree(self._checkpointer, self._folder))
        except UNREADABLE as error:
            if is_out_of_memory(error):
                raise
            raise PipelineError(f"{folder}: holds no readable weights; {remedy(folder.parent)}") from None
        self._stored = {
            # Training stores variables, which keep their array under the name `value`.
            tuple(int(key) if key.isdigit() else key for key in path[: -1 if path[-1] == "value" else None]): path
            for path in flat
        }
        self._metadata = flat

    def __iter__(self) -> Iterator[tuple]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def __getitem__(self, path: tuple) -> np.ndarray:
        return self._read([path])[path]

    def read_all(self) -> dict[tuple, np.ndarray]:
        """All arrays at once, which is much quicker than one by one."""
        return self._read(self._stored)

    def _read(self, paths: Iterable[tuple]) -> dict[tuple, np.ndarray]:
        keys = {path: self._stored[path] for path in paths}
        metadata = {key: self._metadata[key] for key in keys.values()}
        try:
            restored = self._checkpointer.restore(
                self._folder,
                args=ocp.args.PyTreeRestore(
                    item=traverse_util.unflatten_dict(metadata),
                    restore_args=traverse_util.unflatten_dict(
                        dict.fromkeys(metadata, ocp.RestoreArgs(restore_type=np.ndarray))
                    ),
                    partial_restore=True,
                ),
            )
        except UNREADABLE as error:
            if is_out_of_memory(error):
                raise
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise PipelineError(f"{self._folder}: cannot be read ({reason}); {remedy(self._folder.parent)}") from None
        flat = traverse_util.flatten_dict(restored)
        return {path: flat[key] for path, key in keys.items()}

    def shape(self, path: tuple) -> tuple[int, ...]:
        """The shape of an array, which is not read."""
        return tuple(self._metadata[self._stored[path]].shape)


def load(folder: Path, model_config: object, mesh: Mesh, dtype: jnp.dtype, sha256: str) -> nnx.Module:
    """Loads weights saved by `save` into their shards on the mesh, in a model that computes in `dtype`.

    The files are read once: what is hashed is what is used.

    Args:
      sha256: what `weights_hash` gave when they were saved.

    Raises:
      PipelineError: there are no weights, they have changed, or they are of another architecture.
    """
    if not folder.is_dir():
        raise PipelineError(f"{folder}: holds no weights; {remedy(folder.parent)}")
    stored, wanted = Stored(folder), leaves(nnx.to_pure_dict(nnx.state(building.structure(model_config))))
    found = {path: stored.shape(path) for path in stored}
    differing = [path for path in found | wanted if path not in wanted or found.get(path) != wanted[path].shape]
    if differing:
        name = ".".join(map(str, differing[0]))
        raise PipelineError(
            f"{folder}: these weights do not fit model.architecture ({name} is {found.get(differing[0], 'missing')}, "
            f"{len(differing)} such arrays); {remedy(folder.parent)}"
        )
    arrays = stored.read_all()
    require_recorded(folder, arrays_hash(arrays), sha256)
    return place(arrays, model_config, mesh, dtype)


def place(arrays: dict[tuple, np.ndarray], model_config: object, mesh: Mesh, dtype: jnp.dtype) -> nnx.Module:
    """Makes a model of arrays on the host, by path. Each is taken out of `arrays` and goes into its shards, in `dtype`.

    So the host holds each array once, and no device holds a whole model that the mesh shards.
    """
    graph, state = nnx.split(abstract_model(model_config, mesh, dtype))

    def to_shards(array: np.ndarray, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.make_array_from_callback(
            leaf.shape, leaf.sharding, lambda shard: array[shard].astype(leaf.dtype, copy=False)
        )

    placed = {path: to_shards(arrays.pop(path), leaf) for path, leaf in leaves(nnx.to_pure_dict(state)).items()}
    nnx.replace_by_pure_dict(state, traverse_util.unflatten_dict(placed))
    return nnx.merge(graph, state)
