"""Swin Transformer V2: attention by angles within windows, with positions from a small network.

Norms stand behind the branches, and what relative positions add is a function of them instead of a
table, so that windows of another size need no other weights. Names and numbers are those of timm's
``swin_transformer_v2`` module.

References:
  Swin V2: https://arxiv.org/abs/2111.09883
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._checks import check_widths
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import Attention
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.initializers import Constant, zeros
from flaxzoo.layers.patch_embed import resample_kernel
from flaxzoo.layers.pos_embed import Grid
from flaxzoo.layers.relative_position import relative_index
from flaxzoo.layers.transformer import PostNormBlock
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants
from flaxzoo.models.swin_transformer import IGNORED, SwinBlock, SwinTransformer, convert

# Of the network that positions go through.
_HIDDEN = 512


class CosineAttention(Attention):
    """Attention by the cosine of queries and keys, with a learnt scale for each head.

    A network of two layers makes of each relative position what is added to the logits. Parameters
    are named as those of timm's ``WindowAttention`` in its ``swin_transformer_v2`` module.

    Attributes:
      pretrained_window: the side of the windows whose positions reach from -1 to 1; None for those
        of ``grid``.
    """

    key_bias: bool = False
    pretrained_window: int | None = None

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """The shape of the parameter ``logit_scale``."""
        return (self.heads, 1, 1)

    def comparable(self, q: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns queries and keys whose products are scaled cosines."""
        init = Constant(math.log(10))
        scale = self.param("logit_scale", init, self.scale_shape, self.param_dtype)
        scale = jnp.exp(jnp.minimum(jnp.asarray(scale), math.log(100)))
        # The product is divided by the root again.
        scale = scale.reshape(1, 1, self.heads, 1) * math.sqrt(q.shape[-1])
        return (_unit(q) * scale.astype(_wide(q))).astype(q.dtype), _unit(k).astype(k.dtype)

    def position_bias(self) -> jax.Array:
        """Returns what the relative positions add to the logits, ``[1, heads, N, N]``."""
        grid = self.grid or (1, 1)
        # Not in half precision: these are few numbers.
        options = {"kernel_init": self.kernel_init, "param_dtype": self.param_dtype}
        places = jnp.asarray(log_coordinates(grid, self.pretrained_window))
        hidden = nn.relu(Dense(_HIDDEN, name="cpb_mlp_0", bias_init=zeros, **options)(places))
        table = Dense(self.heads, use_bias=False, name="cpb_mlp_2", **options)(hidden)
        bias = table.at[relative_index(grid)].get(mode="promise_in_bounds")
        return 16 * nn.sigmoid(jnp.moveaxis(bias, -1, 0)[None])


def _wide(x: jax.Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def _unit(x: jax.Array) -> jax.Array:
    """Returns vectors of length 1, or shorter ones where they vanish; float32 at least."""
    x = x.astype(_wide(x))
    # A root has no gradient at zero: the smallest length is put under it.
    squares = jnp.square(x).sum(-1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-24))


@functools.lru_cache(maxsize=64)
def log_coordinates(window: Grid, pretrained_window: int | None = None) -> np.ndarray:
    """Returns the relative positions of a window, the near ones far apart, float32 ``[N, 2]``.

    Liu et al. 2021, https://arxiv.org/abs/2111.09883, section 3.3: -1 to 1, times 8, by
    ``sign(x) * log2(1 + |x|) / log2(8)``.

    Args:
      window: the rows and columns.
      pretrained_window: the side of the window that -1 to 1 are for; None for ``window``.
    """
    sides = window if pretrained_window is None else (pretrained_window, pretrained_window)
    axes = (
        np.arange(1 - length, length, dtype=np.float32) / np.float32(max(side - 1, 1)) * 8
        for length, side in zip(window, sides, strict=True)
    )
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    places = np.sign(places) * np.log2(np.abs(places) + np.float32(1)) / np.float32(3)
    places.flags.writeable = False
    return places


