"""DLA: deep layer aggregation, blocks in trees whose roots see the maps of all branches.

A stage is a binary tree of blocks. Two blocks and a root, a convolution of each pixel over both
and over what came before, make the smallest; larger ones are trees of trees. Names and numbers are
those of timm's ``dla`` module.

The number is the depth; ``c`` is narrow, ``x`` has convolutions in groups, ``res2net`` and
``res2next`` blocks that split their channels and see them at several scales.

References:
  DLA: https://arxiv.org/abs/1707.06484
  Res2Net: https://arxiv.org/abs/1904.01169
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_choice, check_lengths, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.initializers import HeNormal, plain_bias
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import normalise_and_activate
from flaxzoo.layers.pool import avg_pool, max_pool
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# Where timm's class takes the depths of the trees.
CUT = {"layers": "levels"}
# What the output of a branch is, and the maps that the stage's root sees besides.
Branch = tuple[jax.Array, tuple[jax.Array, ...]]


class DlaBlock(Layer):
    """Two 3 x 3 convolutions, and a shortcut that may be another map than the block's input.

    Attributes:
      features: the output's channels.
      stride: by which the block reduces the image.
      groups: of the 3 x 3 convolutions, where a block has one of 1 x 1 before.
      base_width: channels of a group, per 64 of ``features``.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      activation: by name or callable.
    """

    features: int
    stride: int = 1
    groups: int = 1
    base_width: int = 64
    norm: Any = "batch"
    activation: Any = "relu"

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, shortcut: jax.Array | None = None
    ) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``.

        Args:
          x: the maps.
          train: whether a BatchNorm uses the batch's statistics.
          shortcut: what is added, in the shape of the output; None for ``x``.
        """
        y = self.branch(x, train)
        return as_activation(self.activation)(y + (x if shortcut is None else shortcut))

    def branch(self, x: jax.Array, train: bool) -> jax.Array:
        """What is added to the shortcut."""
        x = self.active(self.conv(x, self.features, "conv1", "bn1", train, 3, self.stride))
        return self.conv(x, self.features, "conv2", "bn2", train, 3)

    def conv(
        self,
        x: jax.Array,
        features: int,
        name: str,
        norm: str,
        train: bool,
        size: int = 1,
        stride: int = 1,
        groups: int = 1,
    ) -> jax.Array:
        """A convolution and the norm behind it."""
        x = Conv(features, size, stride, groups=groups, name=name, **self.dtypes)(x)
        return normalise_and_activate(self.norm, norm, x, None, train=train, **self.dtypes)

    def active(self, x: jax.Array) -> jax.Array:
        """The activation."""
        return as_activation(self.activation)(x)

    @property
    def inner(self) -> int:
        """The channels of a bottleneck's 3 x 3 convolution, or of each of its scales."""
        return int(self.features * (self.base_width / 64)) * self.groups // 2


class DlaBottleneck(DlaBlock):
    """1 x 1, 3 x 3 and 1 x 1 convolutions, in groups in the middle (DLA-X)."""

    def branch(self, x: jax.Array, train: bool) -> jax.Array:
        """What is added to the shortcut."""
        over_image = (train, 3, self.stride, self.groups)
        x = self.active(self.conv(x, self.inner, "conv1", "bn1", train))
        x = self.active(self.conv(x, self.inner, "conv2", "bn2", *over_image))
        return self.conv(x, self.features, "conv3", "bn3", train)


class DlaBottle2neck(DlaBlock):
    """A bottleneck whose channels are split in four, of which three see the image, one by one.

    Each sees what the one before made, too, but where the block reduces the image. Gao et al. 2019
    (Res2Net), https://arxiv.org/abs/1904.01169, figure 2b.
    """

    def branch(self, x: jax.Array, train: bool) -> jax.Array:
        """What is added to the shortcut."""
        over_image = (train, 3, self.stride, self.groups)
        x = self.active(self.conv(x, self.inner * _SCALES, "conv1", "bn1", train))
        *shares, rest = jnp.split(x, _SCALES, -1)
        maps: list[jax.Array] = []
        for i, share in enumerate(shares):
            y = share + maps[-1] if i and self.stride == 1 else share
            y = self.conv(y, self.inner, f"convs_{i}", f"bns_{i}", *over_image)
            maps.append(self.active(y))
        maps.append(avg_pool(rest, 3, self.stride, 1) if self.stride > 1 else rest)
        return self.conv(jnp.concatenate(maps, -1), self.features, "conv3", "bn3", train)


_SCALES = 4
_BLOCKS: dict[str, type[DlaBlock]] = {
    "basic": DlaBlock,
    "bottleneck": DlaBottleneck,
    "res2net": DlaBottle2neck,
}


