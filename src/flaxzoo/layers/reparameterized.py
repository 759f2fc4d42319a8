"""Branches that train side by side and are one convolution in inference: re-parametrisation.

In inference a BatchNorm scales and shifts each channel, so that a convolution with one behind it is
a convolution with a bias, and so is a sum of several. A module of branches says by ``folded`` which
variables it has in that form; ``fold`` finds all of a network's and computes them.

References:
  RepVGG: https://arxiv.org/abs/2101.03697
  MobileOne: https://arxiv.org/abs/2206.04040
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._calls import apply_module, call_module
from flaxzoo._trees import flatten, unflatten
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath
from flaxzoo.layers.gates import as_gate
from flaxzoo.layers.initializers import FanIn, ones
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import as_norm, call_norm

# By collection, as a module has them: ``{"params": {...}, "batch_stats": {...}}``.
Variables = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Affine:
    """A convolution with a bias, in double precision.

    Attributes:
      kernel: ``[height, width, in / groups, out]``.
      bias: ``[out]``.
    """

    kernel: np.ndarray
    bias: np.ndarray

    @classmethod
    def of(cls, variables: Variables, name: str) -> Affine:
        """The convolution ``name`` of a module, with its bias if it has one."""
        leaves = variables["params"][name]
        kernel = np.asarray(leaves["kernel"], np.float64)
        return cls(kernel, np.asarray(leaves.get("bias", np.zeros(kernel.shape[-1])), np.float64))

    @classmethod
    def identity(cls, channels: int, groups: int = 1) -> Affine:
        """The convolution of 1 x 1 that returns what it gets."""
        width, places = channels // groups, np.arange(channels)
        kernel = np.zeros((1, 1, width, channels))
        kernel[0, 0, places % width, places] = 1
        return cls(kernel, np.zeros(channels))

    def normalised(self, variables: Variables, name: str, norm: Any = "batch") -> Affine:
        """The convolution with the norm ``name`` of a module behind it.

        Args:
          variables: the module's.
          name: of the norm.
          norm: its kind, as ``flaxzoo.layers.norm.as_norm`` takes it.

        Raises:
          ArgumentError: the norm is no BatchNorm.
        """
        statistics = variables.get("batch_stats", {}).get(name, {})
        if "mean" not in statistics:
            raise ArgumentError(
                f"only a BatchNorm can become a part of a convolution, not norm={norm!r}: others "
                "compute their statistics of what they see"
            )
        mean, var = (np.asarray(statistics[key], np.float64) for key in ("mean", "var"))
        leaves = variables["params"].get(name, {})
        factor = 1 / np.sqrt(var + _epsilon(norm))
        factor = factor * np.asarray(leaves.get("scale", 1.0), np.float64)
        shift = np.asarray(leaves.get("bias", 0.0), np.float64) - mean * factor
        return Affine(self.kernel * factor, self.bias * factor + shift)

    def scaled(self, factor: Any) -> Affine:
        """The convolution whose outputs are multiplied, by one number or one for each channel."""
        return Affine(self.kernel * factor, self.bias * factor)

    def __add__(self, other: Affine) -> Affine:
        """The sum of what both compute; the smaller kernel lies in the middle of the larger."""
        sizes = [max(a, b) for a, b in zip(self.kernel.shape, other.kernel.shape, strict=True)]
        kernel = _centred(self.kernel, sizes[:2]) + _centred(other.kernel, sizes[:2])
        return Affine(kernel, self.bias + other.bias)

    def variables(self, dtype: Any) -> dict[str, np.ndarray]:
        """The parameters of a ``Conv`` that computes the same."""
        return {"kernel": self.kernel.astype(dtype), "bias": self.bias.astype(dtype)}


def _centred(kernel: np.ndarray, size: list[int]) -> np.ndarray:
    """A kernel of odd sides in the middle of zeros."""
    sides = [((n - m) // 2,) * 2 for m, n in zip(kernel.shape, size, strict=False)]
    return np.pad(kernel, [*sides, (0, 0), (0, 0)])


@functools.lru_cache(maxsize=64)
def _epsilon(norm: Any) -> float:
    return float(as_norm(norm)(parent=None).epsilon)


class Reparameterized(Layer):
    """The base of modules whose branches are one convolution in inference.

    Networks of such modules have a field ``fused``, which says that they are in that form already,
    and build those, or plain convolutions in their places, accordingly.
    """

    @nn.nowrap
    def folded(self, variables: Variables) -> Variables:
        """Returns the variables in the form of inference.

        Args:
          variables: of this module in the form of training, by collection.
        """
        raise NotImplementedError(f"{type(self).__name__} must define folded()")


class FoldingConvNorm(ConvNorm, Reparameterized):
    """A ``ConvNorm`` in whose place a fused network has a ``Conv`` with a bias."""

    @nn.nowrap
    def folded(self, variables: Variables) -> Variables:
        """Returns the parameters of that ``Conv``."""
        first, second = self.names
        conv = Affine.of(variables, first).normalised(variables, second, self.norm)
        return {"params": conv.variables(self.param_dtype)}


class MobileOneBlock(Reparameterized):
    """The sum of convolutions, one of 1 x 1 and the input, each behind a BatchNorm.

    Vasu et al. 2022 (MobileOne), https://arxiv.org/abs/2206.04040. Parameters are named as timm's:
    ``conv_kxk_0`` and so on, ``conv_scale``, ``identity`` and the gate; in the form of inference,
    ``reparam_conv`` and the gate.

    Attributes:
      features: the width of the output. The input is a branch where width and size stay.
      kernel_size: of the convolutions; of 1, they have no branch of 1 x 1 beside them.
      stride: by how much maps shrink.
      depthwise: whether each channel has a kernel of its own.
      convolution: whether there are convolutions of ``kernel_size`` at all.
      scale: whether there may be one of 1 x 1.
      activation: of the result, by name or callable; None for none.
      branches: the number of convolutions of ``kernel_size``.
      gate: of the sum, before the activation, as ``flaxzoo.layers.gates.as_gate`` takes it.
      gate_name: the gate's name.
      norm: of each branch, by name or module (``flaxzoo.layers.norm``).
      kernel_init: the initialiser of kernels.
      scale_init: that of the norms' scales.
      drop_path: the rate at which all branches but the input are dropped for a whole example,
        where the input is one.
      fused: whether the branches are one convolution.
    """

    # Of the convolution of 1 x 1, and of the others by their numbers.
    names: ClassVar[tuple[str, str]] = ("conv_scale", "conv_kxk_{}")

    features: int
    kernel_size: int = 3
    stride: int = 1
    depthwise: bool = False
    convolution: bool = True
    scale: bool = True
    activation: str | Callable[[jax.Array], jax.Array] | None = "gelu"
    branches: int = 1
    gate: Any = None
    gate_name: str = "attn"
    norm: Any = "batch"
    kernel_init: Any = FanIn()
    scale_init: Any = ones
    drop_path: float = 0.0
    fused: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        if self.fused:
            options = self.options(x.shape[-1])
            size = (self.features, self.kernel_size)
            y = Conv(*size, use_bias=True, name="reparam_conv", **options)(x)
        else:
            y = self.summed(x, train)
        gate = as_gate(self.gate)
        if gate is not None:
            y = call_module(gate(name=self.gate_name, **self.dtypes), y, train=train)
        return y if self.activation is None else as_activation(self.activation)(y)

    def summed(self, x: jax.Array, train: bool) -> jax.Array:
        """Computes the branches."""
        norm = {"norm": self.norm, "scale_init": self.scale_init}
        conv = functools.partial(ConvNorm, self.features, **norm, **self.options(x.shape[-1]))
        pointwise, sized = self.names
        branches, inputs, sizes = [], [], range(self.branches if self.convolution else 0)
        if self.kernel_size > 1 and self.scale:
            branches.append(conv(kernel_size=1, name=pointwise)(x, train))
        if self.keeps(x):
            same = as_norm(self.norm)(name="identity", scale_init=self.scale_init, **self.dtypes)
            inputs.append(call_norm(same, x, train=train))
        convs = [conv(kernel_size=self.kernel_size, name=sized.format(i))(x, train) for i in sizes]
        if not (train and self.drop_path and inputs):
            return functools.reduce(jnp.add, [*branches, *inputs, *convs])
        y = functools.reduce(jnp.add, [*branches, *convs])
        return DropPath(self.drop_path, name="drop_path")(y, deterministic=not train) + inputs[0]

    @property
    def dtypes(self) -> dict[str, Any]:
        """The dtypes as keywords of a layer."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    @nn.nowrap
    def keeps(self, x: jax.Array) -> bool:
        """Whether maps ``[B, H, W, C]`` keep their shape, and are a branch."""
        return self.features == x.shape[-1] and self.stride == 1

    @nn.nowrap
    def groups_of(self, channels: int) -> int:
        """The groups of convolutions of so many channels."""
        return channels if self.depthwise else 1

    @nn.nowrap
    def options(self, channels: int) -> dict[str, Any]:
        """The options of all convolutions, whose inputs have so many channels."""
        own: dict[str, Any] = {"stride": self.stride, "groups": self.groups_of(channels)}
        return {**own, "kernel_init": self.kernel_init, **self.dtypes}

    @nn.nowrap
    def folded(self, variables: Variables) -> Variables:
        """Returns the parameters of ``reparam_conv``, and the gate's variables."""
        conv = self.convolved(variables).variables(self.param_dtype)
        gate = of_submodule(variables, self.gate_name)
        made = {kind: {self.gate_name: leaves} for kind, leaves in gate.items()}
        return {**made, "params": {"reparam_conv": conv, **made.get("params", {})}}

    @nn.nowrap
    def convolved(self, variables: Variables) -> Affine:
        """Returns the convolution that computes what the branches do."""
        branches = []
        for name in variables["params"]:
            if name.startswith("conv_"):
                inner = of_submodule(variables, name)
                branches.append(Affine.of(inner, "conv").normalised(inner, "bn", self.norm))
            elif name == "identity":
                same = Affine.identity(self.features, self.groups_of(self.features))
                branches.append(same.normalised(variables, name, self.norm))
        return functools.reduce(Affine.__add__, branches)


