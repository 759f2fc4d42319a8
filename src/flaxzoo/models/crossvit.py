"""CrossViT: two vision transformers of patches of two sizes, whose class tokens visit each other.

Small patches go through few narrow blocks, large ones through more and wider blocks. Behind them
each branch's class token attends to the other's patches and comes back. Names and numbers are those
of timm's ``crossvit`` module.

References:
  CrossViT: https://arxiv.org/abs/2103.14899
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_choice, check_number, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import check_heads
from flaxzoo.layers.class_attention import ClassAttention
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.initializers import PLAIN, Normal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import make_norm
from flaxzoo.layers.patch_embed import PatchEmbed, check_image_size
from flaxzoo.layers.pos_embed import Grid, learnt_positions, resample_positions, resize_weights
from flaxzoo.layers.tokens import learnt_tokens
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.models.backbone import Backbone, Part, tokens_to_map
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

Tokens = tuple[jax.Array, jax.Array]

# What blocks get from the network as it is.
_PASSED_ON = (
    *("heads", "mlp_ratios", "activation", "qkv_bias", "norm", "norm_epsilon"),
    *("attention_dropout", "block_dropout", "implementation", "dtype", "param_dtype"),
)
# The convolutions of a stem by the patch's side: size, stride and padding.
_STEMS = {
    12: ((7, 4, 3), (3, 3, 0), (3, 1, 1)),
    16: ((7, 4, 3), (3, 2, 1), (3, 2, 1)),
}
# timm takes other depths of some of these names alone.
CUT: dict[str, str] = {}


class ConvPatchEmbed(Layer):
    """Tokens of patches by three convolutions: ``proj_0``, ``proj_2`` and ``proj_4``.

    Attributes:
      features: the width of a token.
      patch_size: the height and width of a patch, 12 or 16.
    """

    features: int
    patch_size: int = 16

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images ``[B, H, W, C]`` of whole patches to ``[B, rows, columns, features]``."""
        for i, (size, stride, padding) in enumerate(_STEMS[self.patch_size]):
            x = nn.relu(x) if i else x
            options: dict[str, Any] = {**PLAIN, **self.dtypes}
            options |= {"use_bias": True, "padding": padding, "name": f"proj_{2 * i}"}
            x = Conv(self.features >> (2 - i), size, stride, **options)(x)
        return x