class DlaTree(Layer):
    """Two branches, each a block or a tree, and a root over both (Yu et al. 2018, figure 3).

    Attributes:
      levels: depth of the tree: of one, the branches are blocks.
      block: what makes a block, called with its channels, its stride and a name.
      features: the output's channels.
      stride: by which the first branch reduces the image.
      keeps_input: whether the root sees the input, too.
      root_shortcut: whether the second branch is added to the root.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      activation: by name or callable.
    """

    levels: int
    block: Any
    features: int
    stride: int = 1
    keeps_input: bool = False
    root_shortcut: bool = False
    norm: Any = "batch"
    activation: Any = "relu"

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, others: tuple[jax.Array, ...] = ()
    ) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``.

        Args:
          x: the maps.
          train: whether a BatchNorm uses the batch's statistics.
          others: maps of the output's size that the root sees besides.
        """
        return second_branch(self, first_branch(self, x, train, others), train)

    @nn.nowrap
    def below(self, stride: int, name: str) -> DlaTree:
        """Makes a tree of one level less."""
        own = ("block", "features", "root_shortcut", "norm", "activation", "dtype", "param_dtype")
        fields = {field: getattr(self, field) for field in own}
        return DlaTree(self.levels - 1, stride=stride, name=name, **fields)


def first_branch(
    tree: DlaTree, x: jax.Array, train: bool, others: tuple[jax.Array, ...] = (), prefix: str = ""
) -> Branch:
    """Computes a tree's first branch among the submodules of the module that calls it.

    Args:
      tree: whose fields are taken.
      x: the maps.
      train: as in a call.
      others: maps that the root sees besides.
      prefix: of the submodules' names.

    Raises:
      ShapeError: the tree halves an image of an odd side.
    """
    bottom = x
    if tree.stride > 1:
        if any(side % tree.stride for side in x.shape[1:3]):
            raise ShapeError(
                f"maps of {x.shape[1]} x {x.shape[2]} can't be halved: the height and width of "
                "images must be multiples of 32"
            )
        bottom = max_pool(x, tree.stride, tree.stride, 0)
    others = (*others, bottom) if tree.keeps_input else others
    if tree.levels > 1:
        x = tree.below(tree.stride, f"{prefix}tree1")(x, train)
        return x, (*others, x)
    if bottom.shape[-1] != tree.features:
        dtypes = {"dtype": tree.dtype, "param_dtype": tree.param_dtype}
        bottom = Conv(tree.features, 1, name=f"{prefix}project_0", **dtypes)(bottom)
        name = f"{prefix}project_1"
        bottom = normalise_and_activate(tree.norm, name, bottom, None, train=train, **dtypes)
    block = tree.block(features=tree.features, stride=tree.stride, name=f"{prefix}tree1")
    return block(x, train, bottom), others


def second_branch(tree: DlaTree, branch: Branch, train: bool, prefix: str = "") -> jax.Array:
    """Computes a tree's second branch, and its root; the arguments are those of the first."""
    x, others = branch
    if tree.levels > 1:
        return tree.below(1, f"{prefix}tree2")(x, train, others)
    y = tree.block(features=tree.features, name=f"{prefix}tree2")(x, train)
    options: dict[str, Any] = {"kernel_init": HeNormal(), "name": f"{prefix}root"}
    options |= {"norm": tree.norm, "dtype": tree.dtype, "param_dtype": tree.param_dtype}
    root = ConvNorm(tree.features, **options)(jnp.concatenate([y, x, *others], -1), train)
    return as_activation(tree.activation)(root + y if tree.root_shortcut else root)


