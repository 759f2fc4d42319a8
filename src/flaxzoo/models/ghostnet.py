"""GhostNet: half of each layer's channels are made of the other half by depthwise convolutions.

V2 scales the wider half of each block by attention along rows and columns. V3 trains sums of
convolutions, each behind a BatchNorm, of which ``Model.reparameterize`` makes one. The number
behind the version is the width in percent. Names and numbers are those of timm's ``ghostnet``
module.

References:
  GhostNet: https://arxiv.org/abs/1911.11907
  GhostNet V2: https://arxiv.org/abs/2211.12905
  GhostNet V3: https://arxiv.org/abs/2404.11202
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_kernel, check_number, check_size
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.gates import SqueezeExcite
from flaxzoo.layers.initializers import PLAIN, FanIn, plain_bias
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import as_norm, call_norm, make_norm
from flaxzoo.layers.pool import avg_pool
from flaxzoo.layers.reparameterized import Affine, Reparameterized, Variables, of_submodule
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.mobile_backbone import RENAMED, round_width
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What blocks get from the network as it is.
_PASSED_ON = ("branches", "activation", "norm", "norm_epsilon", "dtype", "param_dtype", "fused")
# What sums of branches are called in the form of inference.
_SUMS = {"primary": "primary_conv_0", "cheap": "cheap_operation_0", "dw": "conv_dw"}
# Of each block the kernel's size, the channels inside and of its output, the part of the former
# that its gate has, 0 for none, and the stride.
_BLOCKS = (
    ((3, 16, 16, 0, 1),),
    ((3, 48, 24, 0, 2),),
    ((3, 72, 24, 0, 1),),
    ((5, 72, 40, 0.25, 2),),
    ((5, 120, 40, 0.25, 1),),
    ((3, 240, 80, 0, 2),),
    (
        (3, 200, 80, 0, 1),
        (3, 184, 80, 0, 1),
        (3, 184, 80, 0, 1),
        (3, 480, 112, 0.25, 1),
        (3, 672, 112, 0.25, 1),
    ),
    ((5, 672, 160, 0.25, 2),),
    (
        (5, 960, 160, 0, 1),
        (5, 960, 160, 0.25, 1),
        (5, 960, 160, 0, 1),
        (5, 960, 160, 0.25, 1),
    ),
)


class GhostLayers(Layer):
    """What modules of GhostNets share: convolutions with norms behind them, and sums of such.

    Attributes:
      branches: how many convolutions of one size are summed in place of one; 0 for none of this.
      activation: by name or callable.
      norm: by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon; None for its own.
      fused: whether each sum is one convolution, the form of inference.
    """

    branches: int = 0
    activation: str | Callable[[jax.Array], jax.Array] | None = "relu"
    norm: Any = "batch"
    norm_epsilon: float | None = None
    fused: bool = False

    def activate(self, x: jax.Array) -> jax.Array:
        """Applies the activation, where there is one."""
        return x if self.activation is None else as_activation(self.activation)(x)

    def normalise(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Applies the norm ``name``."""
        norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    def conv_norm(
        self, x: jax.Array, features: int, names: tuple[str, str], train: bool, **options: Any
    ) -> jax.Array:
        """Applies a convolution of these fields and the norm behind it."""
        options = {"kernel_size": 1, "kernel_init": FanIn(), **options, **self.dtypes}
        return self.normalise(Conv(features, name=names[0], **options)(x), names[1], train)

    def summed(
        self,
        x: jax.Array,
        features: int,
        name: str,
        train: bool,
        skip: bool = False,
        **options: Any,
    ) -> jax.Array:
        """Sums convolutions of these fields, one of 1 x 1 if depthwise, and perhaps the input.

        Each stands before a norm of its own.
        """
        if self.fused:
            own = {"kernel_size": 1, "kernel_init": FanIn(), "use_bias": True, **options}
            return Conv(features, name=_SUMS[name], **own, **self.dtypes)(x)
        norm: dict[str, Any] = {"norm": self.norm, "norm_epsilon": self.norm_epsilon, **self.dtypes}
        conv = functools.partial(ConvNorm, features, names=("conv", "bn1"), **{**options, **norm})
        branches = [self.normalise(x, f"{name}_rpr_skip", train)] if skip else []
        if "groups" in options:
            branches.append(conv(kernel_size=1, name=f"{name}_rpr_scale")(x, train))
        for i in range(self.branches):
            branches.append(conv(name=f"{name}_rpr_conv_{i}")(x, train))
        return functools.reduce(jnp.add, branches)


