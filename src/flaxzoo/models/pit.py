"""PiT: vision transformers with the stages of a convolutional network, between which tokens pool.

A strided depthwise convolution halves the grid of patches and widens it, and a layer widens the
class token alike; that token is all that leaves the network. Names and numbers are those of timm's
``pit`` module.

References:
  PiT: https://arxiv.org/abs/2103.16302
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lists, check_size
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import check_heads
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.initializers import PLAIN, Normal
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.patch_embed import check_image_size
from flaxzoo.layers.pos_embed import Grid, resample_map
from flaxzoo.layers.tokens import learnt_tokens
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.models.backbone import Backbone, Part, tokens_to_map
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What a block gets from the network as it is.
_PASSED_ON = (
    *("mlp_ratio", "activation", "norm", "norm_epsilon", "attention_dropout", "block_dropout"),
    *("implementation", "dtype", "param_dtype"),
)


class PitBlock(TransformerBlock):
    """A transformer's block whose layers begin as PyTorch's do."""

    @nn.nowrap
    def attention_options(self) -> dict[str, Any]:
        """Returns how its attention begins."""
        return dict(PLAIN)

    @nn.nowrap
    def mlp_options(self) -> dict[str, Any]:
        """Returns how its MLP begins."""
        return dict(PLAIN)


class TokenPooling(Layer):
    """Halves the sides of a grid of tokens and widens them, and those before the grid.

    Attributes:
      features: the width of the tokens that are returned, a multiple of those that come in.
      grid: the rows and columns of the grid that comes in.
      prefix: how many tokens stand before it.
    """

    features: int
    grid: Grid
    prefix: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens ``[B, prefix + rows * columns, C]`` to those of the smaller grid.

        Its rows and columns are half as many, rounded up.
        """
        options = {**self.dtypes, **PLAIN}
        cells = tokens_to_map(x, *self.grid, self.prefix)
        conv = Conv(self.features, 3, 2, groups=x.shape[-1], use_bias=True, name="conv", **options)
        cells = conv(cells)
        first = Dense(self.features, name="fc", **options)(x[:, : self.prefix])
        rows, columns = cells.shape[1:3]
        cells = cells.reshape(len(cells), rows * columns, self.features)
        return jnp.concatenate([first, cells], axis=1)


