"""Shapes of a network whose blocks repeat: each kind of block is traced once.

Tracing is what the shapes of a large network cost, and most of its blocks equal the one before.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._calls import mode_arguments

# Whose modules compute by their fields and inputs alone. A user's may look at anything.
_OURS = ("flaxzoo.layers", "flaxzoo.models")


def initial_shapes(module: nn.Module, key: jax.Array, inputs: Any) -> tuple[Any, Any]:
    """What a module's initialisation gives, in zeros; to be called under ``jax.eval_shape``.

    Args:
      module: an unbound Linen module.
      key: of ``jax.random``; nothing is drawn where a block repeats.
      inputs: a tree of arrays.

    Returns:
      The output and the variables. Of submodules of this package that are equal, name apart, and
      get inputs of equal shapes and dtypes, the first is traced, and the others are given its
      variables and output, of zeros.

    Raises:
      ShapeError: the inputs do not fit the module.
    """
    rngs = {"params": key, "dropout": key}
    with nn.intercept_methods(_Repeats()):
        return module.init_with_output(rngs, inputs, **mode_arguments(module, train=False))


class _Repeats:
    """An interceptor of methods for one trace, whose arrays it keeps."""

    def __init__(self) -> None:
        self.traced: dict[Hashable, tuple[Any, Any]] = {}
        self.zeros: dict[tuple[Any, Any], jax.Array] = {}

    def __call__(self, function: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__" or not type(module).__module__.startswith(_OURS):
            return function(*args, **kwargs)
        key = _key(module, args, kwargs)
        if key is None:
            return function(*args, **kwargs)
        if key in self.traced:
            output, variables = self.traced[key]
            for collection, tree in variables.items():
                for name, value in tree.items():
                    module.scope.put_variable(collection, name, self._filled(value))
            return self._filled(output)
        output = function(*args, **kwargs)
        leaves = jax.tree.leaves(output)
        if all(isinstance(leaf, jax.Array) and not leaf.weak_type for leaf in leaves):
            self.traced[key] = jax.tree.map(_aval, (output, dict(module.variables)))
        return output

    def _filled(self, tree: Any) -> Any:
        def zeros(leaf: Any) -> jax.Array:
            kind = (leaf.shape, leaf.dtype)
            if kind not in self.zeros:
                self.zeros[kind] = jnp.zeros(*kind)
            return self.zeros[kind]

        return jax.tree.map(zeros, tree)


def _aval(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _key(module: nn.Module, args: Any, kwargs: Any) -> Hashable:
    """What a call's shapes depend on; None where that can't be told."""
    fields = tuple(_fields(module))
    leaves, treedef = jax.tree.flatten((args, kwargs))
    if any(isinstance(value, nn.Module) for _, value in fields):
        return None
    key = (type(module), fields, tuple(map(_kind, leaves)), treedef)
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _kind(leaf: Any) -> Any:
    """What shapes may depend on: of an array of JAX all but its values, of NumPy's those, too."""
    if isinstance(leaf, jax.Array):
        return leaf.shape, leaf.dtype, leaf.weak_type
    if isinstance(leaf, np.ndarray):
        return leaf.shape, leaf.dtype, leaf.tobytes()
    return leaf


def _fields(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(module):
        # How parameters are drawn says nothing of their shapes.
        if field.name not in ("name", "parent") and not field.name.endswith("_init"):
            yield field.name, _comparable(getattr(module, field.name))


def _comparable(value: Any) -> Any:
    """Partial functions by what they call and with what: each is equal to itself alone."""
    if isinstance(value, functools.partial):
        keywords = tuple((name, _comparable(v)) for name, v in sorted(value.keywords.items()))
        return _comparable(value.func), value.args, keywords
    return value
