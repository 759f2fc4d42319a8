"""Activation functions by name.

Modules of the zoo keep what the caller wrote, ``activation="relu"``, as a field and turn it into
a function where they use it, with ``as_activation``. Everything in ``jax.nn`` and
``flax.linen.activation`` that is an activation is here, and so are those that only torch, timm or
Keras have.

One default differs from JAX: ``"gelu"`` is the exact form with the error function, as in torch,
timm and the papers, because pretrained weights expect it. JAX's own default, the tanh
approximation, is ``"gelu_tanh"``.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_like, check_number, is_size
from flaxzoo._explain import explained, missing_from
from flaxzoo.errors import ArgumentError, ShapeError, UninitializedError, UnknownArgumentError
from flaxzoo.layers.lowering.derivatives import gelu as exact_gelu
from flaxzoo.registry import Registry

__all__ = [
    "REGISTRY",
    "Activation",
    "ActivationLike",
    "PReLU",
    "as_activation",
    "get",
    "info",
    "list",
    "register",
    "to_config",
]

Function: TypeAlias = Callable[..., Any]
ActivationLike: TypeAlias = str | Function | Mapping[str, Any] | None


@dataclasses.dataclass(frozen=True, repr=False)
class Activation:
    """An activation with keywords fixed, or one with parameters of its own.

    Two of them are equal when they are built from the same entry and keywords, so a Linen module
    that has one as a field stays hashable and compiles once (a ``functools.partial`` would not:
    no two of those are equal).

    Attributes:
      name: name in the registry, or of the module class.
      entry: a function of an array, or a Linen module class.
      options: the fixed keywords, sorted by name.
    """

    name: str
    entry: Function
    options: tuple[tuple[str, Hashable], ...] = ()

    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the activation.

        Args:
          x: array of any shape.

        Returns:
          The activated array.

        Raises:
          UninitializedError: the activation has parameters and is called outside of a module's
            compact method, so that they have no place to live.
        """
        if not _is_module_class(self.entry):
            return self.entry(x, **dict(self.options))
        module = self.entry(**dict(self.options))
        if module.scope is None:
            raise UninitializedError(
                f"activation {self.name!r} has learnable parameters: call it inside a Linen "
                f"module's @nn.compact method, or use the module {self.entry.__name__} itself"
            )
        return module(x)

    @property
    def config(self) -> dict[str, Any]:
        """Name and keywords as a dictionary; ``as_activation`` takes it back."""
        return {"name": self.name, "kwargs": dict(self.options)}

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.options)})"


class _ActivationRegistry(Registry[Function]):
    """Entries are functions whose first parameter is the array, or Linen module classes."""

    def parameters(self, name: str) -> Mapping[str, inspect.Parameter]:
        parameters = dict(super().parameters(name))
        if _is_module_class(self.entry(name)):
            return {k: p for k, p in parameters.items() if k not in ("parent", "name")}
        # Whatever a user calls it, the first parameter is the array.
        return dict([*parameters.items()][1:])

    @explained
    def get(self, name: str, /, **kwargs: Any) -> Function:
        """The activation ``name`` with keywords fixed.

        Args:
          name: an activation's name or alias, see ``list()``.
          **kwargs: keywords of that activation, see ``info(name)``; they must be hashable.

        Returns:
          A function of one array: the registered function itself where there are no keywords,
          else an ``Activation``. One with parameters of its own (``"prelu"``) makes a new set of
          them each time it is called, and must be called in a module's ``@nn.compact`` method.

        Raises:
          UnknownNameError: no activation has that name.
          UnknownArgumentError: the activation does not take a keyword.
        """
        entry = self.entry(name)
        self.check_arguments(name, kwargs)
        if str(entry.__module__).partition(".")[0] in ("jax", "flax", "flaxzoo"):
            for key, value in kwargs.items():
                _check_option(f"{key} of activation {name!r}", value, self.parameters(name)[key])
        if not kwargs and not _is_module_class(entry):
            return entry
        return Activation(self.resolve(name), entry, tuple(sorted(kwargs.items())))


def _check_option(label: str, value: Any, parameter: inspect.Parameter) -> None:
    if parameter.name == "axis":
        # One axis, counted from either end, or several.
        axes = value if isinstance(value, tuple) else (value,)
        if not all(is_size(axis, -_MAX_RANK) for axis in axes):
            raise ArgumentError(f"{label} must be an int or a tuple of ints, got {value!r}")
    elif parameter.name in ("threshold", "epsilon"):
        check_number(label, value, minimum=0)
    else:
        check_like(label, value, parameter.default)


