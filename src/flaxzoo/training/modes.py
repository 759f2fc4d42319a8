"""How modules behave inside a step: inference mode for the frozen, masks for padded batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from flaxzoo._trees import flatten
from flaxzoo.errors import ShapeError


@contextlib.contextmanager
def training_modes(
    params: Mapping[str, Any],
    frozen: frozenset[str],
    weights: Any | None,
    *,
    freeze_batch_norm: bool = False,
) -> Iterator[None]:
    """Within it, BatchNorm and Dropout follow what is frozen and which examples count.

    A BatchNorm or Dropout (which stochastic depth is as well) inside frozen parameters runs in
    inference mode, so that its statistics stay what they are. One of which only a part is frozen,
    such as the scale alone, trains like any other. Where examples are weighted, those of weight 0
    are left out of BatchNorm's batch statistics, so that a padded batch gives the numbers of the
    batch without the padding.

    Args:
      params: the model's parameters, for their paths.
      frozen: paths of the frozen ones.
      weights: ``[B]`` or None.
      freeze_batch_norm: whether every BatchNorm runs in inference mode, frozen or not.
    """
    if not frozen and weights is None and not freeze_batch_norm:
        yield
        return
    paths = list(flatten(params))

    def intercept(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name == "__call__" and isinstance(module, nn.BatchNorm | nn.Dropout):
            batch_norm = isinstance(module, nn.BatchNorm)
            fixed = (batch_norm and freeze_batch_norm) or (
                bool(frozen) and _is_frozen("/".join(module.path), paths, frozen)
            )
            if fixed:
                flag = "use_running_average" if batch_norm else "deterministic"
                if getattr(module, flag) is None:
                    # Both take the flag as their second positional argument too.
                    args, kwargs = args[:1], {**kwargs, flag: True}
                else:
                    # The flag was given to the constructor, where a call may not repeat it.
                    object.__setattr__(module, flag, True)
            elif batch_norm and weights is not None:
                mask = _mask(module, weights, args[0] if args else kwargs["x"])
                own = kwargs.get("mask")
                kwargs = {**kwargs, "mask": mask if own is None else mask & (own != 0)}
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(intercept):
        yield


def _is_frozen(path: str, paths: list[str], frozen: frozenset[str]) -> bool:
    # A module without parameters, as Dropout is, goes with the nearest group that has some.
    while True:
        inside = [p for p in paths if p.startswith(f"{path}/")] if path else paths
        if inside:
            return all(p in frozen for p in inside)
        path = path.rpartition("/")[0]


def _mask(module: Any, weights: Any, x: Any) -> Any:
    rows, size = weights.shape[0], x.shape[0]
    # Modules may fold further axes into the batch, batch-major; a vmap would take it away.
    if size % rows or (module.axis_name is not None and size != rows):
        raise ShapeError(
            f"BatchNorm {'/'.join(module.path)!r} sees {list(x.shape)}, in which the {rows} "
            "examples of the batch cannot be told apart, so that weights cannot mask any: use "
            "batches of one size and no weights (drop_last=True in flaxzoo.data.ArrayDataset)"
        )
    counted = weights > 0
    # Statistics of nothing are NaN, which would stay.
    counted = jnp.repeat(counted | ~counted.any(), size // rows)
    return counted.reshape(size, *(1,) * (x.ndim - 1))
