"""The small convolutional network of the Flax tutorials, with the options people add to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo.activations import as_activation
from flaxzoo.errors import ShapeError
from flaxzoo.layers.checks import as_choice, check_kernel, check_rate, check_size, check_widths
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

    @nn.compact
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
        pooling = self._check_fields()
        if x.ndim != 4:
            raise ShapeError(f"images must have shape [B, H, W, C], got {list(x.shape)}")
        shrink = 2 ** len(self.features) if pooling else 1
        if min(x.shape[1:3]) < shrink:
            raise ShapeError(
                f"images must be at least {shrink} x {shrink} for {len(self.features)} poolings, "
                f"got {list(x.shape)}"
            )
        activation = as_activation(self.activation)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        size = self.kernel_size
        kernel = tuple(size) if isinstance(size, Sequence) else (size, size)
        for i, width in enumerate(self.features):
            x = nn.Conv(width, kernel, use_bias=not self.batch_norm, name=f"conv_{i}", **dtypes)(x)
            if self.batch_norm:
                x = nn.BatchNorm(use_running_average=not train, name=f"norm_{i}", **dtypes)(x)
            x = _pool(activation(x), pooling)
        x = x.reshape(x.shape[0], -1)
        for i, width in enumerate(self.hidden):
            if self.dropout:
                x = nn.Dropout(self.dropout)(x, deterministic=not train)
            x = activation(nn.Dense(width, name=f"dense_{i}", **dtypes)(x))
        if self.num_classes == 0:
            return x
        if self.dropout:
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
        return nn.Dense(self.num_classes, name="fc", **dtypes)(x)

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
    pool = nn.avg_pool if pooling == "avg" else nn.max_pool
    return pool(x, (2, 2), strides=(2, 2))


@register("cnn", input_shape=(28, 28, 1), paper=CNN_REFERENCE)
@takes_fields_of(CNN)
def cnn(num_classes: int = 10, **fields: Any) -> Classifier:
    """Small convolutional network, by default that of Flax's MNIST example."""
    head = {k: fields[k] for k in ("dropout", "dtype", "param_dtype") if k in fields}
    return Classifier(backbone=CNN(num_classes=0, **fields), head=Head(num_classes, **head))