def of_submodule(variables: Variables, name: str) -> Variables:
    """The variables of a submodule."""
    return {kind: leaves[name] for kind, leaves in variables.items() if name in leaves}


def fold(module: nn.Module, variables: Variables, inputs: Any) -> dict[str, Any]:
    """The variables of a network in the form of inference.

    Args:
      module: unbound, in the form of training.
      variables: its variables, by collection.
      inputs: a batch, or its ``jax.ShapeDtypeStruct``: nothing is computed of it.

    Returns:
      By collection, those of each ``Reparameterized`` module replaced by what it makes of them.
    """
    found: dict[str, Reparameterized] = {}

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        block = context.module
        if isinstance(block, Reparameterized) and context.method_name == "__call__":
            found["/".join(block.path)] = block.clone(parent=None)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        jax.eval_shape(functools.partial(apply_module, module), variables, inputs)
    flat = {kind: flatten(leaves) for kind, leaves in variables.items()}
    # What is within another one goes into its convolution.
    outer = [path for path in found if not any(path.startswith(f"{other}/") for other in found)]
    for path in outer:
        inner: dict[str, dict[str, Any]] = {}
        for kind, leaves in flat.items():
            own = [key for key in leaves if key.startswith(f"{path}/")]
            inner[kind] = unflatten({key[len(path) + 1 :]: leaves.pop(key) for key in own})
        for kind, made in found[path].folded(inner).items():
            flat[kind].update({f"{path}/{key}": leaf for key, leaf in flatten(made).items()})
    return {kind: unflatten(leaves) for kind, leaves in flat.items() if leaves}
