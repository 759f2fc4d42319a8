"""Penalties on the size of parameters, which add to any loss with ``+``."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from flaxzoo._checks import check_flag, check_number
from flaxzoo._explain import explained
from flaxzoo._trees import by_path, is_weight


@dataclasses.dataclass(frozen=True)
class Regularizer:
    """``l1 * sum(|w|) + l2 * sum(w**2)`` over parameters.

    Keras's convention: the L2 term has no factor 1/2, so its gradient is ``2 * l2 * w`` (torch's
    ``weight_decay=d`` has the gradient ``d * w``: it is ``l2 = d / 2``).

    Attributes:
      l1: factor of the sum of absolute values, at least 0.
      l2: factor of the sum of squares, at least 0.
      all_parameters: also counts biases and norm parameters: leaves named ``bias`` or ``scale``,
        and those of rank 0 or 1. They are left out by default because shrinking them limits
        what the model can express without making it any simpler.
    """

    l1: float = 0.0
    l2: float = 0.0
    all_parameters: bool = False

    def __post_init__(self) -> None:
        for name in ("l1", "l2"):
            object.__setattr__(self, name, check_number(name, getattr(self, name), minimum=0))
        check_flag("all_parameters", self.all_parameters)

    def __call__(self, params: Any) -> jax.Array:
        """The penalty of ``params``, a pytree of arrays: a scalar, summed in float32."""
        total = jnp.zeros((), jnp.float32)
        for path, leaf in by_path(params).items():
            if not (self.all_parameters or is_weight(path, leaf)):
                continue
            leaf = jnp.asarray(leaf)
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                continue
            weight = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
            if self.l1:
                total += self.l1 * jnp.sum(jnp.abs(weight))
            if self.l2:
                total += self.l2 * jnp.sum(jnp.square(weight))
        return total

    def __add__(self, other: Any) -> Any:
        # Only a loss can be added to; it knows how to take a regulariser.
        return NotImplemented if isinstance(other, Regularizer) else other + self

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build an equal regulariser."""
        return dataclasses.asdict(self)


@explained
def l1(factor: float, *, all_parameters: bool = False) -> Regularizer:
    """``factor * sum(|w|)``, which drives small weights to zero.

    Args:
      factor: at least 0.
      all_parameters: also counts biases and norm parameters.
    """
    return Regularizer(l1=factor, all_parameters=all_parameters)


@explained
def l2(factor: float, *, all_parameters: bool = False) -> Regularizer:
    """``factor * sum(w**2)`` (no 1/2), which keeps weights small.

    Args:
      factor: at least 0.
      all_parameters: also counts biases and norm parameters.
    """
    return Regularizer(l2=factor, all_parameters=all_parameters)


@explained
def l1_l2(l1: float, l2: float, *, all_parameters: bool = False) -> Regularizer:
    """``l1 * sum(|w|) + l2 * sum(w**2)``: the elastic net.

    Args:
      l1: factor of the absolute values, at least 0.
      l2: factor of the squares, at least 0.
      all_parameters: also counts biases and norm parameters.
    """
    return Regularizer(l1=l1, l2=l2, all_parameters=all_parameters)


# Keras's and Elegy's spellings.
L1, L2, L1L2 = l1, l2, l1_l2
