"""The blocks of MobileNet V4: universal inverted residuals, and attention whose heads share keys.

References:
  MobileNet V4: https://arxiv.org/abs/2404.10518
  Attention with one head of keys and values: https://arxiv.org/abs/1911.02150
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo.activations import as_activation
from flaxzoo.layers.attention import attend, weight_hook
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.initializers import GlorotUniform, HeNormal
from flaxzoo.layers.inverted_residual import MobileBlock
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import LayerScale, call_norm, make_norm
from flaxzoo.layers.pool import anti_alias


class UniversalResidual(MobileBlock):
    """An inverted residual with depthwise convolutions before, inside and behind it, or without.

    ``expand_kernel_sizes``, ``kernel_sizes`` and ``project_kernel_sizes`` have one size each, of
    the convolutions ``dw_start``, ``dw_mid`` and ``dw_end``; 0 for none. The stride is that of the
    one inside, or else of the first that there is.

    Attributes:
      layer_scale: what the learnt scale of the branch begins with; None for no scale.
    """

    layer_scale: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``."""
        start, middle, end = (
            sizes[0]
            for sizes in (self.expand_kernel_sizes, self.kernel_sizes, self.project_kernel_sizes)
        )
        act = as_activation(self.activation)
        y = x
        if start:
            y = self._depthwise(y, start, "dw_start", train, strided=not middle)
        y = act(self._pointwise(self.hidden, "pw_exp")(y, train))
        if middle:
            y = self._depthwise(y, middle, "dw_mid", train, strided=True, active=True)
        y = self._pointwise(self.features, "pw_proj")(self.gated(y), train)
        if end:
            y = self._depthwise(y, end, "dw_end", train, strided=not (start or middle))
        return self.add(x, scaled(y, self.layer_scale, self.param_dtype), train)

    @nn.nowrap
    def _pointwise(self, features: int, name: str) -> ConvNorm:
        options = {"norm": self.norm, "norm_epsilon": self.norm_epsilon, **self.dtypes}
        return ConvNorm(features, 1, kernel_init=HeNormal(), name=name, **options)

    @nn.nowrap
    def _depthwise(
        self,
        x: jax.Array,
        size: int,
        name: str,
        train: bool,
        *,
        strided: bool,
        active: bool = False,
    ) -> jax.Array:
        channels, stride = x.shape[-1], self.stride if strided else 1
        options: dict[str, Any] = {
            "dilation": self.dilation,
            "groups": channels,
            "padding": self.padding,
            "norm": self.norm,
            "norm_epsilon": self.norm_epsilon,
            "activation": self.activation if active else None,
            "kernel_init": HeNormal(groups=channels),
            **self.dtypes,
        }
        drops = self.anti_aliasing if stride > 1 else None
        x = ConvNorm(channels, size, 1 if drops else stride, name=name, **options)(x, train)
        return x if drops is None else anti_alias(x, drops, stride)


def scaled(x: jax.Array, init_value: float | None, param_dtype: Any) -> jax.Array:
    """Scales channels by the submodule ``layer_scale``, where it begins with a number."""
    if init_value is None:
        return x
    return LayerScale(init_value, param_dtype=param_dtype, name="layer_scale")(x)


class MobileAttention(MobileBlock):
    """A norm and attention of all pixels to all, or to fewer, that is added to the map.

    Attributes:
      heads: the number of heads of the queries; keys and values have one.
      head_dim: the channels of each.
      key_stride: by how much the map of keys and values is smaller, made so by a depthwise
        convolution with its norm.
      layer_scale: what the learnt scale of the branch begins with; None for no scale.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
    """

    heads: int = 4
    head_dim: int = 64
    key_stride: int = 1
    layer_scale: float | None = None
    implementation: str = "einsum"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, features]``."""
        options = {"epsilon": self.norm_epsilon, **self.dtypes}
        y = call_norm(make_norm(self.norm, "norm", **options), x, train=train)
        own = ("features", "heads", "head_dim", "key_stride", "norm", "norm_epsilon", "padding")
        fields = {name: getattr(self, name) for name in (*own, "implementation")}
        fields |= {"kernel_size": self.kernel_sizes[0], "dilation": self.dilation}
        y = MultiQueryAttention(name="attn", **fields, **self.dtypes)(y, train)
        return self.add(x, scaled(y, self.layer_scale, self.param_dtype), train)


class MultiQueryAttention(Layer):
    """Attention over a map whose heads share one head of keys and values.

    Attributes:
      features: the channels of the output.
      heads: the number of heads.
      head_dim: the channels of each.
      key_stride: by how much the map of keys and values is smaller.
      kernel_size: of the depthwise convolutions that make it so.
      dilation: of these.
      padding: of these (``flaxzoo.layers.conv.Conv``).
      norm: the kind of the norms behind these, by name or module.
      norm_epsilon: their epsilon; None for their own.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
    """

    features: int
    heads: int = 4
    head_dim: int = 64
    key_stride: int = 1
    kernel_size: int = 3
    dilation: int = 1
    padding: str | None = None
    norm: Any = "batch"
    norm_epsilon: float | None = None
    implementation: str = "einsum"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H, W, features]``."""
        q = self._conv(x, self.heads * self.head_dim, "query_proj")
        k = self._conv(self._reduced(x, "key", train), self.head_dim, "key_proj")
        v = self._conv(self._reduced(x, "value", train), self.head_dim, "value_proj")
        q = q.reshape(len(q), math.prod(x.shape[1:3]), self.heads, self.head_dim)
        k, v = (self._for_all_heads(part) for part in (k, v))
        y = attend(q, k, v, drop=weight_hook(self, 0.0, train), implementation=self.implementation)
        return self._conv(y.reshape(*x.shape[:3], -1), self.features, "output_proj")

    def _for_all_heads(self, x: jax.Array) -> jax.Array:
        tokens = x.reshape(len(x), -1, 1, x.shape[-1])
        return jnp.broadcast_to(tokens, (*tokens.shape[:2], self.heads, x.shape[-1]))

    def _conv(self, x: jax.Array, features: int, name: str, size: int = 1, **options: Any) -> Any:
        options |= {"kernel_init": GlorotUniform(), "name": name, **self.dtypes}
        return Conv(features, size, **options)(x)

    def _reduced(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """The map that keys or values are of."""
        if self.key_stride == 1:
            return x
        channels = x.shape[-1]
        options: dict[str, Any] = {"stride": self.key_stride, "dilation": self.dilation}
        options |= {"groups": channels, "padding": self.padding}
        x = self._conv(x, channels, f"{name}_down_conv", self.kernel_size, **options)
        norm = make_norm(self.norm, f"{name}_norm", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)