class SwinV2Block(SwinBlock, PostNormBlock):
    """A block of attention by angles within a window, with norms behind the branches.

    Parameters are named as those of timm's ``SwinTransformerV2Block``.

    Attributes:
      layer_scale: what the scales of the norms begin with: blocks add nothing at first.
      pretrained_window: as ``CosineAttention``'s.
    """

    layer_scale: float | None = 0.0
    pretrained_window: int | None = None

    @nn.nowrap
    def attention_module(self, name: str) -> Attention:
        """Makes the attention."""
        return CosineAttention(
            self.heads,
            qkv_bias=self.qkv_bias,
            grid=self.window,
            pretrained_window=self.pretrained_window,
            attention_dropout=self.attention_dropout,
            dropout=self.block_dropout,
            implementation=self.implementation,
            name=name,
            **self.dtypes,
        )


class SwinTransformerV2(SwinTransformer):
    """A Swin Transformer V2 without its classifier; see ``SwinTransformer`` for the other fields.

    Attributes:
      pretrained_window_sizes: for each stage the side of the windows that the weights were trained
        with before those of ``window_size``; None where these are the first.
    """

    input_shape: tuple[int, int, int] = (256, 256, 3)
    window_size: int | Sequence[Any] = 8
    pretrained_window_sizes: Sequence[int] | None = None

    @nn.nowrap
    def block(self, stage: int, number: int) -> functools.partial[Any]:
        """Returns what makes a block of a stage, but for its rate of stochastic depth."""
        fields = super().block(stage, number).keywords
        trained = self.pretrained_window_sizes
        return functools.partial(
            SwinV2Block, **fields, pretrained_window=None if trained is None else trained[stage]
        )

    @property
    def merge_options(self) -> dict[str, Any]:
        """The fields of what leads from stage to stage: the norm stands behind the layer."""
        return {**super().merge_options, "norm_first": False}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return ("layers_*/attn/logit_scale", "layers_*/attn/cpb_mlp_*")

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        trained = self.pretrained_window_sizes
        if trained is not None:
            check_widths("pretrained_window_sizes", trained)
            if len(trained) != len(self.layers):
                raise ArgumentError(
                    f"pretrained_window_sizes must be one for each of {len(self.layers)} stages, "
                    f"got {trained!r}"
                )
        super().check_fields()


REFERENCE = Reference(
    stem=("patch_embed/proj",),
    classifier="head.fc",
    convert=convert,
    ignored=IGNORED,
    patches=("patch_embed/proj", resample_kernel),
)

_S: dict[str, Any] = {"layers": (2, 2, 18, 2)}
_B: dict[str, Any] = {"layers": (2, 2, 18, 2), "width": 128, "heads": (4, 8, 16, 32)}
_L: dict[str, Any] = {"layers": (2, 2, 18, 2), "width": 192, "heads": (6, 12, 24, 48)}
_192: dict[str, Any] = {"window_size": 12, "input_shape": (192, 192, 3)}
_TO_256: dict[str, Any] = {"window_size": 16, "pretrained_window_sizes": (12, 12, 12, 6)}
_TO_384: dict[str, Any] = {**_TO_256, "window_size": 24, "input_shape": (384, 384, 3)}

variants(
    SwinTransformerV2,
    {
        "swinv2_tiny_window8_256": row("Swin V2-T"),
        "swinv2_tiny_window16_256": row("Swin V2-T, larger windows", window_size=16),
        "swinv2_small_window8_256": row("Swin V2-S", **_S),
        "swinv2_small_window16_256": row("Swin V2-S, larger windows", window_size=16, **_S),
        "swinv2_base_window8_256": row("Swin V2-B", **_B),
        "swinv2_base_window16_256": row("Swin V2-B, larger windows", window_size=16, **_B),
        "swinv2_base_window12_192": row("Swin V2-B for small images", **_B, **_192),
        "swinv2_base_window12to16_192to256": row("Swin V2-B, of 192 pixels", **_B, **_TO_256),
        "swinv2_base_window12to24_192to384": row("Swin V2-B, of 192 pixels", **_B, **_TO_384),
        "swinv2_large_window12_192": row("Swin V2-L for small images", **_L, **_192),
        "swinv2_large_window12to16_192to256": row("Swin V2-L, of 192 pixels", **_L, **_TO_256),
        "swinv2_large_window12to24_192to384": row("Swin V2-L, of 192 pixels", **_L, **_TO_384),
    },
    paper="https://arxiv.org/abs/2111.09883",
    input_shape=(256, 256, 3),
    reference=REFERENCE,
)
