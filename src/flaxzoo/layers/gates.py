"""Gates over the channels: squeeze-and-excitation and its one-convolution sibling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo.activations import as_activation
from flaxzoo.errors import did_you_mean
from flaxzoo.layers.checked import Checked
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.initializers import FanIn, plain_bias


class SqueezeExcite(Checked):
    """Scales channels by gates computed from their means over the image.

    Hu et al. 2018, https://arxiv.org/abs/1709.01507. Parameters are named as timm's ``SEModule``:
    ``fc1``, ``fc2``, 1 x 1 convolutions.

    Attributes:
      ratio: the width between the two layers, as a part of the channels; it is rounded to a
        multiple of 8.
      width: this width itself, instead of ``ratio``.
      activation: the function between the two layers, by name or callable.
      use_bias: whether the layers have biases.
      plain_init: whether both layers begin as PyTorch's convolutions do, rather than as a ResNet's.
      dtype: the dtype of the computation; None promotes inputs and parameters.
      param_dtype: the dtype of the parameters.
    """

    ratio: float = 1 / 16
    width: int | None = None
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    use_bias: bool = True
    plain_init: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales ``[B, H, W, C]``, to the same shape."""
        channels = x.shape[-1]
        width = divisible(channels * self.ratio) if self.width is None else self.width
        gate = self._layer(width, "fc1", channels)(x.mean((1, 2), keepdims=True))
        gate = as_activation(self.activation)(gate)
        return x * nn.sigmoid(self._layer(channels, "fc2", width)(gate))

    @nn.nowrap
    def _layer(self, features: int, name: str, fan_in: int) -> Conv:
        options: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        if self.plain_init:
            options |= {"kernel_init": FanIn(), "bias_init": plain_bias(fan_in)}
        return Conv(features, 1, use_bias=self.use_bias, name=name, **options)


class EfficientChannelAttention(Checked):
    """Scales channels by gates that one short convolution along the channels computes.

    Wang et al. 2020, https://arxiv.org/abs/1910.03151. The kernel's length grows with the
    logarithm of the channels. The parameter is named as timm's ``EcaModule``: ``conv``.

    Attributes:
      dtype: the dtype of the computation; None promotes inputs and parameters.
      param_dtype: the dtype of the parameters.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales ``[B, H, W, C]``, to the same shape."""
        reach = int((math.log2(x.shape[-1]) + 1) / 2)
        size = max(reach if reach % 2 else reach + 1, 3)
        gate = nn.Conv(
            1,
            (size,),
            padding=size // 2,
            use_bias=False,
            name="conv",
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )(x.mean((1, 2))[..., None])
        return x * nn.sigmoid(gate)[:, None, None, :, 0]


GATES: dict[str, Callable[..., nn.Module]] = {
    "se": SqueezeExcite,
    "eca": EfficientChannelAttention,
}


def as_gate(gate: str | Callable[..., nn.Module] | None) -> Callable[..., nn.Module] | None:
    """Returns the gate that a name stands for; a module class is returned as it is.

    Args:
      gate: ``"se"`` or ``"eca"``, None for none, or a Linen module class (or partial) that takes
        ``name``, ``dtype`` and ``param_dtype`` and maps ``[B, H, W, C]`` to the same shape.

    Raises:
      ValueError: no gate has that name, or what was passed makes no module.
    """
    if gate is None or gate == "none":
        return None
    if not isinstance(gate, str) and callable(gate):
        return gate
    if gate not in GATES:
        hint = did_you_mean(gate, GATES) if isinstance(gate, str) else ""
        raise ValueError(
            f"gate must be one of {', '.join(GATES)}, None or a module, got {gate!r}.{hint}"
        )
    return GATES[gate]


def divisible(width: float, by: int = 8, minimum: int = 8) -> int:
    """Returns the multiple of ``by`` nearest to ``width``, at least ``minimum``."""
    return max(minimum, int(width + by / 2) // by * by)