class GhostModule(GhostLayers, kw_only=True):
    """A layer on each pixel for half of the channels, a depthwise convolution for the others.

    Han et al. 2020, https://arxiv.org/abs/1911.11907. Parameters are named as timm's
    ``GhostModule``, ``GhostModuleV2`` and ``GhostModuleV3``.

    Attributes:
      features: the channels of the output.
      attention: whether they are scaled by what is learnt from half the pixels, along columns and
        then along rows ("DFC attention", Tang et al. 2022, https://arxiv.org/abs/2211.12905).
    """

    features: int
    attention: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, features]``.

        Raises:
          ShapeError: there is attention, and the map has a side of one pixel.
        """
        half = -(-self.features // 2)
        first = self.activate(self._primary(x, half, train))
        second = self.activate(self._cheap(first, half, train))
        y = jnp.concatenate([first, second], -1)[..., : self.features]
        return y * self._gates(x, train) if self.attention else y

    def _primary(self, x: jax.Array, width: int, train: bool) -> jax.Array:
        if self.branches:
            return self.summed(x, width, "primary", train)
        return self.conv_norm(x, width, ("primary_conv_0", "primary_conv_1"), train)

    def _cheap(self, x: jax.Array, width: int, train: bool) -> jax.Array:
        options: dict[str, Any] = {"kernel_size": 3, "groups": width}
        if self.branches:
            return self.summed(x, width, "cheap", train, skip=True, **options)
        names = ("cheap_operation_0", "cheap_operation_1")
        return self.conv_norm(x, width, names, train, **options)

    def _gates(self, x: jax.Array, train: bool) -> jax.Array:
        size = (x.shape[1], x.shape[2])
        if min(size) < 2:
            raise ShapeError(
                f"attention takes maps of at least 2 x 2 pixels, got {size[0]} x {size[1]}: give "
                "larger images, or attention=False"
            )
        gates = avg_pool(x, 2, 2)
        gates = self.conv_norm(gates, self.features, ("short_conv_0", "short_conv_1"), train)
        for i, size_of_line in ((2, (1, 5)), (4, (5, 1))):
            names = (f"short_conv_{i}", f"short_conv_{i + 1}")
            options: dict[str, Any] = {"kernel_size": size_of_line, "groups": self.features}
            gates = self.conv_norm(gates, self.features, names, train, **options)
        return _doubled(nn.sigmoid(gates), size)


def _doubled(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Repeats pixels to a map of twice the size or one pixel more, which is the first again."""
    for axis, length in zip((1, 2), size, strict=True):
        first = jax.lax.slice_in_dim(x, 0, 1, axis=axis)
        x = jnp.repeat(x, 2, axis)
        if x.shape[axis] < length:
            x = jnp.concatenate([first, x], axis)
    return x


class GhostBottleneck(GhostLayers, Reparameterized, kw_only=True):
    """A wide ghost module, a depthwise convolution where the map is halved, a narrow one.

    Attributes:
      features: the channels of the output.
      hidden: the channels inside.
      kernel_size: of the depthwise convolution, and of that of the shortcut.
      stride: by how much maps shrink.
      squeeze: the width inside the gate; 0 for no gate.
      attention: whether the wide module has attention.
    """

    features: int
    hidden: int
    kernel_size: int = 3
    stride: int = 1
    squeeze: int = 0
    attention: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        ghost = functools.partial(
            GhostModule,
            branches=self.branches,
            fused=self.fused,
            norm=self.norm,
            norm_epsilon=self.norm_epsilon,
            **self.dtypes,
        )
        wide: dict[str, Any] = {"attention": self.attention, "activation": self.activation}
        y = ghost(features=self.hidden, name="ghost1", **wide)(x, train)
        if self.stride > 1:
            y = self._strided(y, train)
        if self.squeeze:
            gate: dict[str, Any] = {"gate_activation": "hard_sigmoid", **PLAIN}
            y = SqueezeExcite(width=self.squeeze, name="se", **gate, **self.dtypes)(y)
        y = ghost(features=self.features, activation=None, name="ghost2")(y, train)
        return y + self._shortcut(x, train)

    @nn.nowrap
    def _options(self, width: int) -> dict[str, Any]:
        return {"kernel_size": self.kernel_size, "stride": self.stride, "groups": width}

    def _strided(self, x: jax.Array, train: bool) -> jax.Array:
        options = self._options(self.hidden)
        if self.branches:
            return self.summed(x, self.hidden, "dw", train, **options)
        return self.conv_norm(x, self.hidden, ("conv_dw", "bn_dw"), train, **options)

    def _shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        width = x.shape[-1]
        if self.stride == 1 and width == self.features:
            return x
        options = self._options(width)
        x = self.conv_norm(x, width, ("shortcut_0", "shortcut_1"), train, **options)
        return self.conv_norm(x, self.features, ("shortcut_2", "shortcut_3"), train)

    @nn.nowrap
    def folded(self, variables: Variables) -> Variables:
        """Returns the variables with a convolution for each sum, in the modules within as well."""
        return _folded(variables, self.norm_of_branches(), self.param_dtype)

    @nn.nowrap
    def norm_of_branches(self) -> Any:
        """The kind of the norms, with the epsilon that they have."""
        if self.norm_epsilon is None:
            return self.norm
        return functools.partial(as_norm(self.norm), epsilon=self.norm_epsilon)