REGISTRY = _ActivationRegistry("activation")
# Of arrays; NumPy's.
_MAX_RANK = 64


def _is_module_class(entry: Any) -> bool:
    return isinstance(entry, type) and issubclass(entry, nn.Module)


@explained
def as_activation(activation: ActivationLike) -> Function:
    """A function of one array from a name, a callable or None.

    Args:
      activation: a registered name; any callable of one array, which is returned unchanged; a
        Linen module class such as ``nn.PReLU``, which is instantiated at each call; a dictionary
        made by ``to_config`` (not as a module's field: dictionaries are not hashable, what this
        function makes of one is); or None, which stands for the identity.

    Returns:
      A callable ``f(x) -> x``.

    Raises:
      UnknownNameError: no activation has that name.
      UnknownArgumentError: the argument is none of these, or a dictionary's keyword is unknown.
    """
    if activation is None:
        return jax.nn.identity
    if isinstance(activation, str):
        return REGISTRY.get(activation)
    if isinstance(activation, Mapping):
        return REGISTRY.from_config(activation)
    if _is_module_class(activation):
        return Activation(activation.__name__, activation)
    if callable(activation):
        return activation
    raise UnknownArgumentError(
        "an activation is a name, a callable of one array, or None; "
        f"got {type(activation).__name__}: {activation!r}"
    )


def to_config(activation: ActivationLike) -> str | dict[str, Any] | None:
    """What to write to a file so that ``as_activation`` gives the same activation back.

    Args:
      activation: whatever ``as_activation`` takes.

    Returns:
      A name, or a dictionary with ``name`` and ``kwargs`` where keywords are fixed; ``"identity"``
      for None; None for a callable that is not registered, which no file can describe.
    """
    function = as_activation(activation)
    if isinstance(function, Activation):
        registered = function.name in REGISTRY and REGISTRY.entry(function.name) is function.entry
        if not registered:
            return None
        return function.config if function.options else function.name
    for name in REGISTRY.list():
        if REGISTRY.entry(name) is function:
            return name
    return None


# What jax.nn lacks, or has under another default.


def gelu(x: jax.Array, approximate: bool = False) -> jax.Array:
    """Gaussian error linear unit, ``x * Phi(x)``; exact by default, as in torch and timm.

    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016.

    Args:
      x: array of any shape.
      approximate: True for the tanh approximation, which is JAX's default and GPT-2's form. The
        two differ by up to 5e-4.

    Returns:
      Array of x's shape.
    """
    return jax.nn.gelu(x, approximate=True) if approximate else exact_gelu(x)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """GELU by its tanh approximation: GPT-2's form, and JAX's default.

    Args:
      x: array of any shape.

    Returns:
      Array of x's shape.
    """
    return jax.nn.gelu(x, approximate=True)


def quick_gelu(x: jax.Array) -> jax.Array:
    """GELU by a sigmoid, ``x * sigmoid(1.702 x)``: the form of OpenAI's CLIP.

    Args:
      x: array of any shape.

    Returns:
      Array of x's shape.
    """
    return x * jax.nn.sigmoid(1.702 * x)


def swish(x: jax.Array, beta: float = 1.0) -> jax.Array:
    """Swish, ``x * sigmoid(beta x)``; ``beta=1`` is SiLU.

    Source: Ramachandran et al., "Searching for Activation Functions", 2017.

    Args:
      x: array of any shape.
      beta: slope of the gate; 0 gives ``x / 2`` and large values approach ReLU.

    Returns:
      Array of x's shape.
    """
    return x * jax.nn.sigmoid(beta * x)


def hard_mish(x: jax.Array) -> jax.Array:
    """Piecewise quadratic stand-in for Mish, ``x / 2 * clip(x + 2, 0, 2)``, as in timm.

    Args:
      x: array of any shape.

    Returns:
      Array of x's shape.
    """
    return 0.5 * x * jnp.clip(x + 2.0, 0.0, 2.0)


def hard_shrink(x: jax.Array, threshold: float = 0.5) -> jax.Array:
    """Zero between ``-threshold`` and ``threshold``, the identity outside.

    Args:
      x: array of any shape.
      threshold: half width of the dead zone, in x's units.

    Returns:
      Array of x's shape.
    """
    return jnp.where(jnp.abs(x) > threshold, x, 0)