class CrossBlock(Layer):
    """Blocks of both branches; then each class token looks at the other branch's patches.

    Parameters are named as those of timm's ``MultiScaleBlock``.

    Attributes:
      layers: the number of blocks of each branch.
      heads: the number of heads of each.
      mlp_ratios: the hidden units of its MLPs, as a multiple of the tokens' width.
      rates: of stochastic depth, of each number of a block; the last is that of the visits, too.
      activation: by name or callable.
      qkv_bias: whether queries, keys and values have biases.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      attention_dropout: the rate at which attention's weights are dropped.
      block_dropout: the rate at which the units of attention and MLP are dropped.
      implementation: of the blocks' attention (``flaxzoo.layers.attention.attend``).
    """

    layers: Sequence[int]
    heads: Sequence[int]
    mlp_ratios: Sequence[float] = (4.0, 4.0)
    rates: Sequence[float] = (0.0,)
    activation: Any = "gelu"
    qkv_bias: bool = True
    norm: Any = "layer"
    norm_epsilon: float | None = None
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    implementation: str = "einsum"

    @nn.compact
    def __call__(self, x: Tokens, train: bool = False) -> Tokens:
        """Maps the tokens of both branches, ``[B, 1 + N, C]`` each, to the same shapes."""
        own = list(x)
        for b, count in enumerate(self.layers):
            for i in range(count):
                own[b] = self.block(b, i)(own[b], train)
        outputs = []
        for b, tokens in enumerate(own):
            other = own[1 - b]
            visitor = self.project(tokens[:, :1], f"projs_{b}", other.shape[-1])
            visitor = self.visit(visitor, other[:, 1:], b, train)
            token = self.project(visitor, f"revert_projs_{b}", tokens.shape[-1])
            outputs.append(jnp.concatenate([token, tokens[:, 1:]], axis=1))
        return outputs[0], outputs[1]

    @nn.nowrap
    def block(self, branch: int, number: int) -> TransformerBlock:
        """Makes a block of a branch."""
        own = (
            *("activation", "qkv_bias", "norm", "norm_epsilon", "attention_dropout"),
            *("block_dropout", "implementation", "dtype", "param_dtype"),
        )
        return TransformerBlock(
            self.heads[branch],
            self.mlp_ratios[branch],
            drop_path=self.rates[number],
            name=f"blocks_{branch}_{number}",
            **{field: getattr(self, field) for field in own},
        )

    def project(self, x: jax.Array, name: str, features: int) -> jax.Array:
        """Gives a class token the width of the other branch: a norm, an activation and a layer."""
        options: dict[str, Any] = {"kernel_init": Normal(0.02), "bias_init": zeros, **self.dtypes}
        x = make_norm(self.norm, f"{name}_0", epsilon=self.norm_epsilon, **self.dtypes)(x)
        return Dense(features, name=f"{name}_2", **options)(as_activation(self.activation)(x))

    def visit(self, token: jax.Array, patches: jax.Array, branch: int, train: bool) -> jax.Array:
        """Lets a class token ``[B, 1, C]`` look at patches ``[B, N, C]``."""
        fields: dict[str, Any] = {"dropout": self.block_dropout, "drop_path": self.rates[-1]}
        fields |= {"norm": self.norm, "norm_epsilon": self.norm_epsilon, **self.dtypes}
        fields |= {"qkv_bias": self.qkv_bias, "attention_dropout": self.attention_dropout}
        visit = Visit(self.heads[1 - branch], name=f"fusion_{branch}", **fields)
        return visit(jnp.concatenate([token, patches], axis=1), train)


