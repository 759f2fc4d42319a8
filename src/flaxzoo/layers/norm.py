"""Normalisation with PyTorch's conventions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._calls import call_module
from flaxzoo.errors import ShapeError, did_you_mean
from flaxzoo.layers.channels import per_channel
from flaxzoo.layers.initializers import Constant, ones, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.lowering.batch_norm import normalise, statistics
from flaxzoo.layers.lowering.derivatives import is_ours, standardise


class BatchNorm(nn.BatchNorm):
    """Flax's BatchNorm with the running variance of PyTorch.

    Both normalise a batch by its biased variance. PyTorch then averages the unbiased one,
    ``n / (n - 1)`` times that, into the running statistics; Flax the biased one. With small batches
    and small maps the two differ by percents, and a checkpoint fine-tuned here would drift from
    the same run there. ``momentum`` is what is kept: 0.9 is PyTorch's 0.1.
    https://arxiv.org/abs/1502.03167
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    scale_init: Any = ones
    bias_init: Any = zeros

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        use_running_average: bool | None = None,
        *,
        mask: jax.Array | None = None,
    ) -> jax.Array:
        """Normalises ``[B, ..., C]``; see ``flax.linen.BatchNorm``."""
        average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        axes = (self.axis,) if isinstance(self.axis, int) else self.axis
        kept = sorted(axis % x.ndim for axis in axes)
        reduced = tuple(i for i in range(x.ndim) if i not in kept)
        shape = [x.shape[i] for i in kept]
        kind = jnp.float32 if self.force_float32_reductions else self.param_dtype
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, kind)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, kind)
        scale = bias = None
        if self.use_scale:
            scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        if self.use_bias:
            bias = self.param("bias", self.bias_init, shape, self.param_dtype)
        arrays = (value for value in (x, scale, bias) if value is not None)
        dtype = nn.dtypes.canonicalize_dtype(*arrays, dtype=self.dtype)
        if average:
            mean, var = running_mean.value, running_var.value
            if not self.force_float32_reductions:
                mean, var = (jnp.asarray(value, self.param_dtype) for value in (mean, var))
        else:
            groups = self.axis_index_groups
            mean, var, unbiased = statistics(
                x,
                mask,
                reduced=reduced,
                dtype=self.dtype,
                wide=self.force_float32_reductions,
                fast=self.use_fast_variance,
                axis_name=None if self.is_initializing() else self.axis_name,
                groups=None if groups is None else tuple(map(tuple, groups)),
            )
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * unbiased
        return normalise(
            x, mean, var, scale, bias, reduced=reduced, epsilon=self.epsilon, dtype=dtype
        )


class GroupNorm(nn.GroupNorm):
    """Flax's GroupNorm (https://arxiv.org/abs/1803.08494) with PyTorch's epsilon."""

    epsilon: float = 1e-5
    scale_init: Any = ones
    bias_init: Any = zeros


class OneGroupNorm(GroupNorm):
    """A GroupNorm of one group: all that an example has, with a scale and a bias for each channel.

    The variance is the mean of the squared distances from the mean, as ``LayerNorm``'s. It is
    timm's ``GroupNorm1``.
    """

    num_groups: int | None = 1
    use_fast_variance: bool = False


