"""Gates over the channels: squeeze-and-excitation, its siblings of one layer, global context."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo.activations import as_activation
from flaxzoo.errors import did_you_mean
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.initializers import FanIn, HeNormal, plain_bias, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.mlp import Mlp
from flaxzoo.layers.norm import LayerNorm, call_norm, make_norm


class SqueezeExcite(Layer):
    """Scales channels by gates computed from their means over the image.

    Hu et al. 2018, https://arxiv.org/abs/1709.01507. Parameters are named as timm's ``SEModule``:
    ``fc1``, ``fc2``, 1 x 1 convolutions, and ``bn``, the norm where there is one.

    Attributes:
      ratio: the width between the two layers, as a part of the channels; it is rounded to a
        multiple of ``rounding``.
      width: this width itself, instead of ``ratio``.
      activation: the function between the two layers, by name or callable.
      use_bias: whether the layers have biases.
      gate_activation: the function that makes gates of what the second gives.
      norm: behind the first layer, by name or module (``flaxzoo.layers.norm``); None for none.
      rounding: what divides the width that ``ratio`` gives.
      bias_init: the initialiser of the biases.
      kernel_init: that of both kernels, by default a ResNet's.
    """

    ratio: float = 1 / 16
    width: int | None = None
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    use_bias: bool = True
    gate_activation: str | Callable[[jax.Array], jax.Array] = "sigmoid"
    norm: Any = None
    rounding: int = 8
    bias_init: Any = zeros
    kernel_init: Any = HeNormal()

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Scales ``[B, H, W, C]``, to the same shape; a BatchNorm inside asks for ``train``."""
        channels = x.shape[-1]
        width, by = self.width, self.rounding
        width = divisible(channels * self.ratio, by, by) if width is None else width
        gate = self._layer(width, "fc1")(x.mean((1, 2), keepdims=True))
        if self.norm is not None:
            gate = call_norm(make_norm(self.norm, "bn", **self.dtypes), gate, train=train)
        gate = as_activation(self.activation)(gate)
        return x * as_activation(self.gate_activation)(self._layer(channels, "fc2")(gate))

    @nn.nowrap
    def _layer(self, features: int, name: str) -> Conv:
        options: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options |= {"kernel_init": self.kernel_init, "bias_init": self.bias_init}
        return Conv(features, 1, use_bias=self.use_bias, name=name, **options)


class EfficientChannelAttention(Layer):
    """Scales channels by gates that one short convolution along the channels computes.

    Wang et al. 2020, https://arxiv.org/abs/1910.03151. The parameter is named as timm's
    ``EcaModule``: ``conv``.

    Attributes:
      kernel_init: the initialiser of the kernel, by default that of PyTorch's convolutions.
      kernel_size: the kernel's length, an odd number; None for one that grows with the logarithm
        of the channels.
    """

    kernel_init: Any = FanIn()
    kernel_size: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales ``[B, H, W, C]``, to the same shape."""
        size = self.kernel_size
        if size is None:
            reach = int((math.log2(x.shape[-1]) + 1) / 2)
            size = max(reach if reach % 2 else reach + 1, 3)
        gate = nn.Conv(
            1,
            (size,),
            padding=size // 2,
            use_bias=False,
            kernel_init=self.kernel_init,
            name="conv",
            **self.dtypes,
        )(x.mean((1, 2))[..., None])
        return x * nn.sigmoid(gate)[:, None, None, :, 0]


class EffectiveSqueezeExcite(Layer):
    """Scales channels by gates that one layer computes from their means over the image.

    Lee and Park 2019 (CenterMask), https://arxiv.org/abs/1911.06667, section 3.3: no channels are
    lost between two layers. Parameters are named as timm's ``EffectiveSEModule``: ``fc``, a 1 x 1
    convolution.

    Attributes:
      gate_activation: the function that makes gates.
      kernel_init: the initialiser of the kernel.
      bias_init: that of the bias.
    """

    gate_activation: str | Callable[[jax.Array], jax.Array] = "hard_sigmoid"
    kernel_init: Any = HeNormal()
    bias_init: Any = plain_bias

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales ``[B, H, W, C]``, to the same shape."""
        options: dict[str, Any] = {"kernel_init": self.kernel_init, "bias_init": self.bias_init}
        options |= {**self.dtypes, "name": "fc"}
        gate = Conv(x.shape[-1], 1, use_bias=True, **options)(x.mean((1, 2), keepdims=True))
        return x * as_activation(self.gate_activation)(gate)


