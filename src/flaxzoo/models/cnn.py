"""CNN: the small convolutional network of the Flax tutorials, with the options people add to it.

The accuracy of ``cnn.digits`` is on handwritten digits that it was not trained on.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax

from flaxzoo._checks import as_choice, check_kernel, check_size, check_widths
from flaxzoo._explain import explained
from flaxzoo.activations import as_activation
from flaxzoo.errors import ShapeError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.pool import avg_pool, max_pool
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import Head
from flaxzoo.models.registry import register, takes_fields_of

CNN_REFERENCE = "https://github.com/google/flax/tree/main/examples/mnist"
_POOLINGS = ("avg", "max")


@explained
class CNN(Backbone):
    """Convolutions with pooling, then dense layers.

    With its defaults it computes the network of Flax's MNIST example: convolution 32,
    average-pool, convolution 64, average-pool, dense 256, dense ``num_classes``, with ReLU between
    (``CNN_REFERENCE``). Maps images ``[B, H, W, C]`` to logits ``[B, num_classes]``.

    Attributes:
      num_classes: width of the last layer, named ``fc``; 0 leaves it out and returns the features
        ``[B, hidden[-1]]``, which is how ``flaxzoo.models.get("cnn")`` uses it as a backbone.
      features: channels of each convolution.
      kernel_size: height and width of each kernel, or one number for both.
      pooling: ``"avg"`` or ``"max"``, 2 x 2 with stride 2 after each convolution; None (or
        ``"none"``) for none.
      hidden: widths of the dense layers.
      batch_norm: whether a BatchNorm stands between each convolution and its activation.
      dropout: rate in [0, 1) applied before each dense layer.
      activation: by name or callable.
    """

    num_classes: int = 10
    features: Sequence[int] = (32, 64)
    kernel_size: int | tuple[int, int] = 3
    pooling: str | None = "avg"
    hidden: Sequence[int] = (256,)
    batch_norm: bool = False
    dropout: float = 0.0
    activation: str | Callable[[jax.Array], jax.Array] = "relu"

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The layers: a convolution ends with its pooling, the first dense one begins flat."""
        for i, width in enumerate(self.features):
            owns = (f"conv_{i}", f"norm_{i}") if self.batch_norm else (f"conv_{i}",)
            conv = functools.partial(self._conv, i, width)
            yield Part(f"conv_{i}", conv, owns=owns, takes="maps" if i else "images")
        dense = [(f"dense_{i}", width) for i, width in enumerate(self.hidden)]
        output = [("fc", self.num_classes)] if self.num_classes else []
        for i, (name, width) in enumerate((*dense, *output)):
            layer = functools.partial(self._dense, i, name, width)
            yield Part(name, layer, owns=(name,), takes=None)

    def _conv(self, i: int, width: int, x: jax.Array, train: bool) -> jax.Array:
        x = Conv(
            width,
            self.kernel_size,
            padding="SAME",
            use_bias=not self.batch_norm,
            kernel_init=nn.initializers.lecun_normal(),
            bias_init=nn.initializers.zeros,
            name=f"conv_{i}",
            **self.dtypes,
        )(x)
        if self.batch_norm:
            norm = nn.BatchNorm(use_running_average=not train, name=f"norm_{i}", **self.dtypes)
            x = norm(x)
        x = as_activation(self.activation)(x)
        if self._pooling is None:
            return x
        return avg_pool(x, 2, 2) if self._pooling == "avg" else max_pool(x, 2, 2, 0)

    def _dense(self, i: int, name: str, width: int, x: jax.Array, train: bool) -> jax.Array:
        x = x.reshape(x.shape[0], -1)
        if self.dropout:
            # Named, so that a slice draws what the whole network does.
            x = nn.Dropout(self.dropout, name=f"Dropout_{i}")(x, deterministic=not train)
        x = nn.Dense(width, name=name, **self.dtypes)(x)
        return x if name == "fc" else as_activation(self.activation)(x)

    @nn.nowrap
    def enter(self, x: Any, parts: Sequence[Part]) -> Any:
        """Checks that the maps are large enough for the poolings of the range, too."""
        x = super().enter(x, parts)
        poolings = sum(part.name.startswith("conv_") for part in parts) if self._pooling else 0
        if poolings and min(x.shape[1:3]) < 2**poolings:
            raise ShapeError(
                f"{parts[0].takes} must be at least {2**poolings} x {2**poolings} for {poolings} "
                f"poolings, got {list(x.shape)}"
            )
        return x

    @nn.nowrap
    def leave(self, x: Any, parts: Sequence[Part]) -> Any:
        """Flattens the maps at the end of a network without dense layers."""
        is_end = [part.name for part in parts][-1:] == list(self.stages())[-1:]
        return x.reshape(x.shape[0], -1) if is_end else x

    @property
    def _pooling(self) -> str | None:
        return as_choice("pooling", self.pooling, _POOLINGS)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_size("num_classes", self.num_classes, minimum=0)
        check_widths("features", self.features, allow_empty=True)
        check_kernel("kernel_size", self.kernel_size)
        check_widths("hidden", self.hidden, allow_empty=True)
        as_choice("pooling", self.pooling, _POOLINGS)


@register("cnn", input_shape=(28, 28, 1), paper=CNN_REFERENCE)
@takes_fields_of(CNN)
def cnn(num_classes: int = 10, **fields: Any) -> Classifier:
    """Small convolutional network, by default that of Flax's MNIST example."""
    head = {k: fields[k] for k in ("dropout", "dtype", "param_dtype") if k in fields}
    return Classifier(backbone=CNN(num_classes=0, **fields), head=Head(num_classes, **head))
