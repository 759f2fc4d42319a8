"""Swin Transformer: attention within windows, which are shifted in every other block.

Four stages of blocks, between which 2 x 2 patches become one of twice the width. S3 are the sizes
and windows that a search found. Names and numbers are those of timm's ``swin_transformer`` module.

References:
  Swin: https://arxiv.org/abs/2103.14030
  S3 (AutoFormerV2): https://arxiv.org/abs/2111.14725
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lists, check_size
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.attention import check_heads
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.initializers import Normal
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.patch_embed import PatchEmbed, check_image_size, resample_kernel
from flaxzoo.layers.pos_embed import Grid
from flaxzoo.layers.relative_position import NAME, resample_table, table_length
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.layers.windows import fit_window, over_windows, stage_windows
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What a block gets from the network as it is.
_PASSED_ON = (
    *("mlp_ratio", "activation", "qkv_bias", "norm", "norm_epsilon", "attention_dropout"),
    *("block_dropout", "implementation", "dtype", "param_dtype"),
)


class SwinBlock(TransformerBlock):
    """A block whose tokens attend to those of their window alone.

    Parameters are named as those of timm's ``SwinTransformerBlock``.

    Attributes:
      window: the rows and columns of a window.
      shift: by how many rows and columns the windows are shifted.
    """

    window: Grid = (7, 7)
    shift: Grid = (0, 0)

    def attention(self, x: jax.Array, name: str, train: bool, **_: Any) -> jax.Array:
        """Mixes the tokens ``[B, H, W, C]`` of each window."""
        attention = self.attention_module(name)
        return over_windows(
            x, self.window, self.shift, lambda tokens, mask: attention(tokens, train, mask=mask)
        )

    @nn.nowrap
    def attention_options(self) -> dict[str, Any]:
        """Returns the grid of the relative positions."""
        return {"grid": self.window, "table_init": Normal(0.02)}


class PatchMerging(Layer):
    """Makes one token of 2 x 2: their channels side by side, a norm, and a layer.

    Odd maps get a row or column of zeros. Parameters are named as timm's.

    Attributes:
      features: the width of the new tokens.
      norm_first: whether the norm stands before the layer.
      norm: the kind of the norm, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon; None for its own.
      kernel_init: the initialiser of the layer's kernel.
    """

    features: int
    norm_first: bool = True
    norm: Any = "layer"
    norm_epsilon: float | None = None
    kernel_init: Any = Normal(0.02)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, features]``, rounded up."""
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        # The upper and the lower patch of the left column come before those of the right one.
        x = x.transpose(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, width // 2, 4 * channels)
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        options = {"use_bias": False, "kernel_init": self.kernel_init, **self.dtypes}
        reduction = Dense(self.features, name="reduction", **options)
        if self.norm_first:
            return reduction(call_norm(norm, x, train=False))
        return call_norm(norm, reduction(x), train=False)


class SwinTransformer(Backbone):
    """A Swin Transformer without its classifier: patches, stages of blocks and the last norm.

    It maps images ``[B, H, W, C]`` to ``[B, H', W', C']``. Maps are those behind each stage, before
    the last norm.

    Attributes:
      input_shape: ``[H, W, C]`` of the images, which the windows are fitted to.
      dynamic_size: whether images of any other size, of whole patches, are taken, too; the windows
        stay as they are.
      patch_size: height and width of a patch.
      width: of a token in the first stage; each stage doubles it.
      layers: the number of blocks of each stage.
      heads: the number of heads of each stage.
      window_size: the side of a window, or its rows and columns; or one of these for each stage.
        It is no larger than the map, along each side.
      always_partition: whether small maps are filled up to the window instead.
      mlp_ratio: the hidden units of each MLP, as a multiple of the tokens' width.
      activation: of the MLPs, by name or callable.
      qkv_bias: whether queries, keys and values have biases.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of attention and MLP are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    dynamic_size: bool = False
    patch_size: int = 4
    width: int = 96
    layers: Sequence[int] = (2, 2, 6, 2)
    heads: Sequence[int] = (3, 6, 12, 24)
    window_size: int | Sequence[Any] = 7
    always_partition: bool = False
    mlp_ratio: float = 4.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    qkv_bias: bool = True
    norm: Any = "layer"
    norm_epsilon: float = 1e-5
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    # No fields: what the stages are called, and whether a norm stands behind the last one.
    stage_name = "layers"
    last_norm = True

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The patches, then the blocks ``layers_0_blocks_0`` and so on, with what leads to each."""
        yield Part("embed", self._embed, owns=("patch_embed",), takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        for stage, count in enumerate(self.layers):
            prefix = f"{self.stage_name}_{stage}"
            if stage:
                merge = functools.partial(self._merge, stage)
                yield Part(f"{prefix}_blocks_0", merge, owns=(f"{prefix}_downsample",))
            for i in range(count):
                yield Part(
                    f"{prefix}_blocks_{i}",
                    functools.partial(self.block(stage, i), drop_path=next(rates)),
                    map=prefix if i == count - 1 else None,
                    reduction=self.patch_size << stage,
                    remat=self.remat,
                )
        if self.last_norm:
            yield Part("norm", self._norm, owns=("norm",), depth=f"{prefix}_blocks_{count - 1}")

    @nn.nowrap
    def block(self, stage: int, number: int) -> functools.partial[Any]:
        """Returns what makes a block of a stage, but for its rate of stochastic depth."""
        window, shift = self.window(stage)
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        fields.update(window=window, shift=shift if number % 2 else (0, 0), heads=self.heads[stage])
        return functools.partial(SwinBlock, **fields)

    @nn.nowrap
    def window(self, stage: int) -> tuple[Grid, Grid]:
        """The rows and columns of a stage's windows, and by how many every other is shifted."""
        rows, columns = (-(-(n // self.patch_size) // 2**stage) for n in self.input_shape[:2])
        window = self.windows()[stage]
        return fit_window((rows, columns), window, always=self.always_partition)

    @nn.nowrap
    def windows(self) -> tuple[Grid, ...]:
        """The rows and columns of windows that each stage has where its map is no smaller."""
        return stage_windows(self.window_size, len(self.layers))

    @property
    def embed_options(self) -> dict[str, Any]:
        """Other fields of the ``PatchEmbed``."""
        return {}

    @property
    def merge_options(self) -> dict[str, Any]:
        """The fields of what leads from stage to stage."""
        return {"norm": self.norm, "norm_epsilon": self.norm_epsilon, **self.dtypes}

    def _embed(self, x: jax.Array, train: bool) -> jax.Array:
        size = self.patch_size
        if not self.dynamic_size:
            check_image_size(x, self.input_shape, ", or dynamic_size=True")
            # What is no whole patch is not seen.
            x = x[:, : x.shape[1] // size * size, : x.shape[2] // size * size]
        options = {"norm": self.norm, "norm_epsilon": self.norm_epsilon, **self.embed_options}
        return PatchEmbed(self.width, size, name="patch_embed", **options, **self.dtypes)(x, train)

    def _merge(self, stage: int, x: jax.Array, _train: bool) -> jax.Array:
        name = f"{self.stage_name}_{stage}_downsample"
        return PatchMerging(self.width << stage, name=name, **self.merge_options)(x)

    def _norm(self, x: jax.Array, train: bool) -> jax.Array:
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers: averages are pooled."""
        return {**super().head_options(), "kernel_init": Normal(0.02)}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return (f"layers_*/attn/{NAME}",)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        for name in ("patch_size", "width"):
            check_size(name, getattr(self, name))
        check_lists(self, "layers", "heads")
        self.windows()
        check_heads([self.width << stage for stage in range(len(self.heads))], self.heads)
        if len(self.input_shape) != 3 or min(self.input_shape[:2]) < self.patch_size:
            raise ArgumentError(
                "input_shape must be (height, width, channels), of at least one patch of "
                f"{self.patch_size} x {self.patch_size}, got {self.input_shape}"
            )
        self.block(0, 0)(parent=None).check_fields()


def convert(tensors: Mapping[str, Any], _backbone: Any) -> dict[str, Any]:
    """Today's names for the tensors of the authors' files, whose stages end where timm's begin."""
    if "layers.0.downsample.reduction.weight" not in tensors:
        return dict(tensors)

    def later(match: re.Match[str]) -> str:
        return f"layers.{int(match[1]) + 1}.downsample."

    names = (re.sub(r"^layers\.(\d+)\.downsample\.", later, name) for name in tensors)
    renamed = (re.sub(r"^head\.(?=weight|bias)", "head.fc.", name) for name in names)
    return dict(zip(renamed, tensors.values(), strict=True))


def _resize(stage: int, table: Any, _shape: Any, backbone: Any, old: Any, new: Any) -> Any:
    """A file's table for windows of another size; see ``flaxzoo.models.reference.Resize``."""

    def window(size: Any) -> Grid:
        sized = backbone.clone(input_shape=(*size, backbone.input_shape[-1]))
        return sized.window(stage)[0]

    old_window = None
    if math.isqrt(len(table)) ** 2 != len(table):
        # Windows that are not square are not told by a file: those that the model would have.
        old_window = None if old is None else window(old)
        if old_window is None or table_length(old_window, False) != len(table):
            raise ShapeError(
                f"the weights have a table of {len(table)} relative positions in stage {stage}, "
                "which is that of no square window: load them with the window_size and input_shape "
                "that they were trained with"
            )
    return resample_table(table, window(new), old_grid=old_window)


# What older files hold and timm computes.
IGNORED = (
    *("*.num_batches_tracked", "*.relative_position_index", "*.relative_coords_table"),
    "*.attn_mask",
)
REFERENCE = Reference(
    stem=("patch_embed/proj",),
    classifier="head.fc",
    convert=convert,
    ignored=IGNORED,
    patches=("patch_embed/proj", resample_kernel),
    # Of each stage by itself, more than any name has: a table does not say which one it is of.
    resized=tuple(
        (f"params/backbone/layers_{stage}_blocks_*/attn/{NAME}", functools.partial(_resize, stage))
        for stage in range(8)
    ),
)

_S: dict[str, Any] = {"layers": (2, 2, 18, 2)}
_B: dict[str, Any] = {"layers": (2, 2, 18, 2), "width": 128, "heads": (4, 8, 16, 32)}
_L: dict[str, Any] = {"layers": (2, 2, 18, 2), "width": 192, "heads": (6, 12, 24, 48)}
_384: dict[str, Any] = {"window_size": 12, "input_shape": (384, 384, 3)}
_S3 = "https://arxiv.org/abs/2111.14725"

variants(
    SwinTransformer,
    {
        "swin_tiny_patch4_window7_224": row("Swin-T"),
        "swin_small_patch4_window7_224": row("Swin-S", **_S),
        "swin_base_patch4_window7_224": row("Swin-B", **_B),
        "swin_base_patch4_window12_384": row("Swin-B, larger windows", **_B, **_384),
        "swin_large_patch4_window7_224": row("Swin-L", **_L),
        "swin_large_patch4_window12_384": row("Swin-L, larger windows", **_L, **_384),
        "swin_s3_tiny_224": row("Swin-S3-T", paper=_S3, window_size=(7, 7, 14, 7)),
        "swin_s3_small_224": row("Swin-S3-S", paper=_S3, window_size=(14, 14, 14, 7), **_S),
        "swin_s3_base_224": row(
            "Swin-S3-B", paper=_S3, window_size=(7, 7, 14, 7), layers=(2, 2, 30, 2)
        ),
    },
    paper="https://arxiv.org/abs/2103.14030",
    reference=REFERENCE,
)
