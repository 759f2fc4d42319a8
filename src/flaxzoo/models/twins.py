"""Twins: pyramids of attention over the whole map, by few keys, and within windows.

Twins-PCPVT is a PVT whose positions come from a convolution; in Twins-SVT every other block attends
within windows instead. Either takes images of any size. Names and numbers are those of timm's
``twins`` module.

References:
  Twins: https://arxiv.org/abs/2104.13840
  Conditional position encodings: https://arxiv.org/abs/2102.10882
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax

from flaxzoo._checks import check_lengths, check_number, check_size, check_widths
from flaxzoo.layers.attention import Attention, check_heads
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.initializers import HeNormal, Normal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.patch_embed import PatchEmbed
from flaxzoo.layers.spatial_reduction import SpatialReductionAttention
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.layers.windows import over_windows
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What a block gets from the network as it is.
_PASSED_ON = (
    *("activation", "norm", "norm_epsilon", "attention_dropout", "block_dropout"),
    *("implementation", "dtype", "param_dtype"),
)


class TwinsBlock(TransformerBlock):
    """Attention within windows or to a smaller copy of the map, then an MLP on each pixel.

    Attributes:
      window: the side of a window; None for the smaller copy.
      key_stride: by how much that copy is smaller along each side.
    """

    window: int | None = None
    key_stride: int = 1

    def attention(self, x: jax.Array, name: str, train: bool, **_: Any) -> jax.Array:
        """Mixes the pixels of ``[B, H, W, C]``; zeros fill windows up below and at the right."""
        options: dict[str, Any] = {
            "attention_dropout": self.attention_dropout,
            "dropout": self.block_dropout,
            "implementation": self.implementation,
            "name": name,
            **self.dtypes,
        }
        if self.window is None:
            return SpatialReductionAttention(self.heads, self.key_stride, **options)(x, train)
        attend = Attention(self.heads, **options)
        size = (self.window, self.window)
        return over_windows(x, size, (0, 0), lambda tokens, _: attend(tokens, train))


class PositionConv(Layer):
    """A depthwise convolution ``proj_0`` that is added to its input: it says where pixels are."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width, dtypes = x.shape[-1], {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options = {"groups": width, "kernel_init": HeNormal(groups=width), **dtypes}
        return x + Conv(width, 3, use_bias=True, name="proj_0", **options)(x)


