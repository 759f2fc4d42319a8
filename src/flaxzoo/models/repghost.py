"""RepGhostNet: a cheap depthwise convolution of what a layer finds is added to it, not joined.

What GhostNet concatenates is a sum here, so that the two are one convolution in inference. Names
and numbers are those of timm's ``repghost`` module; the number is the width in percent.

References:
  RepGhost: https://arxiv.org/abs/2211.06088
  GhostNet: https://arxiv.org/abs/1911.11907
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax

from flaxzoo._checks import check_lengths, check_number, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import SqueezeExcite, divisible
from flaxzoo.layers.initializers import PLAIN, FanIn, plain_bias
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import as_norm, call_norm
from flaxzoo.layers.reparameterized import Affine, Reparameterized, Variables
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.mobile_backbone import RENAMED, round_width
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import Row, row, variants

# What blocks get from the network as it is.
_PASSED_ON = ("activation", "norm", "dtype", "param_dtype", "fused")
# timm makes no shallow networks of these names: all are compared whole.
CUT: dict[str, str] = {}


class _Layers(Layer, kw_only=True):
    """The fields that all modules share, and their layers.

    Attributes:
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      fused: whether the branches of each module are one convolution.
    """

    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    fused: bool = False

    @nn.nowrap
    def conv(self, x: jax.Array, features: int, size: int, name: str, **options: Any) -> jax.Array:
        """Computes a convolution."""
        options |= {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return Conv(features, size, kernel_init=FanIn(), name=name, **options)(x)

    @nn.nowrap
    def normalise(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Computes a norm."""
        return call_norm(as_norm(self.norm)(name=name, **self.dtypes), x, train=train)