def soft_shrink(x: jax.Array, threshold: float = 0.5) -> jax.Array:
    """Moves x towards zero by ``threshold`` and stops there: the proximal map of an L1 penalty.

    Args:
      x: array of any shape.
      threshold: how far to move, in x's units.

    Returns:
      Array of x's shape.
    """
    return jnp.where(x > threshold, x - threshold, jnp.where(x < -threshold, x + threshold, 0))


def squared_relu(x: jax.Array) -> jax.Array:
    """The square of a ReLU, ``max(x, 0)**2``, as in timm.

    Source: So et al., "Primer: Searching for Efficient Transformers", 2021.

    Args:
      x: array of any shape.

    Returns:
      Array of x's shape.
    """
    return jnp.square(jax.nn.relu(x))


def tanh_shrink(x: jax.Array) -> jax.Array:
    """What tanh takes away, ``x - tanh(x)``.

    Args:
      x: array of any shape.

    Returns:
      Array of x's shape.
    """
    return x - jnp.tanh(x)


class PReLU(nn.Module):
    """ReLU with a learnable slope for negative inputs.

    Source: He et al., "Delving Deep into Rectifiers", 2015. ``nn.PReLU`` is the same with one
    slope and a start at 0.01; the start here, 0.25, is the paper's and torch's.

    Attributes:
      negative_slope_init: value that the slope starts from.
      per_channel: True for one slope per channel (the last axis), False for one in all.
      param_dtype: dtype of the parameter ``negative_slope``.
    """

    negative_slope_init: float = 0.25
    per_channel: bool = False
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Applies the activation.

        Args:
          x: array [..., C].

        Returns:
          Array of x's shape and dtype.

        Raises:
          ShapeError: ``per_channel`` and x is a scalar.
        """
        x = jnp.asarray(x)
        if self.per_channel and x.ndim == 0:
            raise ShapeError("x: PReLU(per_channel=True) takes [..., C], got a scalar")
        slope = self.param(
            "negative_slope",
            nn.initializers.constant(self.negative_slope_init),
            x.shape[-1:] if self.per_channel else (),
            self.param_dtype,
        )
        return jnp.where(x >= 0, x, slope.astype(x.dtype) * x)


_ENTRIES: tuple[tuple[str, Function, tuple[str, ...]], ...] = (
    ("celu", jax.nn.celu, ()),
    ("elu", jax.nn.elu, ()),
    ("gelu", gelu, ("gelu_exact",)),
    ("gelu_tanh", gelu_tanh, ("gelu_approximate", "gelu_new", "gelu_pytorch_tanh")),
    ("glu", jax.nn.glu, ()),
    ("hard_mish", hard_mish, ()),
    ("hard_shrink", hard_shrink, ("hardshrink",)),
    ("hard_sigmoid", jax.nn.hard_sigmoid, ("hardsigmoid",)),
    ("hard_swish", jax.nn.hard_swish, ("hard_silu", "hardswish")),
    ("hard_tanh", jax.nn.hard_tanh, ("hardtanh",)),
    ("identity", jax.nn.identity, ("linear",)),
    ("leaky_relu", jax.nn.leaky_relu, ()),
    ("log_sigmoid", jax.nn.log_sigmoid, ("logsigmoid",)),
    ("log_softmax", jax.nn.log_softmax, ()),
    ("mish", jax.nn.mish, ()),
    ("prelu", PReLU, ()),
    ("quick_gelu", quick_gelu, ()),
    ("relu", jax.nn.relu, ()),
    ("relu6", jax.nn.relu6, ()),
    ("selu", jax.nn.selu, ()),
    ("sigmoid", jax.nn.sigmoid, ()),
    ("silu", jax.nn.silu, ()),
    ("soft_shrink", soft_shrink, ("softshrink",)),
    ("soft_sign", jax.nn.soft_sign, ("softsign",)),
    ("softmax", jax.nn.softmax, ()),
    ("softplus", jax.nn.softplus, ()),
    ("sparse_plus", jax.nn.sparse_plus, ()),
    ("sparse_sigmoid", jax.nn.sparse_sigmoid, ()),
    ("squared_relu", squared_relu, ()),
    ("squareplus", jax.nn.squareplus, ()),
    ("standardize", jax.nn.standardize, ()),
    ("swish", swish, ()),
    ("tanh", jnp.tanh, ()),
    ("tanh_shrink", tanh_shrink, ("tanhshrink",)),
)
for _name, _entry, _aliases in _ENTRIES:
    REGISTRY.register(_name, aliases=_aliases)(_entry)

get = REGISTRY.get
register = REGISTRY.register
info = REGISTRY.info
list = REGISTRY.list
__getattr__ = missing_from(__name__, REGISTRY)