class Twins(Backbone):
    """A Twins without its classifier: stages of blocks, each behind an embedding of patches.

    It maps images ``[B, H, W, C]`` of any size to tokens ``[B, rows * columns, width]``, the pixels
    of the last map behind the last norm. Maps are those of the stages, before that norm.

    Attributes:
      layers: the number of blocks of each stage.
      widths: the channels of each stage.
      heads: the number of heads of each stage's attention.
      windows: the side of each stage's windows, in which its first and every other block attends;
        None where all blocks attend to the whole map.
      key_strides: by how much keys and values of the whole map are fewer than its pixels, along
        each side.
      mlp_ratios: the hidden units of each stage's MLPs, as a multiple of its width.
      patch_size: height and width of the first stage's patches; those of the others are 2.
      activation: of the MLPs, by name or callable.
      norm: the kind of the blocks' norms and of the last, by name or module
        (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      position_dropout: rate at which units are dropped before the blocks of a stage.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of attention and MLP are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (3, 4, 6, 3)
    widths: Sequence[int] = (64, 128, 320, 512)
    heads: Sequence[int] = (1, 2, 5, 8)
    windows: Sequence[int] | None = None
    key_strides: Sequence[int] = (8, 4, 2, 1)
    mlp_ratios: Sequence[float] = (8, 8, 4, 4)
    patch_size: int = 4
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    position_dropout: float = 0.0
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The first embedding, then the blocks ``blocks_0_0`` and so on, stage by stage."""
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        for i, count in enumerate(self.layers):
            complete = {"map": f"blocks_{i}", "reduction": self.patch_size * 2**i}
            embed, takes = ("embed", "images") if i == 0 else (f"blocks_{i}_0", "maps")
            run = functools.partial(self._embed, i)
            yield Part(embed, run, owns=(f"patch_embeds_{i}",), takes=takes)
            for j in range(count):
                name, block = f"blocks_{i}_{j}", self._block(i, j, next(rates))
                last: dict[str, Any] = complete if j == count - 1 else {}
                yield Part(name, block, remat=self.remat, **(last if j else {}))
                if j == 0:
                    run, owns = functools.partial(self._position, i), (f"pos_block_{i}",)
                    yield Part(name, run, owns, **last)
        yield Part(name, self._flatten)
        yield Part("norm", self._norm, owns=("norm",), takes="tokens", depth=name)

    @nn.nowrap
    def _block(self, stage: int, number: int, drop_path: float) -> Callable[..., Any]:
        """Returns what makes a block."""
        return functools.partial(
            TwinsBlock,
            heads=self.heads[stage],
            mlp_ratio=self.mlp_ratios[stage],
            window=None if self.windows is None or number % 2 else self.windows[stage],
            key_stride=self.key_strides[stage],
            drop_path=drop_path,
            **{name: getattr(self, name) for name in _PASSED_ON},
        )

    def _embed(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        size = 2 if stage else self.patch_size
        # What is no whole patch is not seen.
        x = x[:, : x.shape[1] // size * size, : x.shape[2] // size * size]
        options: dict[str, Any] = {"norm": "layer", "norm_epsilon": 1e-5, **self.dtypes}
        options |= {"kernel_init": HeNormal(), "bias_init": zeros, "name": f"patch_embeds_{stage}"}
        x = PatchEmbed(self.widths[stage], size, **options)(x, train)
        drop = nn.Dropout(self.position_dropout, name=f"pos_drops_{stage}")
        return drop(x, deterministic=not train)

    def _position(self, stage: int, x: jax.Array, _train: bool) -> jax.Array:
        return PositionConv(name=f"pos_block_{stage}", **self.dtypes)(x)

    def _flatten(self, x: jax.Array, _train: bool) -> jax.Array:
        batch, height, width, channels = x.shape
        return x.reshape(batch, height * width, channels)

    def _norm(self, x: jax.Array, train: bool) -> jax.Array:
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    @nn.nowrap
    def pooling_options(self) -> dict[str, Any]:
        """The fields of a ``Head`` that pools these tokens."""
        return {"pooling": "avg"}

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers."""
        return {**self.pooling_options(), "kernel_init": Normal(0.02)}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed: those of positions."""
        return ("pos_block_*/*",)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        lists = {name: getattr(self, name) for name in ("layers", "widths", "heads", "key_strides")}
        if self.windows is not None:
            lists["windows"] = self.windows
        for name, value in lists.items():
            check_widths(name, value)
        for ratio in self.mlp_ratios:
            check_number("mlp_ratios", ratio, above=0)
        check_lengths(**lists, mlp_ratios=self.mlp_ratios)
        for size in self.windows or ():
            check_size("windows", size, minimum=2)
        check_size("patch_size", self.patch_size)
        check_heads(self.widths, self.heads)
        self._block(0, 0, self.drop_path)(parent=None).check_fields()


_SVT: dict[str, Any] = {"windows": (7, 7, 7, 7), "mlp_ratios": (4, 4, 4, 4)}

variants(
    Twins,
    {
        "twins_pcpvt_small": row("Twins-PCPVT-S", layers=(3, 4, 6, 3)),
        "twins_pcpvt_base": row("Twins-PCPVT-B", layers=(3, 4, 18, 3)),
        "twins_pcpvt_large": row("Twins-PCPVT-L", layers=(3, 8, 27, 3)),
        "twins_svt_small": row(
            "Twins-SVT-S",
            layers=(2, 2, 10, 4),
            widths=(64, 128, 256, 512),
            heads=(2, 4, 8, 16),
            **_SVT,
        ),
        "twins_svt_base": row(
            "Twins-SVT-B",
            layers=(2, 2, 18, 2),
            widths=(96, 192, 384, 768),
            heads=(3, 6, 12, 24),
            **_SVT,
        ),
        "twins_svt_large": row(
            "Twins-SVT-L",
            layers=(2, 2, 18, 2),
            widths=(128, 256, 512, 1024),
            heads=(4, 8, 16, 32),
            **_SVT,
        ),
    },
    paper="https://arxiv.org/abs/2104.13840",
    reference=Reference(("patch_embeds_0/proj",), "head"),
)
