"""What pickle has no way for: modules with initialisers, and the functions of JAX, Flax and optax.

Such a function is mostly made by another one (``jax.nn.initializers.he_normal()`` returns
``variance_scaling.<locals>.init``), or wrapped by ``jax.jit``. It is written as where it is
defined and what it holds, and found there again; so both sides need the same versions.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import io
import pickle
import sys
import types
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax

from flaxzoo._meshes import of_shape

_ADVICE = (
    "define it with def or class at the top of a module, install cloudpickle, or save what holds "
    "it (Model.save, Trainer.save) and load it there"
)
# What a function has besides its code and what it holds.
_NAMES = ("__name__", "__qualname__", "__module__", "__doc__", "__defaults__", "__kwdefaults__")


def packed(value: Any) -> bytes:
    """Writes a value with modules and functions in it, for ``unpacked``.

    Raises:
      pickle.PicklingError: part of it cannot be written; it says which, and what to do.
    """
    buffer = io.BytesIO()
    try:
        _Pickler(buffer, protocol=pickle.HIGHEST_PROTOCOL).dump(value)
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        text = str(error)
        if _ADVICE in text:
            raise
        raise pickle.PicklingError(f"cannot be pickled: {text}; {_ADVICE}") from error
    return buffer.getvalue()


def unpacked(data: bytes) -> Any:
    """Reads what ``packed`` wrote: by pickle, so of nobody but yourself."""
    return pickle.loads(data)


def restored(cls: Any, data: bytes) -> Any:
    """An object of a class whose attributes are packed."""
    instance = cls.__new__(cls)
    vars(instance).update(unpacked(data))
    return instance


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, nn.Module):
            return _reduced_module(value)
        if value is jax.Array:
            return _array_type, ()
        if isinstance(value, jax.sharding.Mesh):
            # Devices are this process's: of a mesh the axes are kept.
            return of_shape, (dict(value.shape),)
        if isinstance(value, type) or not callable(value):
            return NotImplemented
        if _is_importable(value):
            # A string is the name under which the value's module has it.
            return value.__qualname__
        if isinstance(value, types.FunctionType):
            return _reduced_function(value)
        if _is_jitted(value):
            raise pickle.PicklingError(f"cannot pickle the compiled function {value!r}: {_ADVICE}")
        return NotImplemented


def _array_type() -> Any:
    # The name that it gives itself is not where it is.
    return jax.Array


def _is_jitted(value: Any) -> bool:
    return type(value).__name__ == "PjitFunction"


def _is_importable(value: Any) -> bool:
    """Whether the value's module has it under the value's name."""
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    name = getattr(value, "__qualname__", None)
    return isinstance(name, str) and _attribute(module, name) is value


def _attribute(module: Any, qualname: str) -> Any:
    return functools.reduce(lambda at, name: getattr(at, name, None), qualname.split("."), module)


# --- modules ---------------------------------------------------------------------------------


def _reduced_module(module: nn.Module) -> Any:
    """Its class, and the fields that are not the default: a default may be any function."""
    if module.scope is not None:
        raise pickle.PicklingError(
            f"cannot pickle a bound {type(module).__name__}: pickle the module and its variables"
        )
    fields = {
        field.name: value
        for field in dataclasses.fields(module)
        if field.init and field.name != "parent"
        for value in [getattr(module, field.name)]
        if value is not field.default
    }
    return _module, (type(module), fields)


def _module(cls: type[nn.Module], fields: dict[str, Any]) -> nn.Module:
    return cls(**fields)


# --- functions -------------------------------------------------------------------------------


def _reduced_function(function: types.FunctionType) -> Any:
    """Where it is defined, and, as what may refer to itself, what it holds."""
    # What functools.wraps has renamed still has its code's own name.
    module, code = function.__globals__.get("__name__", ""), function.__code__
    name = code.co_qualname.partition(".<locals>")[0]
    outer = _function_at(sys.modules.get(module), name)
    way = None if outer is None else _way(outer.__code__, code)
    if way is None or _is_interactive(module):
        return _by_cloudpickle(function)
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    names = {key: getattr(function, key) for key in _NAMES}
    state = held, names, vars(function)
    return _function, (module, name, way, code.co_name), state, None, None, _fill


def _is_interactive(module: str) -> bool:
    """Whether other processes can't import it, as what is typed at a prompt or in a notebook."""
    return module == "__main__" and not hasattr(sys.modules["__main__"], "__file__")


def _function_at(module: Any, name: str) -> Any:
    value = _attribute(module, name)
    # Under jit, custom derivatives and other wrappers.
    value = inspect.unwrap(value) if callable(value) else None
    return value if isinstance(value, types.FunctionType) else None


def _way(code: types.CodeType, target: types.CodeType) -> tuple[int, ...] | None:
    """Positions among the constants, from one code object to another that it holds; or None."""
    if code is target:
        return ()
    for i, constant in _codes(code):
        way = _way(constant, target)
        if way is not None:
            return (i, *way)
    return None


def _codes(code: types.CodeType) -> Iterator[tuple[int, types.CodeType]]:
    return ((i, c) for i, c in enumerate(code.co_consts) if isinstance(c, types.CodeType))


def _function(module: str, name: str, way: tuple[int, ...], own_name: str) -> Any:
    outer = _function_at(importlib.import_module(module), name)
    code = None if outer is None else outer.__code__
    for i in way:
        code = dict(_codes(code)).get(i) if code is not None else None
    if code is None or code.co_name != own_name:
        raise pickle.UnpicklingError(
            f"{module} has no function {own_name!r} where the one that was pickled is: both sides "
            "need the same versions"
        )
    cells = tuple(types.CellType() for _ in code.co_freevars)
    return types.FunctionType(code, outer.__globals__, own_name, None, cells)


def _fill(function: Any, state: Any) -> None:
    held, names, attributes = state
    for cell, value in zip(function.__closure__ or (), held, strict=True):
        cell.cell_contents = value
    for key, value in names.items():
        setattr(function, key, value)
    vars(function).update(attributes)


def _by_cloudpickle(function: types.FunctionType) -> Any:
    try:
        import cloudpickle
    except ImportError:
        where = f"{function.__code__.co_filename}:{function.__code__.co_firstlineno}"
        raise pickle.PicklingError(
            f"cannot pickle the function {function.__qualname__!r} of {where}: {_ADVICE}"
        ) from None
    return unpacked, (cloudpickle.dumps(function),)
