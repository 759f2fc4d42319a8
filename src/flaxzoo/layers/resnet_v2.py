"""What ResNets of the second kind are made of: standardised convolutions, stem and bottleneck.

Kolesnikov et al. 2019 (BiT), https://arxiv.org/abs/1912.11370. Parameters are named as in timm's
``resnetv2`` module.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lists, check_size
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.initializers import HeNormal, ones, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.lowering.max_pool import max_pool_2d
from flaxzoo.layers.norm import GroupNorm, normalise_and_activate

# Of 32 groups, as PyTorch computes them.
GROUPS = functools.partial(GroupNorm, use_fast_variance=False)


class StdConv(Conv):
    """A convolution whose kernels have mean 0 and variance 1, one by one.

    Qiao et al. 2019, https://arxiv.org/abs/1903.10520. The statistics are float32 at least.

    Attributes:
      epsilon: a small number that is added to the variances.
    """

    epsilon: float = 1e-8

    @nn.nowrap
    def prepare(self, kernel: jax.Array) -> jax.Array:
        """Standardises ``[height, width, C, features]`` for each feature."""
        wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
        wide = wide - wide.mean((0, 1, 2), keepdims=True)
        variance = jnp.square(wide).mean((0, 1, 2), keepdims=True)
        return (wide * jax.lax.rsqrt(variance + self.epsilon)).astype(kernel.dtype)


class ResNetV2Layers(Layer):
    """What the modules of ResNets of the second kind share: convolutions, norms and activations.

    Attributes:
      standardised: whether kernels are (``StdConv``).
      padding: ``"SAME"`` for that of TensorFlow, None for that of PyTorch.
      norm: by name or module (``flaxzoo.layers.norm``).
      activation: by name or callable; norms that activate themselves go without.
      kernel_init: the initialiser of the kernels.
    """

    standardised: bool = True
    padding: str | None = "SAME"
    norm: Any = GROUPS
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    kernel_init: Any = HeNormal()

    @property
    def shared(self) -> dict[str, Any]:
        """The fields above, as keywords of another such module."""
        names = ("standardised", "padding", "norm", "activation", "kernel_init")
        return {**{name: getattr(self, name) for name in names}, **self.dtypes}

    def conv(
        self, x: jax.Array, features: int, size: int, name: str, stride: int = 1, dilation: int = 1
    ) -> jax.Array:
        """Convolves, without a bias."""
        kind = StdConv if self.standardised else Conv
        options: dict[str, Any] = {"padding": self.padding, "kernel_init": self.kernel_init}
        options |= {"stride": stride, "dilation": dilation, **self.dtypes}
        return kind(features, size, name=name, **options)(x)

    def normalise(
        self, x: jax.Array, name: str, train: bool, act: bool = True, init: Any = ones
    ) -> jax.Array:
        """Normalises, by scales that begin as ``init`` says, and then activates."""
        activation = as_activation(self.activation) if act else None
        options: dict[str, Any] = {"scale_init": init, **self.dtypes}
        return normalise_and_activate(self.norm, name, x, activation, train=train, **options)


class ResNetV2Stem(ResNetV2Layers, kw_only=True):
    """A 7 x 7 convolution and the maximum of 3 x 3 pixels: a quarter of the image's sides.

    Attributes:
      width: channels of the output, a multiple of 32.
    """

    width: int = 64

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        _check_groups("width", self.width)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 4, W / 4, width]``, rounded up; ``train`` or not."""
        x = self.normalise(self.conv(x, self.width, 7, "conv", stride=2), "norm", train)
        down, right = (_same(size) for size in x.shape[1:3])
        return max_pool_2d(x, (3, 3), (2, 2), (down, right))


def _check_groups(name: str, width: int, count: int = 32) -> None:
    check_size(name, width)
    if width % count:
        raise ArgumentError(
            f"{name} must be a multiple of {count}, or norms have no 32 groups, got {width}"
        )


def _same(size: int) -> tuple[int, int]:
    """The padding of windows of 3 at every second pixel, as TensorFlow's ``"SAME"``."""
    total = max(0, (-(-size // 2) - 1) * 2 + 3 - size)
    return total // 2, total - total // 2


class ResNetV2Shortcut(ResNetV2Layers, kw_only=True):
    """A 1 x 1 convolution and a norm, where a bottleneck changes shapes.

    Attributes:
      features: channels of the output.
      stride: by which the image is reduced.
    """

    features: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        x = self.conv(x, self.features, 1, "conv", stride=self.stride)
        return self.normalise(x, "norm", train, act=False)


class ResNetV2Bottleneck(ResNetV2Layers, kw_only=True):
    """1 x 1, 3 x 3 and 1 x 1 convolutions with a norm behind each, as timm's ``Bottleneck``.

    Attributes:
      features: channels of the output; those between are a quarter.
      stride: by which the block reduces the image.
      project: whether the shortcut has a convolution, because shapes change.
      zero_init_residual: whether the last norm's scale begins at zero, so that the block begins as
        its shortcut.
    """

    features: int
    stride: int = 1
    project: bool = False
    zero_init_residual: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        shortcut = x
        if self.project:
            options: dict[str, Any] = {"stride": self.stride, **self.shared}
            layer = ResNetV2Shortcut(features=self.features, name="downsample", **options)
            shortcut = layer(x, train)
        y = self.normalise(self.conv(x, self.features // 4, 1, "conv1"), "norm1", train)
        y = self.conv(y, self.features // 4, 3, "conv2", stride=self.stride)
        y = self.normalise(y, "norm2", train)
        init = zeros if self.zero_init_residual else ones
        y = self.conv(y, self.features, 1, "conv3")
        y = self.normalise(y, "norm3", train, act=False, init=init)
        return as_activation(self.activation)(y + shortcut)


class ResNetV2Trunk(ResNetV2Layers, kw_only=True):
    """The stem and stages of bottlenecks; each stage but the first halves the map.

    Attributes:
      layers: number of blocks of each stage.
      widths: channels of the stages, multiples of 128.
      stem_width: channels of the stem, a multiple of 32.
      zero_init_residual: as a ``ResNetV2Bottleneck``'s.
    """

    layers: Sequence[int] = (3, 4, 6, 3)
    widths: Sequence[int] = (256, 512, 1024, 2048)
    stem_width: int = 64
    zero_init_residual: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images ``[B, H, W, C]`` to the last stage's map; ``train`` or not."""
        x = ResNetV2Stem(width=self.stem_width, name="stem", **self.shared)(x, train)
        for stage, (count, width) in enumerate(zip(self.layers, self.widths, strict=True)):
            for i in range(count):
                x = ResNetV2Bottleneck(
                    features=width,
                    stride=2 if stage and not i else 1,
                    project=not i,
                    zero_init_residual=self.zero_init_residual,
                    name=f"stages_{stage}_blocks_{i}",
                    **self.shared,
                )(x, train)
        return x

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_lists(self, "layers", "widths")
        _check_groups("stem_width", self.stem_width)
        for width in self.widths:
            _check_groups("widths", width, 128)
