"""The small convolutional network of the Flax tutorials, with the options people add to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import as_choice, check_kernel, check_rate, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ShapeError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.pool import avg_pool, max_pool
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import Head
from flaxzoo.models.registry import register, takes_fields_of

CNN_REFERENCE = "https://github.com/google/flax/tree/main/examples/mnist"
_POOLINGS = ("avg", "max")


class CNN(nn.Module):
    """Convolutions with pooling, then dense layers.

    With its defaults it computes the network of Flax's MNIST example: convolution 32,
    average-pool, convolution 64, average-pool, dense 256, dense ``num_classes``, with ReLU between
    (``CNN_REFERENCE``).

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
      dtype: of the computation; None keeps the promotion of inputs and parameters.
      param_dtype: of the parameters.
    """

    num_classes: int = 10
    features: Sequence[int] = (32, 64)
    kernel_size: int | tuple[int, int] = 3
    pooling: str | None = "avg"
    hidden: Sequence[int] = (256,)
    batch_norm: bool = False
    dropout: float = 0.0
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.nowrap
    def stages(self) -> dict[str, tuple[str, ...]]:
        """The layers, ``conv_0`` to ``fc``, and the submodules of each.

        A stage ends with the pooling; the first dense one begins with flattening the maps.

        Raises:
          ValueError: a field holds what it does not take.
        """
        self._check_fields()
        found = {
            f"conv_{i}": (f"conv_{i}", f"norm_{i}")[: 1 + self.batch_norm]
            for i in range(len(self.features))
        }
        dense = [f"dense_{i}" for i in range(len(self.hidden))]
        return found | {name: (name,) for name in (*dense, *["fc"] * bool(self.num_classes))}

    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Computes logits.

        Args:
          x: images ``[B, H, W, C]``, floating.
          train: whether Dropout drops and BatchNorm uses the batch's statistics.

        Returns:
          Logits ``[B, num_classes]``, or features where ``num_classes`` is 0.

        Raises:
          ShapeError: ``x`` is not of rank 4, or too small for the pooling.
          ValueError: a field holds what it does not take: an unknown pooling, a width below 1, a
            rate outside [0, 1).
        """
        return self.run_stages(x, train=train)

    @nn.compact
    def run_stages(
        self, x: jax.Array, start: int = 0, stop: int | None = None, *, train: bool = False
    ) -> jax.Array:
        """Computes the stages ``start`` to ``stop`` of ``stages()``.

        Args:
          x: images, or what the stage before returns.
          start: number of the first stage.
          stop: number of the first one that is left out; None for none.
          train: as for a call.

        Raises:
          ShapeError: ``x`` is too small for the pooling, or no maps where these are taken.
          ValueError: a field holds what it does not take.
        """
        pooling = self._check_fields()
        names = list(self.stages())
        convs = len(self.features)
        stop = len(names) if stop is None else stop
        if not start or start < convs:
            what = "maps" if start else "images"
            self._check_images(what, x, max(min(stop, convs) - start, 0), pooling)
        activation = as_activation(self.activation)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i, width in list(enumerate(self.features))[start:stop]:
            conv = Conv(
                width,
                self.kernel_size,
                padding="SAME",
                use_bias=not self.batch_norm,
                kernel_init=nn.initializers.lecun_normal(),
                bias_init=nn.initializers.zeros,
                name=f"conv_{i}",
                **dtypes,
            )
            x = conv(x)
            if self.batch_norm:
                x = nn.BatchNorm(use_running_average=not train, name=f"norm_{i}", **dtypes)(x)
            x = _pool(activation(x), pooling)
        if stop > convs or stop == len(names):
            x = x.reshape(x.shape[0], -1)
        for i, name in enumerate(names[convs:]):
            if not start <= convs + i < stop:
                continue
            if self.dropout:
                # Named, so that a slice draws what the whole network does.
                x = nn.Dropout(self.dropout, name=f"Dropout_{i}")(x, deterministic=not train)
            if name == "fc":
                return nn.Dense(self.num_classes, name=name, **dtypes)(x)
            x = activation(nn.Dense(self.hidden[i], name=name, **dtypes)(x))
        return x

    @nn.nowrap
    def _check_images(self, what: str, x: jax.Array, convs: int, pooling: str | None) -> None:
        """Raises ShapeError for images that so many convolutions and poolings can't take."""
        if x.ndim != 4:
            raise ShapeError(f"{what} must have shape [B, H, W, C], got {list(x.shape)}")
        shrink = 2**convs if pooling else 1
        if min(x.shape[1:3]) < shrink:
            raise ShapeError(
                f"{what} must be at least {shrink} x {shrink} for {convs} poolings, "
                f"got {list(x.shape)}"
            )

    @nn.nowrap
    def _check_fields(self) -> str | None:
        """Raises ValueError for what a field does not take; returns the kind of pooling."""
        check_size("num_classes", self.num_classes, minimum=0)
        check_widths("features", self.features, allow_empty=True)
        check_kernel("kernel_size", self.kernel_size)
        check_widths("hidden", self.hidden, allow_empty=True)
        check_rate("dropout", self.dropout)
        return as_choice("pooling", self.pooling, _POOLINGS)


def _pool(x: jax.Array, pooling: str | None) -> jax.Array:
    if pooling is None:
        return x
    return avg_pool(x, 2, 2) if pooling == "avg" else max_pool(x, 2, 2, 0)


@register("cnn", input_shape=(28, 28, 1), paper=CNN_REFERENCE)
@takes_fields_of(CNN)
def cnn(num_classes: int = 10, **fields: Any) -> Classifier:
    """Small convolutional network, by default that of Flax's MNIST example."""
    head = {k: fields[k] for k in ("dropout", "dtype", "param_dtype") if k in fields}
    return Classifier(backbone=CNN(num_classes=0, **fields), head=Head(num_classes, **head))
