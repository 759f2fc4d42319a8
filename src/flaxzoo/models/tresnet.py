"""TResNet: a ResNet made for GPUs, from blocks of 4 x 4 pixels, with gates and blurs.

Names and numbers are those of timm's ``tresnet`` module: ``m``, ``l`` and ``xl`` have basic blocks
early on and bottlenecks later, ``v2`` bottlenecks alone.

References:
  TResNet: https://arxiv.org/abs/2003.13630
  ImageNet-21k pretraining: https://arxiv.org/abs/2104.10972
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from flaxzoo._checks import as_choice, check_choice, check_lengths, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.activations import get as get_activation
from flaxzoo.errors import ShapeError
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import SqueezeExcite
from flaxzoo.layers.initializers import HeNormal, Normal, ones, plain_bias, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.pool import anti_alias, shortcut_pool
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What blocks get from the network as it is.
_PASSED_ON = ("activation", "norm", "anti_aliasing", "zero_init_residual", "dtype", "param_dtype")
_ANTI_ALIASING = ("avg", "blur", "blur_zeros")
_KINDS = ("basic", "bottleneck")
# The side of the blocks of pixels that the first convolution sees as one.
PATCH = 4
_LEAKY = get_activation("leaky_relu", negative_slope=1e-3)


class TResNetBlock(Layer, kw_only=True):
    """Convolutions, a gate and a shortcut; pixels are dropped behind a blur.

    Parameters are named as timm's: ``conv1``, ``conv2``, ``conv3`` of a bottleneck, ``se`` and
    ``downsample``.

    Attributes:
      features: channels of the convolutions; a bottleneck's output has four times as many.
      stride: by how much maps shrink.
      bottleneck: whether there are three convolutions, not two.
      gated: whether a squeeze-and-excitation stands behind the 3 x 3 convolutions.
      drop_path: the rate at which the branch is dropped for a whole example.
      activation: between the convolutions, by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      anti_aliasing: ``"avg"``, ``"blur"``, ``"blur_zeros"`` or None, in place of strides.
      zero_init_residual: whether the branch begins as zero.
    """

    features: int
    stride: int = 1
    bottleneck: bool = False
    gated: bool = True
    drop_path: float = 0.0
    activation: str | Callable[[jax.Array], jax.Array] = _LEAKY
    norm: Any = "batch"
    anti_aliasing: str | None = "blur"
    zero_init_residual: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, C']``, rounded up."""
        outputs = self.features * (4 if self.bottleneck else 1)
        last = {"scale_init": zeros if self.zero_init_residual else ones}
        y = self.layer(self.features, 1, "conv1")(x, train) if self.bottleneck else x
        y = self.reduced(y, "conv2" if self.bottleneck else "conv1", train)
        if self.bottleneck:
            y = self.gate(y, max(outputs // 8, 64))
            y = self.layer(outputs, 1, "conv3", activation=None, **last)(y, train)
        else:
            y = self.layer(outputs, 3, "conv2", activation=None, **last)(y, train)
            y = self.gate(y, max(outputs // 4, 64))
        y = DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)
        return nn.relu(y + self.shortcut(x, y, train))

    def reduced(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Computes the convolution that pixels are dropped behind."""
        low_pass = self.anti_aliasing if self.stride > 1 else None
        x = self.layer(self.features, 3, name, stride=1 if low_pass else self.stride)(x, train)
        return anti_alias(x, low_pass, self.stride) if low_pass else x

    def gate(self, x: jax.Array, width: int) -> jax.Array:
        """Weighs the channels."""
        if not self.gated:
            return x
        options: dict[str, Any] = {"bias_init": plain_bias, "dtype": self.dtype}
        return SqueezeExcite(width=width, name="se", param_dtype=self.param_dtype, **options)(x)

    def shortcut(self, x: jax.Array, y: jax.Array, train: bool) -> jax.Array:
        """The input, in the shape of the branch."""
        if self.stride == 1 and x.shape[-1] == y.shape[-1]:
            return x
        x = shortcut_pool(x, self.stride) if self.stride > 1 else x
        if x.shape[1:3] != y.shape[1:3]:
            # JAX would broadcast a map of 1 x 1.
            raise ShapeError(
                f"block {self.name!r} cannot add maps of {list(y.shape)} and {list(x.shape)}: with "
                f"anti_aliasing={self.anti_aliasing!r} the height and width of images must be "
                "multiples of 32"
            )
        # timm's list has the pooling first.
        name = f"downsample_{1 if self.stride > 1 else 0}"
        return self.layer(y.shape[-1], 1, name, activation=None)(x, train)

    @nn.nowrap
    def layer(self, features: int, size: int, name: str, **options: Any) -> ConvNorm:
        """Makes a convolution with its norm and activation."""
        own: dict[str, Any] = {"activation": self.activation, "norm": self.norm, "name": name}
        own |= {"kernel_init": HeNormal(), **self.dtypes}
        return ConvNorm(features, size, **{**own, **options})


class TResNet(Backbone):
    """A TResNet without its classifier: pixels as channels, a convolution, and stages of blocks.

    It maps images ``[B, H, W, C]``, whose sides are multiples of 4, to the last map
    ``[B, H / 32, W / 32, C']``.

    Attributes:
      layers: number of blocks of each stage.
      widths: channels of the blocks of each stage; a bottleneck's output has four times as many.
      kinds: ``"basic"`` or ``"bottleneck"``, of each stage.
      gated: whether each stage's blocks have a squeeze-and-excitation.
      stem_activation: of the first convolution, by name or callable.
      activation: between the convolutions of blocks, by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      anti_aliasing: ``"avg"``, ``"blur"``, ``"blur_zeros"`` or None: low-pass before pixels are
        dropped (``flaxzoo.layers.pool.anti_alias``).
      zero_init_residual: whether branches begin as zero.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (3, 4, 11, 3)
    widths: Sequence[int] = (64, 128, 256, 512)
    kinds: Sequence[str] = ("basic", "basic", "bottleneck", "bottleneck")
    gated: Sequence[bool] = (True, True, True, False)
    stem_activation: str | Callable[[jax.Array], jax.Array] = "leaky_relu"
    activation: str | Callable[[jax.Array], jax.Array] = _LEAKY
    norm: Any = "batch"
    anti_aliasing: str | None = "blur"
    zero_init_residual: bool = True
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The first convolution, then the blocks ``layer1_0``, ``layer1_1`` and so on."""
        owns = ("body_conv1",)
        # timm says 2 of this map.
        yield Part("stem", self._stem, owns, takes="images", map="stem", reduction=4)
        own = {name: getattr(self, name) for name in _PASSED_ON}
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        for i, (count, width, kind) in enumerate(
            zip(self.layers, self.widths, self.kinds, strict=True)
        ):
            for j in range(count):
                block = functools.partial(
                    TResNetBlock,
                    features=width,
                    stride=2 if i and not j else 1,
                    bottleneck=kind == "bottleneck",
                    gated=self.gated[i],
                    drop_path=next(rates),
                    **own,
                )
                complete = f"layer{i + 1}" if j == count - 1 else None
                options: dict[str, Any] = {"map": complete, "reduction": 4 << i}
                yield Part(f"layer{i + 1}_{j}", block, remat=self.remat, **options)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        options: dict[str, Any] = {"activation": self.stem_activation, "norm": self.norm}
        options |= {"kernel_init": HeNormal(), "name": "body_conv1", **self.dtypes}
        return ConvNorm(self.widths[0], 3, **options)(pixels_as_channels(x), train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Averages the last map."""
        inits = {"kernel_init": Normal(0.01), "bias_init": plain_bias}
        return {**super().head_options(), **inits}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        names = ("layers", "widths", "kinds", "gated")
        check_lengths(**{name: tuple(getattr(self, name)) for name in names})
        check_widths("layers", self.layers)
        check_widths("widths", self.widths)
        for kind in self.kinds:
            check_choice("kinds", kind, _KINDS)
        as_choice("anti_aliasing", self.anti_aliasing, _ANTI_ALIASING)
        as_activation(self.stem_activation)


def pixels_as_channels(x: jax.Array) -> jax.Array:
    """Makes one pixel of 4 x 4: ``[B, H, W, C]`` to ``[B, H / 4, W / 4, 16 * C]``.

    Raises:
      ShapeError: the height or the width is no multiple of 4.
    """
    batch, height, width, channels = x.shape
    if height % PATCH or width % PATCH:
        raise ShapeError(
            f"images must have a height and a width that are multiples of {PATCH}, got "
            f"{list(x.shape)}"
        )
    x = x.reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // PATCH, width // PATCH, PATCH * PATCH * channels)


def convert(tensors: Mapping[str, Any], _backbone: Any) -> Mapping[str, Any]:
    """Today's names for the tensors of the authors' files."""
    if "body.conv1.conv.weight" in tensors:
        return tensors
    renamed: dict[str, Any] = {}
    for name, value in tensors.items():
        for number, kind in (("0", "conv"), ("1", "bn")):
            name = re.sub(rf"conv(\d+)(?:\.0)?\.{number}(?=\.\w+$)", rf"conv\1.{kind}", name)
            name = re.sub(rf"downsample\.(\d+)\.{number}(?=\.\w+$)", rf"downsample.\1.{kind}", name)
        # Their norms divide by no less than this, whatever the sign.
        positive = name.endswith("bn.weight")
        renamed[name] = np.abs(np.asarray(value)) + 1e-5 if positive else value
    return renamed


REFERENCE = Reference(
    stem=("body_conv1/conv",),
    classifier="head.fc",
    renamed=((r"body_(conv1)", r"body.\1"), (r"layer(\d)_(\d+)", r"body.layer\1.\2")),
    convert=convert,
    stem_pixels=PATCH * PATCH,
    gain=1.5,
)


def _widths(factor: float) -> tuple[int, ...]:
    """The channels of the four stages."""
    return tuple(int(64 * factor) << i for i in range(4))


variants(
    TResNet,
    {
        "tresnet_m": row("TResNet-M"),
        "tresnet_l": row("TResNet-L", layers=(4, 5, 18, 3), widths=_widths(1.2)),
        "tresnet_xl": row("TResNet-XL", layers=(4, 5, 24, 3), widths=_widths(1.3)),
        "tresnet_v2_l": row(
            "TResNet-L of the second version", layers=(3, 4, 23, 3), kinds=("bottleneck",) * 4
        ),
    },
    paper="https://arxiv.org/abs/2003.13630",
    reference=REFERENCE,
)
