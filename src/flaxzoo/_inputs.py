"""Values of inputs that a model computes with in silence, though they mean nothing to it.

JAX clamps or wraps an index that is out of range, and a token id beyond the vocabulary is one.
Which input holds ids, and how many there are, the model itself tells: its forward pass is traced,
once for a shape, and the submodules that take an input as it came are noted. A module that has a
method ``check_values`` looks at the values itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from flaxzoo._calls import apply_module
from flaxzoo._finite import check_finite
from flaxzoo._host import check_fits, first_place
from flaxzoo._programs import cleared
from flaxzoo.errors import DataError

# Of a batch of inputs: the leaves in order, those on a device as None, and their names.
Check = Callable[[list[Any], list[str]], None]

_known: dict[Any, tuple[nn.Module, tuple[Check, ...]]] = {}

cleared(_known.clear)


def check_inputs(
    module: nn.Module, variables: Any, inputs: Any, name: str = "inputs", *, like: Any = None
) -> None:
    """Looks at the values of a batch of inputs that are on the host; those on a device pass.

    Args:
      module: an unbound module.
      variables: its variables, or their shapes.
      inputs: any tree of arrays.
      name: of the argument, for messages.
      like: inputs of another number of examples, whose forward pass may be known.

    Raises:
      DataError: a value is not finite, a token id lies outside its embedding, or the module's own
        ``check_values`` refuses something.
    """
    paths, _ = tree_flatten_with_path(inputs)
    leaves = [leaf if isinstance(leaf, np.ndarray) else None for _, leaf in paths]
    for (path, _), leaf in zip(paths, leaves, strict=True):
        if leaf is not None and (leaf.dtype.kind not in "biu" or type(leaf) is not np.ndarray):
            check_finite(leaf, f"{name}{keystr(path)}")
        if leaf is not None and leaf.itemsize > 4:
            check_fits(leaf, f"{name}{keystr(path)}")
    # Bytes are pictures; as ids, 256 of them, they would hardly be out of range.
    if any(leaf is not None and leaf.dtype.kind in "iu" and leaf.itemsize > 1 for leaf in leaves):
        names = [f"{name}{keystr(path)}" for path, _ in paths]
        for check in _checks(module, variables, inputs if like is None else like):
            check(leaves, names)


def check_ids(ids: np.ndarray, size: int, name: str, takes: str) -> None:
    """Refuses token ids outside a vocabulary.

    Args:
      ids: integers of any shape.
      size: the number of ids there are, from 0 on.
      name: of the argument, for the message.
      takes: what has them, for the message.

    Raises:
      DataError: an id is negative, or ``size`` or more.
    """
    if not ids.size or (ids.min() >= 0 and ids.max() < size):
        return
    wrong = (ids < 0) | (ids >= size)
    index = first_place(wrong)
    raise DataError(
        f"{name} holds the id {ids[index]} at index {list(index)} ({int(wrong.sum())} of "
        f"{ids.size} are wrong); {takes} has the ids 0 to {size - 1}"
    )


def _checks(module: nn.Module, variables: Any, inputs: Any) -> tuple[Check, ...]:
    leaves, treedef = jax.tree.flatten(inputs)
    # By identity: the hash of a module goes through all of its fields, at every step.
    key = id(module), treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
    _, checks = _known.get(key, (None, None))
    if checks is None:
        if len(_known) >= 256:
            _known.clear()
        checks = _trace(module, variables, inputs)
        # The module is kept, so that no other gets its identity.
        _known[key] = module, checks
    return checks


def _trace(module: nn.Module, variables: Any, inputs: Any) -> tuple[Check, ...]:
    checks: list[Check] = []

    def forward(variables: Any, inputs: Any) -> Any:
        places = {id(leaf): place for place, leaf in enumerate(jax.tree.leaves(inputs))}

        def note(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.method_name == "__call__":
                checks.extend(_check_of(context.module, args, kwargs, places))
            return next_fun(*args, **kwargs)

        rngs = {"params": jax.random.key(0)}
        with nn.intercept_methods(note):
            return apply_module(module, variables, inputs, rngs=rngs)

    try:
        jax.eval_shape(forward, variables, inputs)
    except Exception:
        # What the module does not take, the step itself says in its own words.
        return ()
    return tuple(checks)


def _check_of(module: nn.Module, args: Any, kwargs: Any, places: dict[int, int]) -> list[Check]:
    """The check of a submodule that takes an input as it came."""
    arrays = [leaf for leaf in jax.tree.leaves((args, kwargs)) if isinstance(leaf, jax.Array)]
    # What has been computed from the inputs has no values yet.
    if not arrays or not all(id(leaf) in places for leaf in arrays):
        return []
    if isinstance(module, nn.Embed):
        takes = f"the embedding {'/'.join(module.path) or 'Embed'!r} of the model"
        place, size = places[id(arrays[0])], module.num_embeddings
        return [functools.partial(_check_embedded, place, size, takes)]
    if hasattr(module, "check_values"):
        call = jax.tree.map(lambda leaf: places.get(id(leaf), leaf), (args, kwargs))
        is_place = jax.tree.map(lambda leaf: id(leaf) in places, (args, kwargs))
        # A bound module would hold the trace.
        return [functools.partial(_check_by_module, module.clone(parent=None), call, is_place)]
    return []


def _check_embedded(place: int, size: int, takes: str, leaves: list[Any], names: list[str]) -> None:
    if leaves[place] is not None:
        check_ids(leaves[place], size, names[place], takes)


def _check_by_module(
    module: Any, call: Any, is_place: Any, leaves: list[Any], names: list[str]
) -> None:
    del names
    if all(leaf is not None for leaf in leaves):
        args, kwargs = jax.tree.map(lambda x, place: leaves[x] if place else x, call, is_place)
        module.check_values(*args, **kwargs)
