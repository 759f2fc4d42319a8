"""Initialising without compiling: equations that only draw or fill are done by NumPy.

A program that draws the parameters of a ResNet-50 takes XLA seconds to compile, and so does one
that makes the zeros of its optimizer state, for a fraction of a second of work.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from flaxzoo._calls import apply_module
from flaxzoo._programs import Jitted, cleared, computing, once
from flaxzoo._spread import put
from flaxzoo.layers.lowering.drawing import initialise_p, staged
from flaxzoo.layers.lowering.repeats import initial_shapes
from flaxzoo.layers.lowering.switch import is_plain

_JITS = ("jit", "pjit", "closed_call", "core_call")


# From shapes in a tree to the ``Sharding`` of each.
Places = Callable[[Any], Any]


def initialise(module: nn.Module, key: jax.Array, sample: Any, places: Places | None = None) -> Any:
    """Initialises a module for inputs of a shape.

    Where the module's initialisers are those of ``flaxzoo.layers.initializers``, their numbers
    are NumPy's, from a generator seeded by the key that Linen gives each parameter: the same
    distribution as ``module.init`` draws from, not the same numbers. Modules that use none of
    them are initialised by one compiled call of ``module.init``.

    Args:
      module: an unbound Linen module.
      key: raw or typed.
      sample: a tree of ``jax.ShapeDtypeStruct``.
      places: says where each variable is to lie; by default all are on one device. The numbers are
        the same, and no device holds more than its part.

    Returns:
      The variables, JAX arrays by collection.
    """
    computing()
    inputs = _structure(sample)
    if is_plain() or _tracing(key):
        return _init_compiled(module, key, inputs, places)
    with staged():
        jaxpr, shapes = jax.make_jaxpr(
            functools.partial(_init, module, inputs=inputs), return_shape=True
        )(key)
    if not any(eqn.primitive is initialise_p for eqn in _equations(jaxpr.jaxpr)):
        return _init_compiled(module, key, inputs, places)
    outputs = _evaluate(jaxpr.jaxpr, jaxpr.consts, [key])
    return _placed(outputs, shapes, [key], places)


def variable_shapes(module: nn.Module, sample: Any) -> Any:
    """Returns the variables' ``jax.ShapeDtypeStruct`` for inputs of a shape, and remembers them."""
    inputs = _structure(sample)
    return _shapes(module, inputs, jax.dtypes.canonicalize_dtype(np.float64))[1]


def output_and_variable_shapes(module: nn.Module, sample: Any) -> tuple[Any, Any]:
    """Returns what ``variable_shapes`` does, behind the shapes of the module's output."""
    inputs = _structure(sample)
    return _shapes(module, inputs, jax.dtypes.canonicalize_dtype(np.float64))


@functools.lru_cache(maxsize=32)
def _shapes(module: nn.Module, inputs: Any, widest: Any) -> tuple[Any, Any]:
    def initial(key: Any) -> Any:
        return initial_shapes(module, key, _zeros(inputs))

    return jax.eval_shape(initial, jax.random.PRNGKey(0))


cleared(_shapes.cache_clear)


def filled(function: Callable[..., Any], *args: Any, places: Places | None = None) -> Any:
    """Calls ``function(*args)``, but has NumPy make the arrays that it only fills.

    Args:
      function: such as an optimizer's ``init``; one that JAX can't trace is called as it is.
      *args: its arguments; arrays that lie on several devices leave the work to JAX, too, unless
        ``places`` is given.
      places: says where each array of the result is to lie.
    """
    leaves = jax.tree.leaves(args)
    if is_plain() and places is not None:
        shapes = jax.eval_shape(once(function), *args)
        return jax.jit(once(function), out_shardings=places(shapes))(*args)
    if is_plain() or _tracing(*leaves) or (places is None and len(_devices(leaves)) > 1):
        return function(*args)
    try:
        jaxpr, shapes = jax.make_jaxpr(once(function), return_shape=True)(*args)
    except TypeError:
        # It looks at values, or returns what is no array.
        return function(*args)
    outputs = _evaluate(jaxpr.jaxpr, jaxpr.consts, leaves)
    return _placed(outputs, shapes, leaves, places)


