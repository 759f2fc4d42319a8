"""Whether a computation ends in a softmax, a log-softmax or a sigmoid, by its jaxpr."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What changes no value: shape, dtype and copies.
_PASSED_OVER = frozenset(
    {"convert_element_type", "reshape", "squeeze", "broadcast_in_dim", "copy", "transpose"}
    | {"stop_gradient", "reduce_precision", "optimization_barrier", "sharding_constraint"}
)


def ending(jaxpr: Any) -> str | None:
    """What the one output of a computation comes out of.

    Args:
      jaxpr: a ``jax.core.ClosedJaxpr``.

    Returns:
      ``"softmax"``, ``"log_softmax"`` or ``"sigmoid"`` where that is the last thing done; None for
      anything else, and where there are several outputs.
    """
    if len(jaxpr.jaxpr.outvars) != 1:
        return None
    last = _Value(jaxpr.jaxpr, jaxpr.jaxpr.outvars[0], None).source()
    if last is None:
        return None
    if last.primitive == "logistic":
        return "sigmoid"
    if last.primitive == "div":
        return "softmax" if last.operand(1).is_sum_of_exp(last.operand(0)) else None
    if last.primitive == "sub":
        logarithm = last.operand(1)
        sums = logarithm is not None and logarithm.primitive == "log"
        return "log_softmax" if sums and logarithm.operand(0).is_sum_of_exp(None) else None
    return None


class _Value:
    """A variable of a jaxpr, which may be the inside of a call.

    Args:
      jaxpr: the jaxpr.
      variable: one of its variables, or a literal.
      caller: the call's equation as a ``_Value`` of what is outside, for what comes from there.
    """

    def __init__(self, jaxpr: Any, variable: Any, caller: tuple[Any, _Value] | None) -> None:
        self._jaxpr, self._variable, self._caller = jaxpr, variable, caller
        self._equation: Any = None
        for equation in jaxpr.eqns:
            if any(out is variable for out in equation.outvars):
                self._equation = equation

    @property
    def primitive(self) -> str:
        """The name of what makes it; empty for inputs and constants."""
        return "" if self._equation is None else self._equation.primitive.name

    def operand(self, number: int) -> _Value:
        """What it is made of, past all that changes no value."""
        own = _Value(self._jaxpr, self._equation.invars[number], self._caller)
        return own.source() or own

    def source(self) -> _Value | None:
        """What made the values: inside of calls, before casts and reshapes; None for an input."""
        if self._equation is None:
            return self._outside()
        if self.primitive in _PASSED_OVER:
            return _Value(self._jaxpr, self._equation.invars[0], self._caller).source()
        inner = _inner(self._equation.params)
        if inner is None:
            return self
        number = next(i for i, v in enumerate(self._equation.outvars) if v is self._variable)
        return _Value(inner, inner.outvars[number], (self._equation, self)).source()

    def _outside(self) -> _Value | None:
        places = [i for i, v in enumerate(self._jaxpr.invars) if v is self._variable]
        if self._caller is None or not places:
            return None
        equation, outer = self._caller
        # Of the arguments of a call the last are the jaxpr's own.
        argument = equation.invars[places[0] + len(equation.invars) - len(self._jaxpr.invars)]
        return _Value(outer._jaxpr, argument, outer._caller).source()

    def is_sum_of_exp(self, exponential: _Value | None) -> bool:
        """Whether it is the sum over the last axis of an exponential, of this one if given."""
        if self.primitive != "reduce_sum":
            return False
        summed = self._equation.invars[0]
        last_axis = tuple(self._equation.params["axes"]) == (summed.aval.ndim - 1,)
        inside = self.operand(0)
        same = exponential is None or inside._equation is exponential._equation
        return last_axis and inside.primitive == "exp" and same


def _inner(params: Mapping[str, Any]) -> Any:
    """The jaxpr of a call, such as of a jitted function or one with a derivative of its own."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        inner = params.get(key)
        if inner is not None:
            return getattr(inner, "jaxpr", inner)
    return None
