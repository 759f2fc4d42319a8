"""The multi-layer perceptron."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo.activations import as_activation
from flaxzoo.errors import ShapeError
from flaxzoo.layers.checks import as_choice, check_rate, check_size, check_widths
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import Head
from flaxzoo.models.registry import register, takes_fields_of

_NORMS = ("batch", "layer", "rms")
# What the axes of one example are called in messages.
_AXES = {1: "F", 2: "H, W", 3: "H, W, C"}


class MLP(nn.Module):
    """Dense layers with optional normalisation, dropout and residual connections.

    Attributes:
      features: width of each layer; the last one is the output's.
      activation: by name or callable, after every layer but the last.
      activate_final: whether the last layer is normalised and activated too, as a backbone's is.
      norm: ``"batch"``, ``"layer"``, ``"rms"`` or None (or ``"none"``), between a layer and its
        activation.
      dropout: rate in [0, 1) applied after each activation.
      residual: whether a layer's input is added to its output where the widths agree.
      input_ndim: how many trailing axes are one example, flattened to one: 1 takes
        ``[..., features]``, 3 takes images ``[..., H, W, C]``.
      dtype: of the computation; None keeps the promotion of inputs and parameters.
      param_dtype: of the parameters.
    """

    features: Sequence[int] = (256, 128)
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    activate_final: bool = False
    norm: str | None = None
    dropout: float = 0.0
    residual: bool = False
    input_ndim: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> jax.Array:
        """Computes ``[..., features[-1]]`` from ``[..., *example]``; any leading batch axes.

        Raises:
          ShapeError: ``x`` has fewer axes than one example.
          ValueError: a field holds what it does not take: an unknown norm, a width below 1, no
            widths, a rate outside [0, 1).
        """
        norm = self._check_fields()
        if x.ndim < self.input_ndim:
            axes = _AXES.get(self.input_ndim) or ", ".join(f"D{i}" for i in range(self.input_ndim))
            raise ShapeError(
                f"inputs must be [..., {axes}], with {self.input_ndim} axes in each example, "
                f"got shape {list(x.shape)}"
            )
        batch = x.shape[: x.ndim - self.input_ndim]
        x = x.reshape(*batch, math.prod(x.shape[x.ndim - self.input_ndim :]))
        activation = as_activation(self.activation)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i, width in enumerate(self.features):
            y = nn.Dense(width, name=f"dense_{i}", **dtypes)(x)
            if i < len(self.features) - 1 or self.activate_final:
                y = self._normalise(y, norm, f"norm_{i}", train=train)
                y = activation(y)
                if self.dropout:
                    y = nn.Dropout(self.dropout)(y, deterministic=not train)
            x = x + y if self.residual and x.shape[-1] == width else y
        return x

    def _check_fields(self) -> str | None:
        """Raises ValueError for what a field does not take; returns the kind of norm."""
        check_widths("features", self.features, allow_empty=True)
        if not self.features:
            raise ValueError("features must name at least one layer's width, got an empty sequence")
        check_rate("dropout", self.dropout)
        check_size("input_ndim", self.input_ndim)
        return as_choice("norm", self.norm, _NORMS)

    def _normalise(self, x: jax.Array, norm: str | None, name: str, *, train: bool) -> jax.Array:
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if norm is None:
            return x
        if norm == "batch":
            return nn.BatchNorm(use_running_average=not train, name=name, **dtypes)(x)
        norm_class = nn.LayerNorm if norm == "layer" else nn.RMSNorm
        return norm_class(name=name, **dtypes)(x)


@register("mlp", input_shape=(28, 28, 1))
@takes_fields_of(MLP, without=("activate_final", "input_ndim"))
def mlp(
    num_classes: int = 10, *, input_shape: tuple[int, ...] = (28, 28, 1), **fields: Any
) -> Classifier:
    """Multi-layer perceptron over flattened inputs: hidden layers 256 and 128 by default."""
    check_widths("input_shape", input_shape)
    backbone = MLP(activate_final=True, input_ndim=len(input_shape), **fields)
    head = {k: fields[k] for k in ("dtype", "param_dtype") if k in fields}
    return Classifier(backbone=backbone, head=Head(num_classes, **head))
