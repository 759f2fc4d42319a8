"""What the residual blocks of ResNet and its kin share."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import flax.linen as nn
import jax

from flaxzoo.activations import as_activation
from flaxzoo.errors import ShapeError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.drop_path import DropPath
from flaxzoo.layers.gates import SqueezeExcite, as_gate
from flaxzoo.layers.initializers import ones, plain_bias, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import as_norm, call_norm
from flaxzoo.layers.pool import shortcut_pool

# timm's networks of these blocks leave the biases of gates as PyTorch begins them.
_SQUEEZE = functools.partial(SqueezeExcite, bias_init=plain_bias)


class ResidualBlock(Layer):
    """What all residual blocks share: their fields, the shortcut and the sum.

    Attributes:
      features: width of the stage; a block's output has ``expansion`` times as many channels.
      stride: by which the block reduces the image.
      dilation: of its 3 x 3 convolutions.
      first_dilation: of the first one, where the stage before has another dilation.
      project: whether the shortcut has a convolution, because shapes change.
      groups: of the 3 x 3 convolution (ResNeXt's cardinality).
      base_width: channels of a group, per 64 of ``features``.
      reduce_first: by how much SENet-154 narrows the first convolution.
      down_kernel_size: of the shortcut's convolution.
      avg_down: whether the shortcut averages before a convolution of stride 1.
      activation: by name or callable.
      norm: ``"batch"``, ``"group"`` or a module (see ``flaxzoo.layers.norm.as_norm``).
      gate: ``"se"``, ``"eca"``, a module, or None (see ``flaxzoo.layers.gates.as_gate``).
      anti_aliasing: ``"avg"``, ``"blur"`` or None, in place of strided convolutions.
      drop_path: rate at which an example's residual branch is dropped (stochastic depth).
      zero_init_residual: whether the branch starts as zero, the block as the identity.
    """

    expansion: ClassVar[int] = 1

    features: int
    stride: int = 1
    dilation: int = 1
    first_dilation: int = 1
    project: bool = False
    groups: int = 1
    base_width: int = 64
    reduce_first: int = 1
    down_kernel_size: int = 1
    avg_down: bool = False
    activation: Any = "relu"
    norm: Any = "batch"
    gate: Any = None
    anti_aliasing: str | None = None
    drop_path: float = 0.0
    zero_init_residual: bool = True

    @property
    def outputs(self) -> int:
        """The channels of the output."""
        return self.features * self.expansion

    @nn.nowrap
    def conv(self, features: int, kernel_size: int, name: str, **options: Any) -> Conv:
        """A convolution without bias, in the block's dtypes."""
        return Conv(features, kernel_size, name=name, **options, **self.dtypes)

    def normalise(self, x: jax.Array, name: str, train: bool, last: bool = False) -> jax.Array:
        """The block's norm; the branch's last one may start with a scale of zero."""
        norm = as_norm(self.norm)(
            name=name, **self.dtypes, scale_init=zeros if last and self.zero_init_residual else ones
        )
        return call_norm(norm, x, train=train)

    def shortcut(self, x: jax.Array, train: bool) -> jax.Array:
        """The input, in the shape of the output."""
        if not self.project:
            return x
        features = self.outputs
        if self.avg_down:
            if self.stride > 1 or self.dilation > 1:
                x = shortcut_pool(x, self.stride if self.dilation == 1 else 1)
            x = self.conv(features, 1, "downsample_1")(x)
            return self.normalise(x, "downsample_2", train)
        size = 1 if self.stride == self.dilation == 1 else self.down_kernel_size
        dilation = self.first_dilation if size > 1 else 1
        x = self.conv(features, size, "downsample_0", stride=self.stride, dilation=dilation)(x)
        return self.normalise(x, "downsample_1", train)

    def add(self, x: jax.Array, branch: jax.Array, train: bool) -> jax.Array:
        """Gates and drops the branch, then sums it with the shortcut."""
        gate = _SQUEEZE if self.gate == "se" else as_gate(self.gate)
        if gate is not None:
            branch = gate(name="se", **self.dtypes)(branch)
        if self.drop_path:
            # The name decides what is drawn.
            drop = DropPath(self.drop_path, name="Dropout_0")
            branch = drop(branch, deterministic=not train)
        shortcut = self.shortcut(x, train)
        if branch.shape != shortcut.shape:
            # JAX would broadcast a map of 1 x 1.
            raise ShapeError(
                f"block {self.name!r} cannot add maps of {list(branch.shape)} and "
                f"{list(shortcut.shape)}: with anti_aliasing={self.anti_aliasing!r} the height and "
                f"width of what it gets must be even, got {list(x.shape)}"
            )
        return as_activation(self.activation)(branch + shortcut)

    @property
    def low_pass(self) -> str | None:
        """The anti-aliasing that takes over the 3 x 3 convolution's stride, if any."""
        reduces = self.stride == 2 or self.first_dilation != self.dilation
        return self.anti_aliasing if reduces else None