def _folded(variables: Variables, norm: Any, dtype: Any) -> Variables:
    """The variables of a module with a convolution for each sum of branches."""
    made: dict[str, dict[str, Any]] = {
        kind: {name: leaf for name, leaf in leaves.items() if "_rpr_" not in name}
        for kind, leaves in variables.items()
    }
    for name, target in _SUMS.items():
        prefix = f"{name}_rpr_"
        branches = []
        for branch in (key for key in variables["params"] if key.startswith(prefix)):
            if branch == f"{prefix}skip":
                channels = len(variables["params"][branch]["scale"])
                same = Affine.identity(channels, channels)
                branches.append(same.normalised(variables, branch, norm))
            else:
                inner = of_submodule(variables, branch)
                branches.append(Affine.of(inner, "conv").normalised(inner, "bn1", norm))
        if branches:
            conv = functools.reduce(Affine.__add__, branches)
            made["params"][target] = conv.variables(dtype)
    for name in ("ghost1", "ghost2"):
        if name in made["params"]:
            for kind in made:
                made[kind].pop(name, None)
            for kind, leaves in _folded(of_submodule(variables, name), norm, dtype).items():
                made[kind][name] = leaves
    return {kind: leaves for kind, leaves in made.items() if leaves}


class GhostNet(Backbone):
    """A GhostNet without its classifier: a convolution, stages of blocks, and one more layer.

    It maps images ``[B, H, W, C]`` to the last map ``[B, H / 32, W / 32, C]``. Its own head pools
    that map, widens it and then classifies. The first feature map is that of the first convolution,
    before its norm.

    Attributes:
      blocks: the blocks of each stage, each as its kernel's size, the channels inside and of the
        output, what part of the former the gate has (0 for no gate) and the stride.
      width_factor: what all channels are multiplied by, to multiples of 4.
      attention: whether blocks from the third on have attention (V2).
      branches: how many convolutions of one size are summed in place of one (V3); 0 for none.
      head_width: the units of the layer behind the pooling.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
      fused: whether sums of branches are one convolution each, the form of inference
        (``flaxzoo.Model.reparameterize``). V1 and V2 have no branches, and stay as they are.
    """

    blocks: Sequence[Sequence[Sequence[float]]] = _BLOCKS
    width_factor: float = 1.0
    attention: bool = False
    branches: int = 0
    head_width: int = 1280
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    norm_epsilon: float | None = None
    remat: bool | str = False
    fused: bool = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The first convolution, the blocks ``blocks_0_0``, ``blocks_1_0`` and so on, a layer."""
        yield Part("stem", self._conv, ("conv_stem",), takes="images", map="stem", reduction=2)
        yield Part("stem", self._norm, ("bn1",))
        own = {name: getattr(self, name) for name in _PASSED_ON}
        number, reduction = 0, 2
        for i, blocks in enumerate(self.blocks):
            for j, (size, hidden, features, squeeze_ratio, stride) in enumerate(blocks):
                middle = self._width(hidden)
                run = functools.partial(
                    GhostBottleneck,
                    features=self._width(features),
                    hidden=middle,
                    kernel_size=int(size),
                    stride=int(stride),
                    squeeze=round_width(middle, squeeze_ratio, 4) if squeeze_ratio else 0,
                    attention=self.attention and number > 1,
                    **own,
                )
                # Maps are those of the stages whose last block halves them.
                complete = j == len(blocks) - 1 and stride > 1
                reduction *= 2 if complete else 1
                name = f"blocks_{i}_{j}"
                yield Part(
                    name,
                    run,
                    map=f"blocks_{i}" if complete else None,
                    reduction=reduction,
                    remat=self.remat,
                )
                number += 1
        last: dict[str, Any] = {"activation": self.activation, "names": ("conv", "bn1")}
        last |= {"norm": self.norm, "norm_epsilon": self.norm_epsilon, **self.dtypes}
        yield Part(f"blocks_{i + 1}_0", functools.partial(ConvNorm, middle, **last))

    @nn.nowrap
    def _width(self, channels: float) -> int:
        return round_width(channels, self.width_factor, 4)

    def _conv(self, x: jax.Array, _train: bool) -> jax.Array:
        options: dict[str, Any] = {"kernel_init": FanIn(), "name": "conv_stem", **self.dtypes}
        return Conv(self._width(16), 3, 2, **options)(x)

    def _norm(self, x: jax.Array, train: bool) -> jax.Array:
        norm = make_norm(self.norm, "bn1", epsilon=self.norm_epsilon, **self.dtypes)
        return as_activation(self.activation)(call_norm(norm, x, train=train))

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """A layer between the pooling and the classifier."""
        own: dict[str, Any] = {"hidden": (self.head_width,), "activation": self.activation}
        own |= {**PLAIN, "hidden_bias_init": plain_bias}
        return {**super().head_options(), **own}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        if not self.blocks or not all(self.blocks):
            raise ArgumentError(f"blocks must have blocks for each stage, got {self.blocks!r}")
        for block in (block for blocks in self.blocks for block in blocks):
            if len(block) != 5:
                raise ArgumentError(
                    "blocks must each be five numbers: the kernel's size, the channels inside and "
                    f"of the output, the gate's part and the stride, got {block!r}"
                )
            size, hidden, features, squeeze_ratio, stride = block
            check_kernel("blocks", size)
            check_size("blocks", hidden)
            check_size("blocks", features)
            check_number("blocks", squeeze_ratio, minimum=0)
            if stride not in (1, 2):
                raise ArgumentError(f"blocks: a stride must be 1 or 2, got {stride!r}")
        check_number("width_factor", self.width_factor, above=0)
        check_size("branches", self.branches, minimum=0)
        check_size("head_width", self.head_width)


def _convert(tensors: Mapping[str, Any], _backbone: GhostNet) -> Mapping[str, Any]:
    """Today's names for the tensors of the authors' files, less their counts of operations."""
    old = re.compile(r"(\.ghost.*|\.dw_rpr_.*)\bbn\.")
    return {old.sub(r"\1bn1.", name): v for name, v in tensors.items() if "total" not in name}


REFERENCE = Reference(
    stem=("conv_stem",),
    classifier="classifier",
    head=(("dense_0", "conv_head"),),
    renamed=RENAMED,
    layouts=(("params/head/dense_0/kernel", "pointwise"),),
    convert=_convert,
    fused=("*.primary_conv.0.bias",),
    # Sums of four branches would grow from block to block, until gates and their rounding are all
    # that differs.
    scales=(("*_rpr_*.bn1.weight", 0.5), ("*_rpr_skip.weight", 0.5)),
)
# timm's functions of these names take no blocks: all are compared whole.
CUT: dict[str, str] = {}
_V2: dict[str, Any] = {"attention": True}
_V3: dict[str, Any] = {"attention": True, "branches": 3}

variants(
    GhostNet,
    {
        "ghostnet_050": row("GhostNet 0.5x", width_factor=0.5),
        "ghostnet_100": row("GhostNet 1.0x"),
        "ghostnet_130": row("GhostNet 1.3x", width_factor=1.3),
    },
    paper="https://arxiv.org/abs/1911.11907",
    reference=REFERENCE,
)
variants(
    GhostNet,
    {
        "ghostnetv2_100": row("GhostNet V2 1.0x", **_V2),
        "ghostnetv2_130": row("GhostNet V2 1.3x", width_factor=1.3, **_V2),
        "ghostnetv2_160": row("GhostNet V2 1.6x", width_factor=1.6, **_V2),
    },
    paper="https://arxiv.org/abs/2211.12905",
    reference=REFERENCE,
)
variants(
    GhostNet,
    {
        "ghostnetv3_050": row("GhostNet V3 0.5x", width_factor=0.5, **_V3),
        "ghostnetv3_100": row("GhostNet V3 1.0x", **_V3),
        "ghostnetv3_130": row("GhostNet V3 1.3x", width_factor=1.3, **_V3),
        "ghostnetv3_160": row("GhostNet V3 1.6x", width_factor=1.6, **_V3),
    },
    paper="https://arxiv.org/abs/2404.11202",
    reference=REFERENCE,
)
