"""Which values of a block the backward pass finds stored, and which it computes again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from flaxzoo._checks import check_flag
from flaxzoo.errors import UnknownNameError, did_you_mean
from flaxzoo.layers.lowering.convolution import is_product

Policy = Callable[..., Any]


def _products(primitive: Any, *operands: Any, **params: Any) -> bool:
    """Keeps the results of our own convolutions and dense layers, which JAX's policies miss."""
    del operands, params
    return is_product(primitive)


_jax: Any = jax.checkpoint_policies
_BOTH = {
    name: _jax.save_from_both_policies(getattr(_jax, name), _products)
    for name in ("dots_saveable", "dots_with_no_batch_dims_saveable")
}
# Policies that are used as they are; the other names in jax.checkpoint_policies make policies.
POLICIES: dict[str, Policy] = {
    **_BOTH,
    "checkpoint_dots": _BOTH["dots_saveable"],
    "checkpoint_dots_with_no_batch_dims": _BOTH["dots_with_no_batch_dims_saveable"],
    "everything_saveable": _jax.everything_saveable,
    "nothing_saveable": _jax.nothing_saveable,
}


def as_remat_policy(policy: str | Policy | None) -> Policy | None:
    """Returns a rematerialisation policy by its name in ``jax.checkpoint_policies``.

    Those of products (``"dots_saveable"``) keep what convolutions and dense layers of this library
    compute as well; ``"dots_with_no_batch_dims_saveable"`` of a transformer's block all but the
    attention's weights and what is attended to.

    Args:
      policy: a name, a policy (returned unchanged), or None, which saves nothing.

    Raises:
      UnknownNameError: no policy has that name.
    """
    if policy is None or callable(policy):
        return policy
    if policy not in POLICIES:
        raise UnknownNameError(
            f"unknown remat policy {policy!r}.{did_you_mean(str(policy), POLICIES)} "
            f"Names: {', '.join(POLICIES)}; any other policy can be passed as a callable"
        )
    return POLICIES[policy]


def check_remat(name: str, value: Any) -> None:
    """Checks a field that is a switch, or says by a policy what is kept all the same.

    Raises:
      UnknownNameError: no policy has that name.
      ArgumentError: it is neither a bool, nor a name, nor a policy.
    """
    if isinstance(value, str) or callable(value):
        as_remat_policy(value)
    else:
        check_flag(name, value)
