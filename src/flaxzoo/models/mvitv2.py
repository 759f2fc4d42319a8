"""MViT v2: a pyramid whose attention pools its queries, keys and values.

A stage's first block pools its queries to half of each side, and all blocks pool keys and values,
most in the first stage. Positions are relative, rows and columns apart, and weighed by the query.
Names and numbers are those of timm's ``mvitv2`` module.

References:
  MViT: https://arxiv.org/abs/2104.11227
  MViT v2: https://arxiv.org/abs/2112.01526
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
import numpy as np

from flaxzoo._checks import check_size, check_widths
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import attend, weight_hook
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.initializers import PLAIN, FanIn, TruncatedNormal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import as_norm, call_norm, make_norm
from flaxzoo.layers.patch_embed import OverlapPatchEmbed, check_image_size
from flaxzoo.layers.pool import max_pool
from flaxzoo.layers.pos_embed import Grid, resample_positions
from flaxzoo.layers.tokens import learnt_tokens
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.models.backbone import Backbone, Part, tokens_to_map
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# Between two patches; between two queries of a stage's first block.
_PATCH, _STRIDE = 4, 2
# What a block gets from the network as it is.
_PASSED_ON = (
    *("class_token", "mlp_ratio", "activation", "qkv_bias", "norm", "norm_epsilon"),
    *("implementation", "dtype", "param_dtype"),
)
_INIT = TruncatedNormal(0.02)


class PoolingAttention(Layer):
    """Self-attention whose queries, keys and values are pooled, each head alike.

    Parameters are named as timm's ``MultiScaleAttention``: ``qkv``, ``pool_q``, ``norm_q`` and
    those of keys and values, ``rel_pos_h``, ``rel_pos_w``, ``proj``.

    Attributes:
      features: the width of the output.
      heads: the number of heads.
      grid: the rows and columns of the tokens.
      stride: by how much queries are fewer along each side.
      key_stride: by how much keys and values are.
      class_token: whether a token stands before the grid's.
      qkv_bias: whether queries, keys and values have biases.
      norm: the kind of the norms behind the pooling, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      implementation: ``"einsum"``, ``"xla"`` or ``"cudnn"`` (``flaxzoo.layers.attention.attend``).
    """

    features: int
    heads: int
    grid: Grid
    stride: int = 1
    key_stride: int = 1
    class_token: bool = False
    qkv_bias: bool = True
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    implementation: str = "einsum"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to ``[B, N', features]``.

        Args:
          x: tokens, the class token first where there is one, then the grid's by rows.
          train: whether norms are in training.
        """
        batch, count, _ = x.shape
        qkv = self._dense(3 * self.features, "qkv", self.qkv_bias)(x)
        qkv = qkv.reshape(batch, count, 3, self.heads, self.features // self.heads)
        strides = {"q": self.stride, "k": self.key_stride, "v": self.key_stride}
        q, k, v = (
            self._pooled(qkv[:, :, i], name, stride, train)
            for i, (name, stride) in enumerate(strides.items())
        )
        bias = self._positions(q)
        drop = weight_hook(self, 0.0, train)
        y = attend(q, k, v, mask=bias, drop=drop, implementation=self.implementation)
        # The queries themselves, too (MViT v2, equation 6).
        return self._dense(self.features, "proj", True)(y + q.reshape(y.shape))

    def _pooled(self, x: jax.Array, name: str, stride: int, train: bool) -> jax.Array:
        """Returns ``[B, N, heads, D]`` with the grid's tokens pooled by a convolution, normed."""
        batch, _, heads, width = x.shape
        first, x = jnp.split(x, [int(self.class_token)], axis=1)
        x = jnp.moveaxis(x, 2, 1).reshape(batch, heads, *self.grid, width)
        options: dict[str, Any] = {"groups": width, "kernel_init": FanIn(), **self.dtypes}
        x = Conv(width, 3, stride, name=f"pool_{name}", **options)(x)
        x = jnp.moveaxis(x.reshape(batch, heads, -1, width), 1, 2)
        norm = make_norm(self.norm, f"norm_{name}", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, jnp.concatenate([first, x], axis=1), train=train)

    def _positions(self, q: jax.Array) -> jax.Array:
        """Returns what positions add to the logits of queries ``[B, N, heads, D]``."""
        batch, _, heads, width = q.shape
        prefix = int(self.class_token)
        rows, columns = (side // self.stride for side in self.grid)
        queries = q[:, prefix:].reshape(batch, rows, columns, heads, width)
        wide = jnp.promote_types(q.dtype, jnp.float32)
        parts = []
        for axis, name, product in (
            (0, "rel_pos_h", "bhwnc,hkc->bnhwk"),
            (1, "rel_pos_w", "bhwnc,wkc->bnhwk"),
        ):
            size = self.grid[axis] // self.stride, self.grid[axis] // self.key_stride
            shape = (2 * max(size) - 1, width)
            table = self.param(name, _INIT, shape, self.param_dtype).astype(q.dtype)
            nearby = table.at[distances(*size)].get(mode="promise_in_bounds")
            parts.append(jnp.einsum(product, queries, nearby, preferred_element_type=wide))
        bias = parts[0][..., :, None] + parts[1][..., None, :]
        bias = bias.reshape(batch, heads, rows * columns, -1)
        # A class token has no place.
        return jnp.pad(bias, ((0, 0), (0, 0), (prefix, 0), (prefix, 0)))

    @nn.nowrap
    def _dense(self, features: int, name: str, use_bias: bool) -> Dense:
        options: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options |= {"kernel_init": _INIT, "bias_init": zeros}
        return Dense(features, use_bias=use_bias, name=name, **options)


@functools.lru_cache(maxsize=64)
def distances(queries: int, keys: int) -> np.ndarray:
    """Returns the row of a table for each query and key along one axis, int32 ``[Q, K]``.

    Distances are counted in steps of whichever there are more of.

    Args:
      queries: the number of queries along the axis.
      keys: that of keys; the larger is a multiple of the other.
    """
    steps = max(keys // queries, 1), max(queries // keys, 1)
    index = np.arange(queries)[:, None] * steps[0] - np.arange(keys) * steps[1]
    index = (index + (keys - 1) * steps[1]).astype(np.int32)
    index.flags.writeable = False
    return index


class MultiScaleBlock(TransformerBlock):
    """Attention that pools, then an MLP; either may widen the tokens.

    Parameters are named as timm's ``MultiScaleBlock``: ``norm1``, ``shortcut_proj_attn``, ``attn``,
    ``norm2``, ``shortcut_proj_mlp``, ``mlp``.

    Attributes:
      features: the width of the output.
      widen_early: whether the attention widens the tokens, rather than the MLP.
      grid: the rows and columns of the tokens.
      stride: by how much queries are fewer along each side.
      key_stride: by how much keys and values are.
      class_token: whether a token stands before the grid's.
    """

    features: int = 96
    widen_early: bool = True
    grid: Grid = (56, 56)
    stride: int = 1
    key_stride: int = 1
    class_token: bool = False

    @nn.compact
    # Its positions are the attention's own.
    def __call__(  # type: ignore[override]
        self, x: jax.Array, train: bool = False
    ) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to ``[B, N', features]``."""
        widens, y = x.shape[-1] != self.features, self.normalise(x, "norm1")
        shortcut = self._widened(y, "attn") if widens and self.widen_early else x
        fields = ("heads", "grid", "stride", "key_stride", "class_token", "qkv_bias", "norm")
        own = {name: getattr(self, name) for name in (*fields, "norm_epsilon", "implementation")}
        y = PoolingAttention(shortcut.shape[-1], name="attn", **own, **self.dtypes)(y, train)
        x = self._smaller(shortcut) + self.branch(y, "ls1", "drop_path1", train)
        y = self.normalise(x, "norm2")
        shortcut = self._widened(y, "mlp") if x.shape[-1] != self.features else x
        y = self.feed_forward(y, "mlp", train)
        return shortcut + self.branch(y, "ls2", "drop_path2", train)

    def _widened(self, x: jax.Array, branch: str) -> jax.Array:
        options: dict[str, Any] = {"kernel_init": _INIT, "bias_init": zeros, **self.dtypes}
        return Dense(self.features, name=f"shortcut_proj_{branch}", **options)(x)

    def _smaller(self, x: jax.Array) -> jax.Array:
        """Takes the grid's maxima where its queries are fewer."""
        if self.stride == 1:
            return x
        first, x = jnp.split(x, [int(self.class_token)], axis=1)
        x = x.reshape(x.shape[0], *self.grid, x.shape[-1])
        x = max_pool(x, self.stride + 1, self.stride, (self.stride + 1) // 2)
        return jnp.concatenate([first, x.reshape(x.shape[0], -1, x.shape[-1])], axis=1)

    @nn.nowrap
    def mlp_options(self) -> dict[str, Any]:
        """Returns the width of the MLP's output."""
        return {"features": self.features, "kernel_init": _INIT}


class MultiScaleVisionTransformer(Backbone):
    """An MViT v2 without its classifier: patches, stages of blocks and the last norm.

    It maps images ``[B, H, W, C]`` to tokens ``[B, H / 32 * W / 32, 8 * width]``, behind the class
    token where there is one.

    Attributes:
      input_shape: ``[H, W, C]`` of the images; both sides are one multiple of 32 for four stages.
      layers: the number of blocks of each stage.
      width: of a token in the first stage; it doubles with each.
      heads: the number of heads in the first stage; it doubles as well.
      key_stride: by how much keys and values are fewer along each side in the first stage; half of
        that in each stage that follows, and at least 1.
      widen_early: whether the first block of a stage widens its tokens by attention, rather than
        the last one of the stage before by its MLP.
      class_token: whether a token of no patch stands first, and is what is pooled.
      mlp_ratio: the hidden units of each MLP, as a multiple of the width.
      activation: of the MLPs, by name or callable.
      qkv_bias: whether queries, keys and values have biases.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    layers: Sequence[int] = (2, 3, 16, 3)
    width: int = 96
    heads: int = 1
    key_stride: int = 4
    widen_early: bool = True
    class_token: bool = False
    mlp_ratio: float = 4.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    qkv_bias: bool = True
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The tokens, then the blocks ``stages_0_blocks_0`` and so on, and the last norm."""
        owns = ("patch_embed", *(["cls_token"] if self.class_token else []))
        yield Part("embed", self._embed, owns=owns, takes="images")
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        grid, last = self.grid, len(self.layers) - 1
        for i, count in enumerate(self.layers):
            for j in range(count):
                stride = _STRIDE if i and not j else 1
                widens = not self.widen_early and j == count - 1 and i < last
                block = functools.partial(
                    MultiScaleBlock,
                    features=self.width * 2 ** (i + widens),
                    widen_early=self.widen_early,
                    heads=self.heads * 2**i,
                    grid=grid,
                    stride=stride,
                    key_stride=max(self.key_stride // 2**i, 1),
                    drop_path=next(rates),
                    **fields,
                )
                grid = (grid[0] // stride, grid[1] // stride)
                size: dict[str, Any] = {"height": grid[0], "width": grid[1]}
                yield Part(
                    f"stages_{i}_blocks_{j}",
                    block,
                    takes="tokens",
                    map=f"stages_{i}" if j == count - 1 else None,
                    reduction=_PATCH * _STRIDE**i,
                    view=functools.partial(tokens_to_map, prefix=int(self.class_token), **size),
                    depth=f"stages_{i}",
                    remat=self.remat,
                )
        yield Part("norm", self._norm, owns=("norm",), takes="tokens", depth=f"stages_{last}")

    @property
    def grid(self) -> Grid:
        """The rows and columns of patches."""
        return self.input_shape[0] // _PATCH, self.input_shape[1] // _PATCH

    def _embed(self, x: jax.Array, train: bool) -> jax.Array:
        check_image_size(x, self.input_shape)
        options = {**PLAIN, **self.dtypes}
        x = OverlapPatchEmbed(self.width, 7, _PATCH, name="patch_embed", **options)(x, train)
        x = x.reshape(x.shape[0], -1, self.width)
        if not self.class_token:
            return x
        own = {"init": _INIT, "param_dtype": self.param_dtype}
        token = learnt_tokens(self, "cls_token", 1, x, **own)
        return jnp.concatenate([token, x], axis=1)

    def _norm(self, x: jax.Array, _train: bool) -> jax.Array:
        return as_norm(self.norm)(epsilon=self.norm_epsilon, name="norm", **self.dtypes)(x)

    @nn.nowrap
    def pooling_options(self) -> dict[str, Any]:
        """The fields of a ``Head`` that pools these tokens."""
        pooling = "token" if self.class_token else "avg"
        return {"pooling": pooling, "prefix_tokens": int(self.class_token)}

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers."""
        return {**super().head_options(), "kernel_init": _INIT}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return ("cls_token", "*/rel_pos_h", "*/rel_pos_w")

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_widths("layers", self.layers)
        for name in ("width", "heads", "key_stride"):
            check_size(name, getattr(self, name))
        if self.width % self.heads:
            raise ArgumentError(f"width must be a multiple of heads={self.heads}, got {self.width}")
        side = _PATCH * math.lcm(self.key_stride, _STRIDE ** (len(self.layers) - 1))
        shape = self.input_shape
        if len(shape) != 3 or shape[0] != shape[1] or shape[0] < side or shape[0] % side:
            raise ArgumentError(
                "input_shape must be (height, width, channels) of equal height and width, a "
                f"multiple of {side}, got {shape}: resize or pad the images to a square"
            )
        next(part for part in self.parts() if part.map).run(parent=None).check_fields()


def _convert(
    tensors: Mapping[str, Any], backbone: MultiScaleVisionTransformer
) -> Mapping[str, Any]:
    """Names the tensors of the authors' files, which count blocks through, as timm does."""
    if "stages.0.blocks.0.norm1.weight" in tensors:
        return tensors
    places = [(i, j) for i, count in enumerate(backbone.layers) for j in range(count)]
    shortcut = "shortcut_proj_attn" if backbone.widen_early else "shortcut_proj_mlp"

    def name(old: str) -> str:
        match = re.match(r"blocks\.(\d+)\.(proj\.)?(.*)", old)
        if match is None:
            return old.replace("head.projection.", "head.fc.")
        stage, number = places[int(match[1])]
        module = f"{shortcut}." if match[2] else ""
        return f"stages.{stage}.blocks.{number}.{module}{match[3]}"

    return {name(old): value for old, value in tensors.items()}


def _resize(table: Any, shape: tuple[int, ...], *_: Any) -> Any:
    """A file's table for images of another size; see ``flaxzoo.models.reference.Resize``."""
    grids: dict[str, Any] = {"grid": (shape[0], 1), "old_grid": (table.shape[0], 1)}
    return resample_positions(table[None], method="bilinear", **grids)[0]


REFERENCE = Reference(
    stem=("patch_embed/proj",),
    classifier="head.fc",
    convert=_convert,
    resized=(("params/backbone/*/rel_pos_[hw]", _resize),),
)
# A field of timm's configuration of the name.
CUT = {"layers": "model_cfgs.depths"}

variants(
    MultiScaleVisionTransformer,
    {
        "mvitv2_tiny": row("MViT v2-T", layers=(1, 2, 5, 2)),
        "mvitv2_small": row("MViT v2-S", layers=(1, 2, 11, 2)),
        "mvitv2_base": row("MViT v2-B", layers=(2, 3, 16, 3)),
        "mvitv2_large": row(
            "MViT v2-L", layers=(2, 6, 36, 4), width=144, heads=2, widen_early=False
        ),
        "mvitv2_small_cls": row(
            "MViT v2-S with a class token", layers=(1, 2, 11, 2), class_token=True
        ),
        "mvitv2_base_cls": row(
            "MViT v2-B with a class token", layers=(2, 3, 16, 3), class_token=True
        ),
        "mvitv2_large_cls": row(
            "MViT v2-L with a class token",
            layers=(2, 6, 36, 4),
            width=144,
            heads=2,
            class_token=True,
        ),
        "mvitv2_huge_cls": row(
            "MViT v2-H with a class token",
            layers=(4, 8, 60, 8),
            width=192,
            heads=3,
            class_token=True,
        ),
    },
    paper="https://arxiv.org/abs/2112.01526",
    reference=REFERENCE,
)
