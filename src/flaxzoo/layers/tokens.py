"""Patches as a sequence of tokens: class and register tokens before them, positions on them."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo.errors import ShapeError
from flaxzoo.layers.initializers import Normal
from flaxzoo.layers.pos_embed import Grid, learnt_positions

_INIT, _DISTILLATION_INIT = Normal(1e-6), Normal(0.02)


def patch_tokens(
    module: nn.Module,
    patches: jax.Array,
    *,
    class_token: bool = True,
    distillation_token: bool = False,
    register_tokens: int = 0,
    position_prefix: bool = True,
    learnt: bool = True,
    old_grid: Grid | None = None,
    init: Any = _INIT,
    param_dtype: Any = jnp.float32,
) -> jax.Array:
    """Returns a vision transformer's tokens: those of no patch, then the patches, with positions.

    The parameters ``cls_token``, ``dist_token``, ``reg_token`` and ``pos_embed`` are the module's
    own, as in timm. The distillation token is of Touvron et al. 2020,
    https://arxiv.org/abs/2012.12877, register tokens of Darcet et al. 2023,
    https://arxiv.org/abs/2309.16588.

    Args:
      module: a bound module.
      patches: a grid ``[B, rows, columns, C]``, from ``PatchEmbed``.
      class_token: whether there is a class token.
      distillation_token: whether a distillation token follows it.
      register_tokens: the number of register tokens, which follow both.
      position_prefix: whether these tokens have positions, too (the opposite of timm's
        ``no_embed_class``).
      learnt: whether there are positions; networks whose attention knows them may have none.
      old_grid: the grid that the positions are for (see ``learnt_positions``).
      init: the initialiser of the tokens before the patches but the distillation token, which
        begins with a deviation of 0.02.
      param_dtype: the dtype of the parameters.

    Returns:
      ``[B, prefix + rows * columns, C]``, where the prefix is the number of tokens of no patch.

    Raises:
      ShapeError: ``patches`` is not of rank 4, or its grid does not fit the positions.
    """
    if patches.ndim != 4:
        raise ShapeError(f"patches must have shape [B, H, W, C], got {list(patches.shape)}")
    batch, rows, columns, width = patches.shape
    prefix = [
        learnt_tokens(module, name, count, patches, init=start, param_dtype=param_dtype)
        for name, count, start in (
            ("cls_token", int(class_token), init),
            ("dist_token", int(distillation_token), _DISTILLATION_INIT),
            ("reg_token", register_tokens, init),
        )
        if count
    ]
    tokens = patches.reshape(batch, rows * columns, width)
    if not learnt:
        return jnp.concatenate([*prefix, tokens], axis=1)
    positions = learnt_positions(
        module,
        (rows, columns),
        width,
        prefix=sum(token.shape[1] for token in prefix) if position_prefix else 0,
        old_grid=old_grid,
        dtype=param_dtype,
    ).astype(patches.dtype)
    if position_prefix:
        return jnp.concatenate([*prefix, tokens], axis=1) + positions
    return jnp.concatenate([*prefix, tokens + positions], axis=1)


def prefix_length(class_token: bool, register_tokens: int, distillation_token: bool = False) -> int:
    """Returns the number of tokens before those of the patches."""
    return int(class_token) + int(distillation_token) + register_tokens


def learnt_tokens(
    module: nn.Module,
    name: str,
    count: int,
    like: jax.Array,
    *,
    init: Any = _INIT,
    param_dtype: Any = jnp.float32,
) -> jax.Array:
    """Returns a module's own learnt tokens, the same for each example of a batch.

    Args:
      module: a bound module.
      name: the parameter's name; its shape is ``[1, count, C]``.
      count: the number of tokens.
      like: an array ``[B, ..., C]`` that the tokens are for.
      init: the parameter's initialiser.
      param_dtype: the dtype of the parameter.

    Returns:
      ``[B, count, C]`` in the dtype of ``like``.
    """
    shape = (1, count, like.shape[-1])
    token = module.param(name, init, shape, param_dtype).astype(like.dtype)
    return jnp.broadcast_to(token, (like.shape[0], *shape[1:]))
