"""Xception: convolutions of each channel by itself, then of all channels at each pixel.

The name and numbers are those of timm's ``xception`` module, a port of the first Keras network.
https://arxiv.org/abs/1610.02357
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax

from flaxzoo._checks import check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.initializers import PLAIN
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.pool import max_pool
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# timm makes no shallow networks of this name.
CUT: dict[str, str] = {}
# Its weights.
LEFT_OUT = {
    "legacy_xception.tf_in1k": "its weights are a file of timm's on GitHub, not on the Hub: "
    "pretrained= takes its path, once it is downloaded"
}
# What blocks get from the network as it is.
_PASSED_ON = ("activation", "norm", "dtype", "param_dtype")


class SeparableConv(Layer):
    """A 3 x 3 convolution ``conv1`` of each channel, then a 1 x 1 convolution ``pointwise``.

    Attributes:
      features: channels of the output.
    """

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, features]``."""
        channels = x.shape[-1]
        x = Conv(channels, 3, groups=channels, name="conv1", **self.dtypes)(x)
        return Conv(self.features, 1, name="pointwise", **self.dtypes)(x)


class XceptionBlock(Layer):
    """Separable convolutions and a shortcut around them; pooling shrinks the map, if anything does.

    Parameters are named as those of timm's ``Block``.

    Attributes:
      widths: the channels behind each separable convolution.
      stride: by which the block reduces the image, 1 or 2.
      activate_first: whether an activation stands before the first of them, too.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
    """

    widths: Sequence[int]
    stride: int = 1
    activate_first: bool = True
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, widths[-1]]``, rounded up."""
        act, y = as_activation(self.activation), x
        # timm counts the activations in its list, the first as well.
        place = 1 if self.activate_first else 0
        for i, width in enumerate(self.widths):
            y = act(y) if i or self.activate_first else y
            y = SeparableConv(width, name=f"rep_{place + 3 * i}", **self.dtypes)(y)
            norm = make_norm(self.norm, f"rep_{place + 3 * i + 1}", **self.dtypes)
            y = call_norm(norm, y, train=train)
        if self.stride > 1:
            y = max_pool(y, stride=self.stride)
        if self.stride > 1 or x.shape[-1] != self.widths[-1]:
            x = Conv(self.widths[-1], 1, stride=self.stride, name="skip", **self.dtypes)(x)
            x = call_norm(make_norm(self.norm, "skipbn", **self.dtypes), x, train=train)
        return x + y


class Xception(Backbone):
    """An Xception without its classifier: two convolutions, blocks, two separable convolutions.

    It maps images ``[B, H, W, C]`` of at least 7 x 7 to about ``[B, H / 32, W / 32, C']``: the
    first two convolutions have no padding. Maps of blocks are activated.

    Attributes:
      stem_widths: the channels of the first two convolutions.
      widths: those of the blocks that halve the map at the beginning.
      layers: the number of blocks that keep it, three separable convolutions each.
      exit_widths: the channels behind the last block, which halves the map once more, and behind
        the last two separable convolutions.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    smallest: ClassVar[int] = 7

    stem_widths: Sequence[int] = (32, 64)
    widths: Sequence[int] = (128, 256, 728)
    layers: int = 8
    exit_widths: Sequence[int] = (1024, 1536, 2048)
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, the blocks from ``block1`` on, and the last convolutions."""
        owns = ("conv1", "bn1", "conv2", "bn2")
        yield Part("stem", self._stem, owns, map="stem", reduction=2, takes="images")
        options = {name: getattr(self, name) for name in _PASSED_ON}
        build = functools.partial(XceptionBlock, **options)
        entry, middle = len(self.widths), self.widths[-1]
        for n, width in enumerate(self.widths, 1):
            block = functools.partial(build, (width,) * 2, 2, activate_first=n > 1)
            # A map that the blocks without a stride follow is complete behind the last of them.
            ends = n < entry or not self.layers
            yield self._block(n, block, 2 << n if ends else None)
        for n in range(entry + 1, entry + self.layers + 1):
            last = n == entry + self.layers
            block = functools.partial(build, (middle,) * 3)
            yield self._block(n, block, 2 << entry if last else None)
        block = functools.partial(build, (middle, self.exit_widths[0]), 2)
        yield self._block(entry + self.layers + 1, block, None)
        owns = ("conv3", "bn3", "conv4", "bn4")
        yield Part("exit", self._exit, owns, map="exit", reduction=4 << entry)

    @nn.nowrap
    def _block(self, number: int, block: Any, reduction: int | None) -> Part:
        name = f"block{number}"
        return Part(
            name,
            block,
            map=name if reduction else None,
            reduction=reduction,
            view=as_activation(self.activation),
            remat=self.remat,
        )

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        for i, width in enumerate(self.stem_widths, 1):
            size = (width, 3, 3 - i)
            x = Conv(*size, padding=0, name=f"conv{i}", **self.dtypes)(x)
            x = self._normalised(x, f"bn{i}", train)
        return x

    def _exit(self, x: jax.Array, train: bool) -> jax.Array:
        for i, width in enumerate(self.exit_widths[1:], 3):
            x = SeparableConv(width, name=f"conv{i}", **self.dtypes)(x)
            x = self._normalised(x, f"bn{i}", train)
        return x

    def _normalised(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        norm = make_norm(self.norm, name, **self.dtypes)
        return as_activation(self.activation)(call_norm(norm, x, train=train))

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The usual ones, and how timm draws the classifier's parameters."""
        return {**super().head_options(), **PLAIN}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        for name, length in (("stem_widths", 2), ("widths", None), ("exit_widths", 3)):
            value = check_widths(name, getattr(self, name))
            if length and len(value) != length:
                raise ArgumentError(f"{name} must be {length} numbers, got {value}")
        check_size("layers", self.layers, minimum=0)


variants(
    Xception,
    {"legacy_xception": row("Xception as it was published first")},
    input_shape=(299, 299, 3),
    paper="https://arxiv.org/abs/1610.02357",
    reference=Reference(stem=("conv1",)),
)
