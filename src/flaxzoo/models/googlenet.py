"""GoogLeNet: branches of 1 x 1 and 3 x 3 kernels, joined, and two auxiliary classifiers on the way.

It is Inception V1 with BatchNorm. The name and numbers are those of torchvision's ``googlenet``
module, whose third branch has kernels of 3 x 3 where the paper has 5 x 5.
https://arxiv.org/abs/1409.4842
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax

from flaxzoo._checks import check_size, check_widths
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.branches import Unit, scaled
from flaxzoo.layers.channels import flattened
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.initializers import Normal, plain_bias
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.pool import adaptive_avg_pool, max_pool
from flaxzoo.models.backbone import Part
from flaxzoo.models.inception import Branching, Inception
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# torchvision makes no shallow network of this name.
CUT: dict[str, str] = {}
# The network of torchvision's weights turns pixels prepared for ImageNet's mean into these.
PREPROCESS = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
# Of each block of a stage: the 1 x 1 branch; what the second branch narrows to, and its output;
# the same of the third; the pooled branch.
_WIDTHS = (
    ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
)
# The blocks of the second stage that auxiliary classifiers stand behind; how their losses count.
_AUXILIARY, _WEIGHT = {"a": "aux1", "d": "aux2"}, 0.3
# The first kernels of all layers, and PyTorch's first biases.
_INITS: dict[str, Any] = {"kernel_init": Normal(0.01), "bias_init": plain_bias}


def _largest(x: jax.Array) -> jax.Array:
    """Takes the maximum over each pixel and its neighbours."""
    return max_pool(x, 3, 1, 1)


def _branches(
    single: int, narrow: int, second: int, narrower: int, third: int, pooled: int
) -> Branching:
    return (
        (Unit("branch1", single),),
        (Unit("branch2_0", narrow), Unit("branch2_1", second, 3)),
        (Unit("branch3_0", narrower), Unit("branch3_1", third, 3)),
        (_largest, Unit("branch4_1", pooled)),
    )


class AuxiliaryClassifier(Layer):
    """A 1 x 1 convolution on a map averaged to 4 x 4, then two linear layers ``fc1`` and ``fc2``.

    Attributes:
      num_classes: width of the output.
      dropout: the rate at which the units between the linear layers are dropped.
      width_factor: what the other layers' widths are multiplied by.
      fields: of the convolution (``flaxzoo.layers.conv_norm.ConvNorm``), as pairs.
    """

    num_classes: int
    dropout: float = 0.7
    width_factor: float = 1.0
    fields: tuple[tuple[str, Any], ...] = ()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, num_classes]``."""
        dense: Any = functools.partial(Dense, **_INITS, **self.dtypes)
        width, hidden = (scaled(width, self.width_factor) for width in (128, 1024))
        x = adaptive_avg_pool(x, (4, 4))
        x = flattened(ConvNorm(width, 1, name="conv", **dict(self.fields), **self.dtypes)(x, train))
        x = nn.relu(dense(hidden, name="fc1")(x))
        if self.dropout:
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return dense(self.num_classes, name="fc2")(x)


class GoogLeNet(Inception):
    """A GoogLeNet without its classifier: a stem, then three stages of blocks, each pooled.

    It maps images ``[B, H, W, C]`` to ``[B, H / 32, W / 32, C']``, rounded up.

    Attributes:
      layers: the numbers of blocks of the stages, at most 2, 5 and 2.
      auxiliary: how many classes two other classifiers tell apart, on maps of 1/16, in training
        alone; 0 for none. ``flaxzoo.models.get`` takes True for as many as the head does.
      auxiliary_dropout: the rate at which they drop hidden units.
    """

    smallest: ClassVar[int] = 1

    layers: Sequence[int] = (2, 5, 2)
    auxiliary: int = 0
    auxiliary_dropout: float = 0.7

    @property
    def options(self) -> dict[str, Any]:
        """What convolutions and blocks get from the network as it is."""
        return {**super().options, "kernel_init": _INITS["kernel_init"]}

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``inception3a`` and so on, as torchvision names them."""
        yield self.unit(Unit("conv1", 64, 7, 2), takes="images", map="conv1", reduction=2)
        yield Part("conv1", self._pool, ())
        yield self.unit(Unit("conv2", 64))
        yield self.unit(Unit("conv3", 192, 3), map="conv3", reduction=4)
        for n, (count, widths) in enumerate(zip(self.layers, _WIDTHS, strict=True), 3):
            # The last pooling sees 2 x 2 pixels, the others 3 x 3.
            pool = functools.partial(self._pool, size=2 if n == 5 else 3)
            yield Part(f"inception{n}a", pool, ())
            for i, letter in enumerate("abcde"[:count]):
                name = f"inception{n}{letter}"
                ends: dict[str, Any] = {"map": name if i == count - 1 else None, "reduction": 2**n}
                yield self.block(name, _branches(*widths[i]), group=f"inception{n}", **ends)
                if self.auxiliary and n == 4 and letter in _AUXILIARY:
                    side = _AUXILIARY[letter]
                    see = functools.partial(self._classify, side)
                    yield Part(side, see, (side,), group=f"inception{n}")

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The usual ones, and how the classifier is drawn."""
        return {**super().head_options(), **_INITS}

    def _classify(self, name: str, x: jax.Array, train: bool) -> jax.Array:
        kind = functools.partial(AuxiliaryClassifier, self.auxiliary, self.auxiliary_dropout)
        return self.classify(kind, name, _WEIGHT, x, train)

    def _pool(self, x: jax.Array, train: bool, size: int = 3) -> jax.Array:
        del train
        return max_pool(x, size, 2, 0, ceil=True)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        check_size("auxiliary", self.auxiliary, minimum=0)
        counts, most = check_widths("layers", self.layers), tuple(map(len, _WIDTHS))
        if len(counts) != len(most) or any(map(int.__gt__, counts, most)):
            raise ArgumentError(f"layers must be 3 numbers of at most {most}, got {counts}")


variants(
    GoogLeNet,
    {"googlenet": row("GoogLeNet (Inception V1)")},
    paper="https://arxiv.org/abs/1409.4842",
    reference=Reference(
        stem=("conv1/conv",),
        auxiliary=("aux1/fc2", "aux2/fc2"),
        options=(("init_weights", True), ("aux_logits", False)),
        package="torchvision",
    ),
)