class LayerNorm(nn.LayerNorm):
    """Flax's LayerNorm (https://arxiv.org/abs/1607.06450) with PyTorch's variance.

    The variance is the mean of the squared distances from the mean, in float32 at least. Flax's
    default, the mean of the squares minus the square of the mean, loses digits where the mean is
    large. The epsilon is that of timm's vision models.
    """

    epsilon: float = 1e-6
    scale_init: Any = ones
    bias_init: Any = zeros
    use_fast_variance: bool = False

    def __call__(self, x: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Normalises ``[..., C]``; see ``flax.linen.LayerNorm``."""
        others = (mask, self.axis_name, self.axis_index_groups, self.use_fast_variance or None)
        usual = self.reduction_axes == self.feature_axes == -1 and self.dtype in (None, x.dtype)
        if usual and others == (None,) * len(others) and is_ours(x):
            return self._normalise(x)
        return super().__call__(x, mask=mask)

    @nn.compact
    def _normalise(self, x: jax.Array) -> jax.Array:
        y = standardise(x, self.epsilon)
        shape = (x.shape[-1],)
        if self.use_scale:
            y = y * per_channel(self.param("scale", self.scale_init, shape, self.param_dtype), y)
        if self.use_bias:
            y = y + per_channel(self.param("bias", self.bias_init, shape, self.param_dtype), y)
        return y


class RMSNorm(nn.RMSNorm):
    """Flax's RMSNorm (https://arxiv.org/abs/1910.07467) with timm's epsilon."""

    epsilon: float = 1e-6
    scale_init: Any = ones


class SimpleNorm(Layer):
    """Divides by the unbiased standard deviation of the channels, without centring them.

    It is timm's module of this name. The statistics are float32 at least.

    Attributes:
      epsilon: a small number that is added to the variance.
      scale_init: the initialiser of the scale.
      dtype: the dtype of the result; None promotes inputs and scale.
      param_dtype: the dtype of the scale.
    """

    epsilon: float = 1e-6
    scale_init: Any = ones

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises ``[..., C]`` over its last axis."""
        scale = self.param("scale", self.scale_init, (x.shape[-1],), self.param_dtype)
        dtype = nn.dtypes.canonicalize_dtype(x, scale, dtype=self.dtype)
        wide = x.astype(jnp.promote_types(dtype, jnp.float32))
        var = wide.var(-1, ddof=1, keepdims=True)
        return (wide * jax.lax.rsqrt(var + self.epsilon) * per_channel(scale, x)).astype(dtype)


class GlobalResponseNorm(Layer):
    """Lets the channels of an image compete by their norms.

    Woo et al. 2023 (ConvNeXt V2), https://arxiv.org/abs/2301.00808, equations 1 to 3. The sums are
    float32 at least.

    Attributes:
      epsilon: a small number that is added to the mean of the norms.
      param_dtype: the dtype of the parameters ``scale`` and ``bias``, which start at zero.
    """

    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales ``[B, H, W, C]`` and adds the result to it."""
        scale = self.param("scale", zeros, (x.shape[-1],), self.param_dtype)
        bias = self.param("bias", zeros, (x.shape[-1],), self.param_dtype)
        x, scale, bias = nn.dtypes.promote_dtype(x, scale, bias, dtype=self.dtype)
        scale, bias = per_channel(scale, x), per_channel(bias, x)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        squares = jnp.square(wide).sum((1, 2), keepdims=True)
        # The root has no gradient at zero, where an image has nothing in a channel.
        size = jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)
        share = size / (size.mean(-1, keepdims=True) + self.epsilon)
        return x + (bias + scale * (x * share.astype(x.dtype)))


class EvoNormS0(Layer):
    """A norm and an activation in one, ``x * sigmoid(v * x) / std``, then a scale and a bias.

    The deviation is that of each example's groups of channels. "Evolving Normalization-Activation
    Layers", Liu et al. 2020, https://arxiv.org/abs/2004.02967. Where the activation is left out,
    what remains is the scale and the bias, as in timm's ``EvoNorm2dS0``.

    Attributes:
      group_size: the channels of each group.
      groups: the number of groups, where that is given and their size follows.
      epsilon: is added to the variance.
      active: whether the activation is computed, and the deviation divided by.
      divides: whether it is divided by where the activation is left out, too, as in timm's
        ``EvoNorm2dS0a``.
      scale_init: the initialiser of the scale.
      dtype: the dtype of the result; None for that of the inputs.
      param_dtype: the dtype of the parameters ``v``, ``scale`` and ``bias``.
    """

    activates: ClassVar[bool] = True

    group_size: int = 8
    groups: int | None = None
    epsilon: float = 1e-5
    active: bool = True
    scale_init: Any = ones
    divides: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape.

        Raises:
          ShapeError: the groups do not divide the channels.
        """
        channels = x.shape[-1]
        if channels % (self.groups or self.group_size):
            parts = f"{self.groups} groups" if self.groups else f"groups of {self.group_size}"
            raise ShapeError(f"{channels} channels are not divided by {parts}")
        x = x if self.dtype is None else x.astype(self.dtype)
        if self.active:
            v = self.param("v", ones, (channels,), self.param_dtype)
            gated = x * nn.sigmoid(x * per_channel(v, x).astype(x.dtype))
            x = gated / self._deviation(x)
        elif self.divides:
            x = x / self._deviation(x)
        scale = self.param("scale", self.scale_init, (channels,), self.param_dtype)
        bias = self.param("bias", zeros, (channels,), self.param_dtype)
        return x * per_channel(scale, x).astype(x.dtype) + per_channel(bias, x).astype(x.dtype)

    @nn.nowrap
    def _deviation(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        size = x.shape[-1] // self.groups if self.groups else self.group_size
        groups = wide.reshape(*x.shape[:-1], x.shape[-1] // size, size)
        variance = groups.var((1, 2, 4), keepdims=True)
        deviation = jnp.sqrt(variance + jnp.asarray(self.epsilon, variance.dtype))
        repeated = jnp.broadcast_to(deviation, (*deviation.shape[:-1], size))
        return repeated.reshape(x.shape[0], 1, 1, x.shape[-1]).astype(x.dtype)


class FilterResponseNorm(Layer):
    """Divides each channel of an image by its root mean square; a learnt threshold activates.

    "Filter Response Normalization Layer", Singh and Krishnan 2019, https://arxiv.org/abs/1911.09737.
    The mean is float32 at least, and nothing is centred.

    Attributes:
      epsilon: is added to the mean of the squares.
      active: whether the result is at least the threshold ``tau``.
      scale_init: the initialiser of the scale.
      dtype: the dtype of the result; None for that of the inputs.
      param_dtype: the dtype of the parameters ``scale``, ``bias`` and ``tau``.
    """

    activates: ClassVar[bool] = True

    epsilon: float = 1e-5
    active: bool = True
    scale_init: Any = ones

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        x = x if self.dtype is None else x.astype(self.dtype)
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean = jnp.square(wide).mean((1, 2), keepdims=True)
        x = x * jax.lax.rsqrt(mean + jnp.asarray(self.epsilon, mean.dtype)).astype(x.dtype)
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape, self.param_dtype)
        bias = self.param("bias", zeros, shape, self.param_dtype)
        x = x * per_channel(scale, x).astype(x.dtype) + per_channel(bias, x).astype(x.dtype)
        if not self.active:
            return x
        return jnp.maximum(
            x, per_channel(self.param("tau", zeros, shape, self.param_dtype), x).astype(x.dtype)
        )


class LayerScale(Layer):
    """Scales each channel by a learnt ``gamma``.

    Touvron et al. 2021, https://arxiv.org/abs/2103.17239.

    Attributes:
      init_value: the first value of ``gamma``.
      dtype: the dtype of the result; None for that of the inputs.
      param_dtype: the dtype of ``gamma``.
    """

    init_value: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales ``[..., C]``, to the same shape."""
        gamma = self.param("gamma", Constant(self.init_value), (x.shape[-1],), self.param_dtype)
        dtype = x.dtype if self.dtype is None else self.dtype
        # Multiplied as it is, and rounded once.
        return (x.astype(dtype) * per_channel(gamma, x)).astype(dtype)


class ChannelScale(Layer):
    """Scales each channel by a learnt ``gamma`` ``[1, 1, C]``, which timm keeps as a map.

    Attributes:
      init_value: the first value of ``gamma``.
      dtype: the dtype of the result; None for that of the inputs.
      param_dtype: the dtype of ``gamma``.
    """

    init_value: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales ``[B, H, W, C]``, to the same shape."""
        shape = (1, 1, x.shape[-1])
        gamma = self.param("gamma", Constant(self.init_value), shape, self.param_dtype)
        dtype = x.dtype if self.dtype is None else self.dtype
        return (x.astype(dtype) * gamma[None]).astype(dtype)


def scaled_channels(
    module: nn.Module,
    name: str,
    x: jax.Array,
    init_value: float | None,
    *,
    param_dtype: Any = jnp.float32,
) -> jax.Array:
    """Scales each channel by a module's own parameter, where no submodule has it.

    Args:
      module: a bound module.
      name: the parameter's name; its shape is ``[C]``.
      x: ``[..., C]``.
      init_value: the first value of the parameter; None for no scale.
      param_dtype: the dtype of the parameter.

    Returns:
      ``[..., C]`` in the dtype of ``x``.
    """
    if init_value is None:
        return x
    scale = module.param(name, Constant(init_value), (x.shape[-1],), param_dtype)
    return (x * per_channel(scale, x)).astype(x.dtype)


NORMS: dict[str, Callable[..., nn.Module]] = {
    "batch": BatchNorm,
    "evo_s0": EvoNormS0,
    "frn": FilterResponseNorm,
    "group": GroupNorm,
    "group1": OneGroupNorm,
    "layer": LayerNorm,
    "rms": RMSNorm,
    "simple": SimpleNorm,
}


def as_norm(norm: str | Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Returns the normalisation that a name stands for; a module class is returned as it is.

    Args:
      norm: a name of ``NORMS``, or a Linen module class (or partial) that takes ``name``,
        ``dtype``, ``param_dtype`` and ``scale_init``.

    Raises:
      ValueError: no normalisation has that name, or what was passed makes no module.
    """
    if not isinstance(norm, str) and callable(norm):
        return norm
    if norm not in NORMS:
        hint = did_you_mean(norm, NORMS) if isinstance(norm, str) else ""
        raise ValueError(f"norm must be one of {', '.join(NORMS)} or a module, got {norm!r}.{hint}")
    return NORMS[norm]


def make_norm(
    norm: str | Callable[..., nn.Module], name: str, *, epsilon: float | None = None, **dtypes: Any
) -> nn.Module:
    """Makes the normalisation ``name`` of a parent module.

    Args:
      norm: the kind, as ``as_norm`` takes it.
      name: the submodule's name.
      epsilon: a small number that is added to the variance; None for the normalisation's own.
      **dtypes: ``dtype`` and ``param_dtype``.
    """
    options = {} if epsilon is None else {"epsilon": epsilon}
    return as_norm(norm)(name=name, **options, **dtypes)


def normalise_and_activate(
    norm: str | Callable[..., nn.Module],
    name: str,
    x: jax.Array,
    activation: Callable[[jax.Array], jax.Array] | None,
    *,
    train: bool,
    epsilon: float | None = None,
    **dtypes: Any,
) -> jax.Array:
    """Applies the norm ``name`` of a parent module, and an activation where it brings none itself.

    Args:
      norm: the kind, as ``as_norm`` takes it.
      name: the submodule's name.
      x: ``[B, ..., C]``.
      activation: a function; None for none, not even that of a norm such as ``EvoNormS0``.
      train: whether a BatchNorm uses the batch's statistics.
      epsilon: a small number that is added to the variance; None for the normalisation's own.
      **dtypes: ``dtype`` and ``param_dtype``, and perhaps ``scale_init``.
    """
    kind: Any = as_norm(norm)
    if getattr(getattr(kind, "func", kind), "activates", False):
        options = dict(dtypes) if epsilon is None else {"epsilon": epsilon, **dtypes}
        return call_norm(kind(name=name, active=activation is not None, **options), x, train=train)
    x = call_norm(make_norm(kind, name, epsilon=epsilon, **dtypes), x, train=train)
    return x if activation is None else activation(x)


def call_norm(norm: nn.Module, x: jax.Array, *, train: bool) -> jax.Array:
    """Applies a normalisation that may be a BatchNorm, which names the mode in its own way."""
    if isinstance(norm, nn.BatchNorm):
        return norm(x, use_running_average=not train)
    return call_module(norm, x, train=train)
