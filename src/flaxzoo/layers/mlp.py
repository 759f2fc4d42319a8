"""Two layers on each token or pixel: what transformers and ConvNeXts repeat."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_size
from flaxzoo.activations import as_activation
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.initializers import Halves, Normal, ones, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import GlobalResponseNorm, call_norm, make_norm

# How a layer of gates begins that are open whatever the input.
_OPEN = {"kernel_init": Normal(1e-6), "bias_init": ones}


class Mlp(Layer):
    """Computes ``fc2(activation(fc1(x)))`` over the last axis, as timm's ``Mlp``.

    Attributes:
      hidden: the width between the two layers.
      features: the width of the output; None for that of the input.
      activation: the function between the layers, by name or callable.
      use_bias: whether the layers have biases.
      norm: the normalisation of the hidden units, a submodule ``norm``, by name or module
        (``flaxzoo.layers.norm``); None for none.
      norm_epsilon: the epsilon of this normalisation; None for its own.
      dropout: the rate at which hidden units and outputs are dropped.
      drop_outputs: whether outputs are dropped as well, or hidden units alone.
      as_conv: whether the kernels are those of 1 x 1 convolutions, as some checkpoints have them.
      kernel_init: the initialiser of all kernels.
      last_init: that of the second layer's; None for the same.
      bias_init: that of the biases.
    """

    hidden: int
    features: int | None = None
    activation: Any = "gelu"
    use_bias: bool = True
    norm: Any = None
    norm_epsilon: float | None = None
    dropout: float = 0.0
    drop_outputs: bool = True
    as_conv: bool = False
    kernel_init: Any = Normal(0.02)
    last_init: Any = None
    bias_init: Any = zeros

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[..., C]`` to ``[..., features]``.

        Args:
          x: tokens; maps ``[B, H, W, C]`` where the layers are convolutions.
          train: whether units are dropped.
        """
        check_size("hidden", self.hidden)
        features = x.shape[-1] if self.features is None else self.features
        y = self.drop(self.hidden_units(x), "drop1", train)
        y = self.layer(features, "fc2")(self.normalise(y, train))
        return self.drop(y, "drop2", train) if self.drop_outputs else y

    def hidden_units(self, x: jax.Array) -> jax.Array:
        """Computes what stands between the two layers."""
        return as_activation(self.activation)(self.layer(self.hidden, "fc1")(x))

    def normalise(self, y: jax.Array, train: bool) -> jax.Array:
        """Normalises the hidden units."""
        if self.norm is None:
            return y
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, y, train=train)

    def drop(self, y: jax.Array, name: str, train: bool) -> jax.Array:
        """Drops units."""
        if not self.dropout:
            return y
        return nn.Dropout(self.dropout, name=name)(y, deterministic=not train)

    @nn.nowrap
    def layer(self, features: int, name: str) -> nn.Module:
        """Makes a layer, dense or a 1 x 1 convolution."""
        options = {
            "use_bias": self.use_bias,
            "name": name,
            **self.initialisers(name),
            **self.dtypes,
        }
        return Conv(features, 1, **options) if self.as_conv else Dense(features, **options)

    @nn.nowrap
    def initialisers(self, name: str) -> dict[str, Any]:
        """Returns how a layer begins, as keywords."""
        last = name == "fc2" and self.last_init is not None
        kernel = self.last_init if last else self.kernel_init
        return {"kernel_init": kernel, "bias_init": self.bias_init}


class GlobalResponseNormMlp(Mlp):
    """An ``Mlp`` with a ``GlobalResponseNorm`` named ``grn`` before its second layer."""

    def normalise(self, y: jax.Array, train: bool) -> jax.Array:
        """Lets the channels compete."""
        return GlobalResponseNorm(name="grn", **self.dtypes)(y)


class GluMlp(Mlp):
    """An ``Mlp`` of which one half of the hidden units gates the other, as timm's ``GluMlp``.

    Shazeer 2020, https://arxiv.org/abs/2002.05202. timm's ``SwiGLUPacked`` is
    ``GluMlp(activation="silu", gate_last=False)``.

    Attributes:
      hidden: the width of both halves together.
      gate_last: whether the second half goes through the activation, or the first one.
      open_gates: whether the second half begins with ones, next to nothing of the input.
    """

    activation: Any = "sigmoid"
    gate_last: bool = True
    open_gates: bool = False

    @nn.nowrap
    def initialisers(self, name: str) -> dict[str, Any]:
        """Returns how a layer begins, as keywords."""
        options = super().initialisers(name)
        if name == "fc1" and self.open_gates:
            options = {key: Halves(init, _OPEN[key]) for key, init in options.items()}
        return options

    def hidden_units(self, x: jax.Array) -> jax.Array:
        """Computes what stands between the two layers, of half the width.

        Raises:
          ValueError: ``hidden`` is odd.
        """
        if self.hidden % 2:
            raise ValueError(f"hidden must be even, got {self.hidden}")
        first, second = jnp.split(self.layer(self.hidden, "fc1")(x), 2, axis=-1)
        act = as_activation(self.activation)
        return first * act(second) if self.gate_last else act(first) * second


class SwiGLU(Mlp):
    """An ``Mlp`` whose hidden units are gated by another layer's, as timm's ``SwiGLU``.

    Shazeer 2020, https://arxiv.org/abs/2002.05202. The layers are named ``fc1_g``, ``fc1_x`` and
    ``fc2``.

    Attributes:
      open_gates: whether the gates begin with ones, next to nothing of the input.
    """

    activation: Any = "silu"
    open_gates: bool = False

    @nn.nowrap
    def initialisers(self, name: str) -> dict[str, Any]:
        """Returns how a layer begins, as keywords."""
        open_gates = self.open_gates and name == "fc1_g"
        return dict(_OPEN) if open_gates else super().initialisers(name)

    def hidden_units(self, x: jax.Array) -> jax.Array:
        """Computes what stands between the first two layers and the last."""
        gate = as_activation(self.activation)(self.layer(self.hidden, "fc1_g")(x))
        return gate * self.layer(self.hidden, "fc1_x")(x)