class GlobalContext(Layer):
    """Scales channels by gates computed from a mean over the image that is weighed by attention.

    Cao et al. 2019, https://arxiv.org/abs/1904.11492. Parameters are named as timm's
    ``GlobalContext``: ``conv_attn``, and in ``mlp_scale``, or ``mlp_add``, the layers ``fc1`` and
    ``fc2`` with ``norm`` between them.

    Attributes:
      ratio: the width between the two layers, as a part of the channels.
      width: this width itself, instead of ``ratio``.
      activation: the function between the two layers, by name or callable.
      gate_activation: the function that makes gates of what the second gives.
      kernel_init: the initialiser of all kernels; None for those of timm's module.
      adds: whether what the layers give is added to each pixel instead, and begins as zero.
      hidden_init: the initialiser of the first layer's kernel; None for that of all.
    """

    ratio: float = 1 / 8
    width: int | None = None
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    gate_activation: str | Callable[[jax.Array], jax.Array] = "sigmoid"
    kernel_init: Any = None
    adds: bool = False
    hidden_init: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales ``[B, H, W, C]``, to the same shape."""
        images, channels = x.shape[0], x.shape[-1]
        width = max(1, int(channels * self.ratio + 0.5)) if self.width is None else self.width
        own = self.kernel_init or HeNormal("fan_in")
        options: dict[str, Any] = {"use_bias": True, "kernel_init": own, **self.dtypes}
        logits = Conv(1, 1, name="conv_attn", **options)(x)
        # Few numbers of large sums: in float32 at least.
        wide = jnp.promote_types(logits.dtype, jnp.float32)
        weights = nn.softmax(logits.astype(wide).reshape(images, -1), -1).astype(x.dtype)
        tokens = x.reshape(images, -1, channels)
        context = jnp.einsum("bn,bnc->bc", weights, tokens)[:, None, None, :]
        own = self.hidden_init or self.kernel_init or FanIn()
        options = {
            "activation": self.activation,
            "kernel_init": own,
            "as_conv": True,
            **self.dtypes,
        }
        if self.adds:
            options["last_init"] = zeros
            return x + _NormFirstMlp(width, name="mlp_add", **options)(context)
        gate = _NormFirstMlp(width, name="mlp_scale", **options)(context)
        return x * as_activation(self.gate_activation)(gate)


class _NormFirstMlp(Mlp):
    """An ``Mlp`` whose hidden units are normalised before the activation, as timm's ``ConvMlp``."""

    def hidden_units(self, x: jax.Array) -> jax.Array:
        """Computes what stands between the two layers."""
        y = LayerNorm(name="norm", **self.dtypes)(self.layer(self.hidden, "fc1")(x))
        return as_activation(self.activation)(y)


GATES: dict[str, Callable[..., nn.Module]] = {
    "se": SqueezeExcite,
    "eca": EfficientChannelAttention,
    "ese": EffectiveSqueezeExcite,
    "gc": GlobalContext,
}


def as_gate(gate: str | Callable[..., nn.Module] | None) -> Callable[..., nn.Module] | None:
    """Returns the gate that a name stands for; a module class is returned as it is.

    Args:
      gate: ``"se"``, ``"eca"``, ``"ese"`` or ``"gc"``, None for none, or a Linen module class (or
        partial) that takes ``name``, ``dtype`` and ``param_dtype`` and maps ``[B, H, W, C]`` to the
        same shape.

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


def divisible(width: float, by: int = 8, minimum: int = 8, limit: float = 0.0) -> int:
    """Returns the multiple of ``by`` nearest to ``width``, at least ``minimum``.

    Where that is less than ``limit`` times ``width``, it is the next larger one.
    """
    rounded = max(minimum, int(width + by / 2) // by * by)
    return rounded + by if rounded < limit * width else rounded