def _placed(outputs: list[Any], shapes: Any, inputs: list[Any], places: Places | None) -> Any:
    """The tree of these arrays, each where it is to lie, or all where the inputs do."""
    if places is None:
        place: Any = next(iter(_devices(inputs)), None)
        outputs = jax.device_put(outputs, place, may_alias=False)
    else:
        # Copied: a device array over NumPy's memory could not be donated.
        each = zip(outputs, jax.tree.leaves(places(shapes)), strict=True)
        outputs = [put(x, place, may_alias=False) for x, place in each]
    return jax.tree.unflatten(jax.tree.structure(shapes), outputs)


def _devices(leaves: list[Any]) -> set[Any]:
    """Returns where the arrays lie that were put somewhere on purpose."""
    placed = [x for x in leaves if isinstance(x, jax.Array) and x.committed]
    return {device for x in placed for device in x.devices()}


def _tracing(*leaves: Any) -> bool:
    """Whether a transformation is under way, in which no value can be looked at."""
    # Under jit even what depends on no argument is traced.
    return any(isinstance(x, jax.core.Tracer) for x in (*leaves, jnp.zeros(())))


def _structure(sample: Any) -> Any:
    """Tree, shapes and dtypes of a sample, which can be hashed; its values are left out."""
    leaves, treedef = jax.tree.flatten(sample)
    return treedef, tuple((x.shape, x.dtype) for x in leaves)


def _zeros(inputs: Any) -> Any:
    """Inputs for an initialiser, in which their values play no part."""
    treedef, leaves = inputs
    return jax.tree.unflatten(treedef, [jnp.zeros(shape, dtype) for shape, dtype in leaves])


def _init(module: nn.Module, key: Any, inputs: Any) -> Any:
    rngs = {"params": key, "dropout": key}
    return apply_module(module, None, _zeros(inputs), rngs=rngs)


_init_jit = Jitted(_init, lambda module, *_: (module,), static_argnums=(0, 2))


def _init_compiled(module: nn.Module, key: Any, inputs: Any, places: Places | None) -> Any:
    if places is None:
        return _init_jit(module, key, inputs)
    init = functools.partial(_init, module, inputs=inputs)
    return jax.jit(init, out_shardings=places(jax.eval_shape(init, key)))(key)


def _equations(jaxpr: Any) -> Any:
    for eqn in jaxpr.eqns:
        yield eqn
        if eqn.primitive.name in _JITS:
            yield from _equations(_inner(eqn).jaxpr)


def _inner(eqn: Any) -> Any:
    return eqn.params["jaxpr" if "jaxpr" in eqn.params else "call_jaxpr"]


def _evaluate(jaxpr: Any, consts: Any, args: Any) -> list[Any]:
    """Computes the outputs, equation by equation, without those that no output needs."""
    needed = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    equations = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(v in needed for v in eqn.outvars):
            needed.update(v for v in eqn.invars if not isinstance(v, Literal))
            equations.append(eqn)
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, Literal) else values[v]

    for eqn in reversed(equations):
        outputs = _on_host(eqn, [read(v) for v in eqn.invars])
        if outputs is None:
            variables = [v for v in eqn.invars if not isinstance(v, Literal)]
            alone = jaxpr.replace(
                eqns=[eqn],
                constvars=[],
                invars=variables,
                outvars=eqn.outvars,
                debug_info=jaxpr.debug_info.with_unknown_names(),
            )
            outputs = jax.core.eval_jaxpr(alone, (), *map(read, variables))
        values.update(zip(eqn.outvars, outputs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _on_host(eqn: Any, inputs: list[Any]) -> list[Any] | None:
    """Computes the outputs of an equation that only draws or fills; None for any other."""
    name, params = eqn.primitive.name, eqn.params
    if eqn.primitive is initialise_p:
        generator = np.random.default_rng(np.asarray(inputs[0]).ravel().tolist())
        return [params["initializer"].on_host(generator, params["shape"], params["dtype"])]
    if name == "broadcast_in_dim" and np.ndim(inputs[0]) == 0 and len(inputs) == 1:
        return [np.full(params["shape"], inputs[0], eqn.outvars[0].aval.dtype)]
    if name in _JITS and all(map(_is_light, _equations(_inner(eqn).jaxpr))):
        inner = _inner(eqn)
        return _evaluate(inner.jaxpr, inner.consts, inputs)
    return None


def _is_light(eqn: Any) -> bool:
    """Whether it takes no compilation: one that fills, draws or calls what does."""
    return eqn.primitive is initialise_p or eqn.primitive.name in ("broadcast_in_dim", *_JITS)