class DLA(Backbone):
    """A network of deep layer aggregation without its classifier.

    It maps images ``[B, H, W, C]``, whose sides are multiples of 32, to the last map ``[B, H / 32,
    W / 32, widths[-1]]``. The first maps are as large as the image, and half as large.

    Attributes:
      layers: number of convolutions of the first two stages, and depths of the trees of the others.
      widths: channels of the stages.
      block: ``"basic"``, ``"bottleneck"`` or ``"res2net"``.
      groups: of the 3 x 3 convolutions of bottlenecks.
      base_width: channels of a group, per 64 of a stage's width.
      root_shortcut: whether a tree's second branch is added to its root.
      activation: by name or callable.
      norm: by name or module (``flaxzoo.layers.norm``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (1, 1, 1, 2, 2, 1)
    widths: Sequence[int] = (16, 32, 64, 128, 256, 512)
    block: str = "bottleneck"
    groups: int = 1
    base_width: int = 64
    root_shortcut: bool = False
    activation: Any = "relu"
    norm: Any = "batch"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, two stages of convolutions, and the two branches of each tree."""
        stem = functools.partial(self._convs, "base_layer", self.widths[0], 1, 7, 1)
        yield Part("base_layer", stem, ("base_layer_0", "base_layer_1"), takes="images")
        for i in (0, 1):
            name, count = f"level{i}", self.layers[i]
            run = functools.partial(self._convs, name, self.widths[i], count, 3, 1 + i)
            owns = tuple(f"{name}_{3 * j + k}" for j in range(count) for k in (0, 1))
            yield Part(name, run, owns, map=name, reduction=1 + i)
        for i in range(2, len(self.layers)):
            name = f"level{i}"
            first, second = (
                functools.partial(run, i) for run in (self._first_branch, self._second_branch)
            )
            is_small, changes = self.layers[i] == 1, self.widths[i - 1] != self.widths[i]
            owns = (f"{name}_tree1",)
            if is_small and changes:
                owns += (f"{name}_project_0", f"{name}_project_1")
            yield Part(f"{name}_tree1", first, owns)
            owns = (f"{name}_tree2", *([f"{name}_root"] if is_small else []))
            options: dict[str, Any] = {"map": name, "reduction": 2**i, "takes": None}
            yield Part(f"{name}_tree2", second, owns, **options)

    def _convs(
        self,
        name: str,
        width: int,
        count: int,
        size: int,
        stride: int,
        x: jax.Array,
        train: bool,
    ) -> jax.Array:
        """Computes convolutions in a row, the first of which may be strided."""
        act = as_activation(self.activation)
        for i in range(count):
            own = 1 if i else stride
            x = Conv(width, size, own, name=f"{name}_{3 * i}", **self.dtypes)(x)
            norm = f"{name}_{3 * i + 1}"
            x = normalise_and_activate(self.norm, norm, x, act, train=train, **self.dtypes)
        return x

    def _first_branch(self, level: int, x: jax.Array, train: bool) -> Branch:
        return first_branch(self._tree(level), x, train, prefix=f"level{level}_")

    def _second_branch(self, level: int, x: Branch, train: bool) -> jax.Array:
        return second_branch(self._tree(level), x, train, f"level{level}_")

    @nn.nowrap
    def _tree(self, level: int) -> DlaTree:
        """Returns the fields of a stage's tree, as a module of no parent."""
        own = {"norm": self.norm, "activation": self.activation, **self.dtypes}
        kind = self.stored(_BLOCKS[self.block], self.remat)
        block = functools.partial(kind, groups=self.groups, base_width=self.base_width, **own)
        return DlaTree(
            self.layers[level],
            block,
            self.widths[level],
            2,
            keeps_input=level > 2,
            root_shortcut=self.root_shortcut,
            parent=None,
            **own,
        )

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Averages the last map."""
        return {**super().head_options(), "kernel_init": HeNormal(), "bias_init": plain_bias}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        for name in ("layers", "widths"):
            check_widths(name, getattr(self, name))
        check_lengths(layers=self.layers, widths=self.widths)
        if len(self.layers) < 3:
            raise ArgumentError(f"layers must be of three stages at least, got {self.layers!r}")
        check_choice("block", self.block, tuple(_BLOCKS))
        for name in ("groups", "base_width"):
            check_size(name, getattr(self, name))


_34, _60, _102 = (1, 1, 1, 2, 2, 1), (1, 1, 1, 2, 3, 1), (1, 1, 1, 3, 4, 1)
_NARROW: dict[str, Any] = {"widths": (16, 32, 64, 64, 128, 256)}
_WIDE: dict[str, Any] = {"widths": (16, 32, 128, 256, 512, 1024)}
_X: dict[str, Any] = {"groups": 32, "base_width": 4}
_X2: dict[str, Any] = {"groups": 64, "base_width": 4}
_ROOT: dict[str, Any] = {"root_shortcut": True, **_WIDE}
REFERENCE = Reference(
    stem=("base_layer_0",),
    classifier="fc",
    renamed=(
        (r"(level\d)_(tree[12]|root)", r"\1.\2"),
        (r"(level\d)_project_([01])", r"\1.project.\2"),
    ),
    layouts=(("params/head/fc/kernel", "pointwise"),),
    # The authors' trees of trees have projections that nothing uses.
    ignored=("*.num_batches_tracked", "*.project.*"),
)

variants(
    DLA,
    {
        "dla34": row("DLA-34", layers=_34, block="basic"),
        "dla46_c": row("DLA-46-C", layers=_34, **_NARROW),
        "dla46x_c": row("DLA-X-46-C", layers=_34, **_NARROW, **_X),
        "dla60x_c": row("DLA-X-60-C", layers=_60, **_NARROW, **_X),
        "dla60": row("DLA-60", layers=_60, **_WIDE),
        "dla60x": row("DLA-X-60", layers=_60, **_WIDE, **_X),
        "dla102": row("DLA-102", layers=_102, **_ROOT),
        "dla102x": row("DLA-X-102", layers=_102, **_ROOT, **_X),
        "dla102x2": row("DLA-X-102 of twice as many groups", layers=_102, **_ROOT, **_X2),
        "dla169": row("DLA-169", layers=(1, 1, 2, 3, 5, 1), **_ROOT),
    },
    paper="https://arxiv.org/abs/1707.06484",
    reference=REFERENCE,
)
variants(
    DLA,
    {
        "dla60_res2net": row(
            "DLA-60 of Res2Net's blocks", layers=_60, block="res2net", base_width=28, **_WIDE
        ),
        "dla60_res2next": row(
            "DLA-60 of Res2NeXt's blocks",
            layers=_60,
            block="res2net",
            groups=8,
            base_width=4,
            **_WIDE,
        ),
    },
    paper="https://arxiv.org/abs/1904.01169",
    reference=REFERENCE,
)