class Visit(Layer):
    """A norm and the attention of the first token to all, which is added to it.

    Parameters are named as those of timm's ``CrossAttentionBlock``.

    Attributes:
      heads: the number of heads.
      qkv_bias: whether queries, keys and values have biases.
      norm: the kind of the norm, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon; None for its own.
      attention_dropout: the rate at which attention's weights are dropped.
      dropout: the rate at which outputs are dropped.
      drop_path: the rate at which what is found is dropped for a whole example.
    """

    heads: int
    qkv_bias: bool = True
    norm: Any = "layer"
    norm_epsilon: float | None = None
    attention_dropout: float = 0.0
    dropout: float = 0.0
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens ``[B, 1 + N, C]`` to the first one, ``[B, 1, C]``."""
        fields = {
            "attention_dropout": self.attention_dropout,
            "dropout": self.dropout,
            **self.dtypes,
        }
        y = make_norm(self.norm, "norm1", epsilon=self.norm_epsilon, **self.dtypes)(x)
        y = ClassAttention(self.heads, self.qkv_bias, name="attn", **fields)(y, train)
        return x[:, :1] + DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)


class CrossVit(Backbone):
    """A CrossViT without its classifiers: patches of two sizes, blocks, the last norms.

    It maps images ``[B, H, W, C]`` to the class tokens of both branches side by side, ``[B, C0 +
    C1]``. Maps are the patches of each branch behind each block, before the last norms: those of
    the first branch, then those of the second.

    Attributes:
      input_shape: ``[H, W, C]`` of the images that the positions are for.
      scales: of the images of each branch: the second sees them smaller, resized bicubically.
      patch_sizes: height and width of a patch, in each branch.
      conv_patches: whether three convolutions make a token of a patch, of 12 x 12 or 16 x 16.
      layers: for each block how many blocks of its own each branch has there.
      widths: of a token, in each branch.
      heads: the number of heads of each block, in each branch.
      mlp_ratios: the hidden units of each MLP, as a multiple of the width, in each branch.
      branch_pooling: ``"token"``, or ``"avg"`` for the mean of each branch's patches in its token's
        place. (``pooling`` is the head's, which gets vectors.)
      activation: by name or callable.
      qkv_bias: whether queries, keys and values have biases.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      position_dropout: rate at which units are dropped before the blocks.
      attention_dropout: rate at which attention's weights are dropped.
      block_dropout: rate at which the units of attention and MLP are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention within a branch (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (240, 240, 3)
    scales: Sequence[float] = (1.0, 224 / 240)
    patch_sizes: Sequence[int] = (12, 16)
    conv_patches: bool = False
    layers: Sequence[Sequence[int]] = ((1, 4), (1, 4), (1, 4))
    widths: Sequence[int] = (192, 384)
    heads: Sequence[int] = (6, 6)
    mlp_ratios: Sequence[float] = (4.0, 4.0)
    branch_pooling: str = "token"
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    qkv_bias: bool = True
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    position_dropout: float = 0.0
    attention_dropout: float = 0.0
    block_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @nn.nowrap
    def size(self, branch: int, shape: Sequence[int]) -> Grid:
        """The height and width that images ``[H, W, ...]`` have in a branch."""
        height, width = (int(n * self.scales[branch]) for n in shape[:2])
        return height, width

    @nn.nowrap
    def grid(self, branch: int, shape: Sequence[int]) -> Grid:
        """The rows and columns of a branch's patches of images ``[H, W, ...]``."""
        rows, columns = (n // self.patch_sizes[branch] for n in self.size(branch, shape))
        return rows, columns

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The patches, the blocks ``blocks_0`` and so on, and the last norms."""
        names = ("patch_embed", "cls_token", "pos_embed")
        owns = tuple(f"{name}_{branch}" for name in names for branch in range(2))
        yield Part("embed", self._embed, owns=owns, takes="images")
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        rates = drop_path_rates(self.drop_path, sum(map(max, self.layers)))
        for i, layers in enumerate(self.layers):
            block = functools.partial(CrossBlock, layers, rates=rates[: max(layers)], **fields)
            rates = rates[max(layers) :]
            options: dict[str, Any] = {"remat": self.remat, "takes": None}
            yield self._mapped(i, 0, block, **options)
            yield self._mapped(i, 1, _unchanged, owns=(), **options)
        norms = ("norm_0", "norm_1")
        last = f"blocks_{len(self.layers) - 1}"
        yield Part("norm", self._norm, owns=norms, takes=None, depth=last)

    @nn.nowrap
    def _mapped(self, number: int, branch: int, run: Any, **options: Any) -> Part:
        """A part behind which the map of a branch is complete."""
        rows, columns = self.grid(branch, self.input_shape)
        view = functools.partial(_map_of, branch, rows, columns)
        name, reduction = f"blocks_{number}", self.patch_sizes[branch] / self.scales[branch]
        options |= {"map": f"{name}_branch_{branch}", "reduction": round(reduction), "view": view}
        return Part(name, run, **options)

    @nn.nowrap
    def reductions(self) -> dict[str, int | None]:
        """The names of the feature maps, those of the first branch first, and their reductions."""
        both = list(super().reductions().items())
        return dict(both[::2] + both[1::2])

    def run_stages(self, x: Any, *args: Any, **options: Any) -> Any:
        """Computes stages as ``Backbone.run_stages``; maps come branch by branch."""
        out = super().run_stages(x, *args, **options)
        if not isinstance(out, OrderedDict):
            return out
        return OrderedDict((name, out[name]) for name in self.reductions() if name in out)

    def _embed(self, x: jax.Array, train: bool) -> Tokens:
        check_image_size(x, self.input_shape)
        first, second = (self._branch(branch, x, train) for branch in range(2))
        return first, second

    def _branch(self, branch: int, x: jax.Array, train: bool) -> jax.Array:
        """Returns the tokens of images, in one of the branches."""
        (rows, columns), side = self.grid(branch, self.input_shape), self.patch_sizes[branch]
        # What is no whole patch is not seen.
        x = resized(x, self.size(branch, x.shape[1:3]))[:, : rows * side, : columns * side]
        width, options = self.widths[branch], {"name": f"patch_embed_{branch}", **self.dtypes}
        if self.conv_patches:
            x = ConvPatchEmbed(width, side, **options)(x)
        else:
            x = PatchEmbed(width, side, **options)(x, train)
        x = x.reshape(x.shape[0], rows * columns, width)
        token = learnt_tokens(
            self, f"cls_token_{branch}", 1, x, init=Normal(0.02), param_dtype=self.param_dtype
        )
        grid, name = (rows, columns), f"pos_embed_{branch}"
        positions = learnt_positions(
            self, grid, width, prefix=1, old_grid=grid, name=name, dtype=self.param_dtype
        )
        x = jnp.concatenate([token, x], axis=1) + positions.astype(x.dtype)
        drop = nn.Dropout(self.position_dropout, name=f"pos_drop_{branch}")
        return drop(x, deterministic=not train)

    def _norm(self, x: Tokens, _train: bool) -> jax.Array:
        pooled = []
        for branch, tokens in enumerate(x):
            name, options = f"norm_{branch}", {"epsilon": self.norm_epsilon, **self.dtypes}
            tokens = make_norm(self.norm, name, **options)(tokens)
            pooled.append(tokens[:, 0] if self.branch_pooling == "token" else tokens[:, 1:].mean(1))
        return jnp.concatenate(pooled, axis=-1)

    @nn.nowrap
    def pooling_options(self) -> dict[str, Any]:
        """The fields of a ``Head``: what it gets is pooled already."""
        return {"pooling": None}

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers, one for each branch."""
        return {**self.pooling_options(), "split": self.widths[0], "kernel_init": Normal(0.02)}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed."""
        return ("pos_embed_*", "cls_token_*")

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        for name in ("scales", "patch_sizes", "widths", "heads", "mlp_ratios"):
            if len(getattr(self, name)) != 2:
                raise ArgumentError(f"{name} must be two, got {getattr(self, name)!r}")
        for name in ("patch_sizes", "widths", "heads"):
            check_widths(name, getattr(self, name))
        for scale in self.scales:
            check_number("scales", scale, above=0)
        if not self.layers or any(len(counts) != 2 for counts in self.layers):
            raise ArgumentError(f"layers must be pairs, one at least, got {self.layers!r}")
        for counts in self.layers:
            check_widths("layers", counts)
        check_heads(self.widths, self.heads)
        check_choice("branch_pooling", self.branch_pooling, ("token", "avg"))
        if self.conv_patches and not set(self.patch_sizes) <= set(_STEMS):
            raise ArgumentError(
                f"conv_patches=True takes patch_sizes of 12 and 16, got {tuple(self.patch_sizes)}"
            )
        grids = [self.grid(branch, self.input_shape) for branch in range(2)]
        if len(self.input_shape) != 3 or not all(math.prod(grid) for grid in grids):
            raise ArgumentError(
                "input_shape must be (height, width, channels), of at least one patch of each of "
                f"{tuple(self.patch_sizes)}, got {self.input_shape}"
            )
        block = next(part for part in self.parts() if part.map).run(parent=None)
        for branch in range(2):
            block.block(branch, 0).clone(parent=None).check_fields()


def _map_of(branch: int, rows: int, columns: int, x: Tokens) -> jax.Array:
    return tokens_to_map(x[branch], rows, columns, prefix=1)


def _unchanged(x: Tokens, _train: bool) -> Tokens:
    return x


def resized(x: jax.Array, size: Grid) -> jax.Array:
    """Images ``[B, H, W, C]`` of another height and width: bicubic, as PyTorch's plain resize.

    The sums are float32 at least, and float32 in full.
    """
    if tuple(x.shape[1:3]) == tuple(size):
        return x
    wide = jnp.promote_types(x.dtype, jnp.float32)
    options: dict[str, Any] = {"precision": jax.lax.Precision.HIGHEST}
    rows, columns = (
        jnp.asarray(resize_weights("cubic")(old, new), wide)
        for old, new in zip(x.shape[1:3], size, strict=True)
    )
    y = jnp.einsum("hg,bgwc->bhwc", rows, x.astype(wide), **options)
    return jnp.einsum("wv,bhvc->bhwc", columns, y, **options).astype(x.dtype)


def _resize(branch: int, positions: Any, _shape: Any, backbone: Any, old: Any, new: Any) -> Any:
    """Positions for images of another size; see ``flaxzoo.models.reference.Resize``."""
    old_grid = None if old is None else backbone.grid(branch, old)
    if old_grid is not None and math.prod(old_grid) != positions.shape[1] - 1:
        old_grid = None
    return resample_positions(positions, backbone.grid(branch, new), prefix=1, old_grid=old_grid)


def _convert(tensors: Mapping[str, Any], _backbone: Any) -> Mapping[str, Any]:
    """Today's names for the tensors of the authors' files, whose parameters are in lists."""

    def name(key: str) -> str:
        listed = "pos_embed" in key or "cls_token" in key
        return key.replace(".", "_") if listed else key

    return {name(key): tensor for key, tensor in tensors.items()}


_T: dict[str, Any] = {"widths": (96, 192), "heads": (3, 3)}
_B: dict[str, Any] = {"widths": (384, 768), "heads": (12, 12)}
_RATIOS: dict[str, Any] = {"mlp_ratios": (3.0, 3.0)}
_9: dict[str, Any] = {"layers": ((1, 3),) * 3, "widths": (128, 256), "heads": (4, 4), **_RATIOS}
_15: dict[str, Any] = {"layers": ((1, 5),) * 3, **_RATIOS}
_18: dict[str, Any] = {"layers": ((1, 6),) * 3, "widths": (224, 448), "heads": (7, 7), **_RATIOS}
_DAGGER: dict[str, Any] = {"conv_patches": True}
_408: dict[str, Any] = {"input_shape": (408, 408, 3), "scales": (1.0, 384 / 408), **_DAGGER}

variants(
    CrossVit,
    {
        "crossvit_tiny_240": row("CrossViT-Ti", **_T),
        "crossvit_small_240": row("CrossViT-S"),
        "crossvit_base_240": row("CrossViT-B", **_B),
        "crossvit_9_240": row("CrossViT-9", **_9),
        "crossvit_15_240": row("CrossViT-15", **_15),
        "crossvit_18_240": row("CrossViT-18", **_18),
        "crossvit_9_dagger_240": row("CrossViT-9, convolutions for patches", **_9, **_DAGGER),
        "crossvit_15_dagger_240": row("CrossViT-15, convolutions for patches", **_15, **_DAGGER),
        "crossvit_15_dagger_408": row("CrossViT-15, convolutions for patches", **_15, **_408),
        "crossvit_18_dagger_240": row("CrossViT-18, convolutions for patches", **_18, **_DAGGER),
        "crossvit_18_dagger_408": row("CrossViT-18, convolutions for patches", **_18, **_408),
    },
    paper="https://arxiv.org/abs/2103.14899",
    input_shape=(240, 240, 3),
    reference=Reference(
        stem=tuple(f"patch_embed_{branch}/{n}" for branch in range(2) for n in ("proj", "proj_0")),
        classifier="head.0",
        head=(("fc_dist", "head.1"),),
        renamed=((r"attn/([qkv])", r"attn.w\1"),),
        convert=_convert,
        resized=tuple(
            (f"params/backbone/pos_embed_{branch}", functools.partial(_resize, branch))
            for branch in range(2)
        ),
    ),
)