class PoolingVisionTransformer(Backbone):
    """A PiT without its classifier: patches that overlap, stages of blocks, and the last norm.

    It maps images ``[B, H, W, C]`` to the class token ``[B, 1, width]``, or to both tokens of a
    distilled network. Maps are the patches behind each stage.

    Attributes:
      input_shape: ``[H, W, C]`` of the images that the positions are for.
      patch_size: height and width of a patch.
      patch_stride: the distance between patches, which overlap where it is less than their size.
      layers: the number of blocks of each stage.
      widths: the width of each stage's tokens, each a multiple of the one before.
      heads: the number of heads of each stage's attention.
      mlp_ratio: the hidden units of each MLP, as a multiple of its stage's width.
      distillation_token: whether a second token follows the class token, which another network
        taught; the classifiers then have a layer for each and return the mean of both.
      distilled_training: whether these classifiers return both layers' logits in training, a pair,
        for a loss each: of the labels and of the teacher's. In inference it is always the mean.
      activation: of the MLPs, by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      position_dropout: rate at which the patches' units are dropped before the blocks.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of attention and MLP are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    patch_size: int = 16
    patch_stride: int = 8
    layers: Sequence[int] = (2, 6, 4)
    widths: Sequence[int] = (96, 192, 384)
    heads: Sequence[int] = (2, 4, 8)
    mlp_ratio: float = 4.0
    distillation_token: bool = False
    distilled_training: bool = False
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    position_dropout: float = 0.0
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @property
    def prefix(self) -> int:
        """The number of tokens before those of the patches."""
        return 1 + self.distillation_token

    @nn.nowrap
    def grids(self) -> tuple[Grid, ...]:
        """The rows and columns of patches of each stage."""
        grids = [self.grid_of(self.input_shape)]
        for _ in self.layers[1:]:
            rows, columns = grids[-1]
            grids.append((-(-rows // 2), -(-columns // 2)))
        return tuple(grids)

    @nn.nowrap
    def grid_of(self, shape: Sequence[int]) -> Grid:
        """The rows and columns of patches of images ``[H, W, ...]``, in the first stage."""
        rows, columns = ((n - self.patch_size) // self.patch_stride + 1 for n in shape[:2])
        return rows, columns

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The tokens, the blocks ``transformers_0_blocks_0`` and so on, and the last norm."""
        yield Part("embed", self._embed, ("patch_embed", "pos_embed", "cls_token"), takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        for i, (count, grid) in enumerate(zip(self.layers, self.grids(), strict=True)):
            stage = f"transformers_{i}"
            if i:
                pool, owns = functools.partial(self._pool, i), (f"{stage}_pool",)
                yield Part(f"{stage}_blocks_0", pool, owns, takes="tokens")
            block = functools.partial(PitBlock, self.heads[i], **fields)
            for j in range(count):
                name = f"{stage}_blocks_{j}"
                yield Part(
                    name,
                    functools.partial(block, drop_path=next(rates)),
                    map=stage if j == count - 1 else None,
                    reduction=self.patch_stride * 2**i,
                    view=functools.partial(
                        tokens_to_map, height=grid[0], width=grid[1], prefix=self.prefix
                    ),
                    takes="tokens",
                    remat=self.remat,
                )
        yield Part("norm", self._norm, owns=("norm",), takes="tokens", depth=name)

    def _embed(self, x: jax.Array, train: bool) -> jax.Array:
        check_image_size(x, self.input_shape)
        options: dict[str, Any] = {"padding": 0, "use_bias": True, **PLAIN}
        options |= {"name": "patch_embed", **self.dtypes}
        x = Conv(self.widths[0], self.patch_size, self.patch_stride, **options)(x)
        batch, *shape = x.shape
        positions = self.param("pos_embed", Normal(0.02), (1, *shape), self.param_dtype)
        x = x + positions.astype(x.dtype)
        x = nn.Dropout(self.position_dropout, name="pos_drop")(x, deterministic=not train)
        token = learnt_tokens(
            self, "cls_token", self.prefix, x, init=Normal(0.02), param_dtype=self.param_dtype
        )
        return jnp.concatenate([token, x.reshape(batch, shape[0] * shape[1], shape[2])], axis=1)

    def _pool(self, stage: int, x: jax.Array, _train: bool) -> jax.Array:
        fields = (self.widths[stage], self.grids()[stage - 1], self.prefix)
        return TokenPooling(*fields, name=f"transformers_{stage}_pool", **self.dtypes)(x)

    def _norm(self, x: jax.Array, train: bool) -> jax.Array:
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x[:, : self.prefix], train=train)

    @nn.nowrap
    def pooling_options(self) -> dict[str, Any]:
        """The fields of a ``Head`` that takes the class token, or the mean of both tokens."""
        if self.distillation_token:
            return {"pooling": "prefix", "prefix_tokens": self.prefix}
        return {"pooling": "token"}

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers."""
        options = {**self.pooling_options(), **PLAIN}
        if self.distillation_token:
            options["distilled"] = "pair" if self.distilled_training else "mean"
        return options

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return ("pos_embed", "cls_token")

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_lists(self, "layers", "widths", "heads")
        check_size("patch_size", self.patch_size)
        check_size("patch_stride", self.patch_stride)
        check_heads(self.widths, self.heads)
        pairs = zip(self.widths, self.widths[1:], strict=False)
        if any(width % before for before, width in pairs):
            raise ArgumentError(
                f"widths must each be a multiple of the one before, got {tuple(self.widths)}"
            )
        if len(self.input_shape) != 3 or min(self.grid_of(self.input_shape)) < 1:
            raise ArgumentError(
                "input_shape must be (height, width, channels), of at least one patch of "
                f"{self.patch_size} x {self.patch_size}, got {self.input_shape}"
            )
        if self.distilled_training and not self.distillation_token:
            raise ArgumentError("distilled_training=True takes distillation_token=True, got False")
        next(part for part in self.parts() if part.map).run(parent=None).check_fields()


def _convert(tensors: Mapping[str, Any], _backbone: PoolingVisionTransformer) -> Mapping[str, Any]:
    """Today's names for the tensors of the authors' files, which list poolings by themselves."""

    def pool(match: re.Match[str]) -> str:
        return f"transformers.{int(match[1]) + 1}.pool."

    return {re.sub(r"^pools\.(\d+)\.", pool, name): value for name, value in tensors.items()}


def _resize(positions: Any, shape: Any, _backbone: Any, _old: Any, _new: Any) -> Any:
    """Positions for images of another size; see ``flaxzoo.models.reference.Resize``."""
    return resample_map(positions, shape[1:3])


REFERENCE = Reference(
    stem=("patch_embed",),
    classifier="head",
    head=(("fc_dist", "head_dist"),),
    renamed=(("patch_embed", "patch_embed.conv"),),
    layouts=(("params/backbone/pos_embed", "map"),),
    convert=_convert,
    resized=(("params/backbone/pos_embed", _resize),),
)

# What names have in common: sizes.
_TI: dict[str, Any] = {"widths": (64, 128, 256), "heads": (2, 4, 8)}
_XS: dict[str, Any] = {"widths": (96, 192, 384), "heads": (2, 4, 8)}
_S: dict[str, Any] = {"widths": (144, 288, 576), "heads": (3, 6, 12)}
_B: dict[str, Any] = {
    "patch_size": 14,
    "patch_stride": 7,
    "layers": (3, 6, 4),
    "widths": (256, 512, 1024),
    "heads": (4, 8, 16),
}

variants(
    PoolingVisionTransformer,
    {
        "pit_ti_224": row("PiT-Ti", **_TI),
        "pit_xs_224": row("PiT-XS", **_XS),
        "pit_s_224": row("PiT-S", **_S),
        "pit_b_224": row("PiT-B", **_B),
        "pit_ti_distilled_224": row("PiT-Ti, distilled", distillation_token=True, **_TI),
        "pit_xs_distilled_224": row("PiT-XS, distilled", distillation_token=True, **_XS),
        "pit_s_distilled_224": row("PiT-S, distilled", distillation_token=True, **_S),
        "pit_b_distilled_224": row("PiT-B, distilled", distillation_token=True, **_B),
    },
    paper="https://arxiv.org/abs/2103.16302",
    reference=REFERENCE,
)