class RepGhostModule(_Layers, Reparameterized, kw_only=True):
    """A layer, and the sum of a depthwise convolution of what it finds and this itself.

    Parameters are named as timm's: ``primary_conv``, ``cheap_operation`` and ``fusion_bn``. In the
    form of inference ``cheap_operation`` is a convolution with a bias.

    Attributes:
      features: the channels of the output.
      active: whether an activation follows the layer and the sum.
    """

    features: int
    active: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, features]``."""
        act = as_activation(self.activation if self.active else None)
        x = self.normalise(
            self.conv(x, self.features, 1, "primary_conv_0"), "primary_conv_1", train
        )
        x, options = act(x), {"groups": self.features}
        if self.fused:
            return act(self.conv(x, self.features, 3, "cheap_operation", use_bias=True, **options))
        y = self.conv(x, self.features, 3, "cheap_operation_0", **options)
        y = self.normalise(y, "cheap_operation_1", train)
        return act(y + self.normalise(x, "fusion_bn_0", train))

    @nn.nowrap
    def folded(self, variables: Variables) -> Variables:
        """Returns the variables with the two branches as one ``cheap_operation``."""
        cheap = Affine.of(variables, "cheap_operation_0")
        cheap = cheap.normalised(variables, "cheap_operation_1", self.norm)
        same = Affine.identity(self.features, self.features)
        whole = cheap + same.normalised(variables, "fusion_bn_0", self.norm)
        kept = {
            kind: {name: leaf for name, leaf in leaves.items() if name.startswith("primary_conv")}
            for kind, leaves in variables.items()
        }
        params = {**kept["params"], "cheap_operation": whole.variables(self.param_dtype)}
        return {**kept, "params": params}


class RepGhostBottleneck(_Layers, kw_only=True):
    """Two modules, a strided convolution and a gate between them, and a shortcut.

    Parameters are named as timm's: ``ghost1``, ``conv_dw``, ``bn_dw``, ``se``, ``ghost2`` and
    ``shortcut``.

    Attributes:
      features: the channels of the output.
      hidden: the channels inside.
      kernel_size: of the strided convolution and of the shortcut's.
      stride: by how much maps shrink.
      gate_ratio: the width within the gate, as a part of ``hidden``; 0 for none.
      drop_path: the rate at which the branch is dropped for a whole example.
    """

    features: int
    hidden: int
    kernel_size: int = 3
    stride: int = 1
    gate_ratio: float = 0.0
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        own = {name: getattr(self, name) for name in _PASSED_ON}
        y = RepGhostModule(features=self.hidden, name="ghost1", **own)(x, train)
        if self.stride > 1:
            options = {"stride": self.stride, "groups": self.hidden}
            y = self.conv(y, self.hidden, self.kernel_size, "conv_dw", **options)
            y = self.normalise(y, "bn_dw", train)
        if self.gate_ratio:
            width = divisible(self.hidden * self.gate_ratio, 4, 4, 0.9)
            gate: dict[str, Any] = {"gate_activation": "hard_sigmoid", **PLAIN}
            gate |= {"dtype": self.dtype, "param_dtype": self.param_dtype}
            y = SqueezeExcite(width=width, name="se", **gate)(y)
        y = RepGhostModule(features=self.features, active=False, name="ghost2", **own)(y, train)
        y = DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)
        return y + self.shortcut(x, train)

    def shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        """The input, in the shape of the output."""
        if self.stride == 1 and x.shape[-1] == self.features:
            return x
        options = {"stride": self.stride, "groups": x.shape[-1]}
        x = self.conv(x, x.shape[-1], self.kernel_size, "shortcut_0", **options)
        x = self.conv(self.normalise(x, "shortcut_1", train), self.features, 1, "shortcut_2")
        return self.normalise(x, "shortcut_3", train)


class RepGhostNet(Backbone):
    """A RepGhostNet without its classifier: a stem, stages of blocks, and a last layer.

    It maps images ``[B, H, W, C]`` of any size to the last map ``[B, H / 32, W / 32, C']``, rounded
    up. Its own head pools that map, widens it and then classifies.

    Attributes:
      layers: the number of blocks of each stage.
      widths: the channels of each block.
      hidden_widths: the channels inside each block.
      gate_ratios: the width within each block's gate, as a part of the channels inside; 0 for none.
      strides: of each stage's first block.
      kernel_sizes: of each stage's strided convolution.
      stem_width: the channels of the first convolution, of stride 2.
      last_width: the channels of the last layer.
      head_width: the units of the layer behind the pooling.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
      fused: whether the branches of each module are one convolution, the form of inference
        (``flaxzoo.Model.reparameterize``).
    """

    layers: Sequence[int] = (1, 1, 1, 1, 1, 1, 5, 1, 4)
    widths: Sequence[int] = (16, 24, 24, 40, 40, 80, 80, 80, 80, 112, 112, *(160,) * 5)
    hidden_widths: Sequence[int] = (
        *(8, 24, 36, 36, 60, 120),
        *(100, 120, 120, 240, 336),
        *(336, 480, 480, 480, 480),
    )
    gate_ratios: Sequence[float] = (
        *(0.0, 0.0, 0.0, 0.25, 0.25, 0.0),
        *(0.0, 0.0, 0.0, 0.25, 0.25),
        *(0.25, 0.0, 0.25, 0.0, 0.25),
    )
    strides: Sequence[int] = (1, 2, 1, 2, 1, 2, 1, 2, 1)
    kernel_sizes: Sequence[int] = (3, 3, 3, 5, 5, 3, 3, 5, 5)
    stem_width: int = 16
    last_width: int = 960
    head_width: int = 1280
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    drop_path: float = 0.0
    remat: bool | str = False
    fused: bool = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``blocks_0_0`` and so on, and the last layer."""
        # timm's first map is that of the convolution, before its norm.
        yield Part("stem", self._conv, ("conv_stem",), takes="images", map="stem", reduction=2)
        yield Part("stem", self._norm, ("bn1",))
        own = {name: getattr(self, name) for name in _PASSED_ON}
        blocks = zip(self.widths, self.hidden_widths, self.gate_ratios, strict=True)
        rates, reduction = iter(drop_path_rates(self.drop_path, len(self.widths))), 2
        for i, (count, stride) in enumerate(zip(self.layers, self.strides, strict=True)):
            reduction *= stride
            for j in range(count):
                width, hidden, ratio = next(blocks)
                block = functools.partial(
                    RepGhostBottleneck,
                    features=width,
                    hidden=hidden,
                    gate_ratio=ratio,
                    kernel_size=self.kernel_sizes[i],
                    stride=1 if j else stride,
                    drop_path=next(rates),
                    **own,
                )
                complete = f"blocks_{i}" if stride > 1 and j == count - 1 else None
                options: dict[str, Any] = {"map": complete, "reduction": reduction}
                yield Part(f"blocks_{i}_{j}", block, remat=self.remat, **options)
        names = {"names": ("conv", "bn1"), "norm": self.norm, "activation": self.activation}
        last = functools.partial(ConvNorm, self.last_width, **names, **self.dtypes)
        yield Part(f"blocks_{len(self.layers)}_0", last)

    def _conv(self, x: jax.Array, _train: bool) -> jax.Array:
        options: dict[str, Any] = {"kernel_init": FanIn(), "name": "conv_stem", **self.dtypes}
        return Conv(self.stem_width, 3, 2, **options)(x)

    def _norm(self, x: jax.Array, train: bool) -> jax.Array:
        x = call_norm(as_norm(self.norm)(name="bn1", **self.dtypes), x, train=train)
        return as_activation(self.activation)(x)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """A layer between the pooling and the classifier."""
        inits = {**PLAIN, "hidden_bias_init": plain_bias}
        hidden = {"hidden": (self.head_width,), "activation": self.activation}
        return {**super().head_options(), **hidden, **inits}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        for name in ("layers", "widths", "hidden_widths", "strides", "kernel_sizes"):
            check_widths(name, getattr(self, name))
        stages = {name: getattr(self, name) for name in ("layers", "strides", "kernel_sizes")}
        check_lengths(**stages)
        names = ("widths", "hidden_widths", "gate_ratios")
        blocks = {name: getattr(self, name) for name in names}
        check_lengths(**blocks)
        if sum(self.layers) != len(self.widths):
            raise ArgumentError(
                f"widths must have one for each of {sum(self.layers)} blocks, got "
                f"{len(self.widths)}"
            )
        if not set(self.strides) <= {1, 2}:
            raise ArgumentError(f"strides must be 1 or 2, got {tuple(self.strides)}")
        for ratio in self.gate_ratios:
            check_number("gate_ratios", ratio, minimum=0)
        for name in ("stem_width", "last_width", "head_width"):
            check_size(name, getattr(self, name))


def _row(factor: float) -> Row:
    """A row of a network that is narrower or wider than that of width 1."""
    widen = functools.partial(round_width, factor=factor, by=4)
    return row(
        f"RepGhostNet of width {factor:g}",
        widths=tuple(map(widen, RepGhostNet.widths)),
        hidden_widths=tuple(map(widen, RepGhostNet.hidden_widths)),
        stem_width=widen(16),
        last_width=widen(960),
    )


REFERENCE = Reference(
    stem=("conv_stem",),
    classifier="classifier",
    head=(("dense_0", "conv_head"),),
    renamed=RENAMED,
    layouts=(("params/head/dense_0/kernel", "pointwise"),),
    # No norm stands behind the sums of blocks and shortcuts.
    gain=1.0,
    fused=("*.cheap_operation.weight",),
)
variants(
    RepGhostNet,
    {
        "repghostnet_050": _row(0.5),
        "repghostnet_058": _row(0.58),
        "repghostnet_080": _row(0.8),
        "repghostnet_100": _row(1.0),
        "repghostnet_111": _row(1.11),
        "repghostnet_130": _row(1.3),
        "repghostnet_150": _row(1.5),
        "repghostnet_200": _row(2.0),
    },
    paper="https://arxiv.org/abs/2211.06088",
    reference=REFERENCE,
)
