"""FocalNet: pixels are modulated by what surrounds them, near and far, instead of attending to it.

Each block gathers the context of a pixel by depthwise convolutions, one behind the other, weighs
these levels by gates of the pixel's own, and multiplies the pixel by their sum. Names and numbers
are those of timm's ``focalnet`` module: ``srf`` and ``lrf`` see two and three levels; ``fl3`` and
``fl4`` are the large ones, whose norms stand behind the branches.

References:
  FocalNet: https://arxiv.org/abs/2203.11926
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lists, check_size
from flaxzoo.activations import as_activation
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.initializers import Normal
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.mlp import Mlp
from flaxzoo.layers.norm import LayerScale, call_norm, make_norm
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What blocks get from the network as it is.
_PASSED_ON = (
    *("mlp_ratio", "activation", "post_norm", "modulation_norm", "layer_scale", "norm"),
    *("norm_epsilon", "block_dropout", "dtype", "param_dtype"),
)


class FocalModulation(Layer):
    """Multiplies pixels by a sum of their contexts, each weighed by a gate of the pixel's.

    Yang et al. 2022, https://arxiv.org/abs/2203.11926, equations 4 to 8. Parameters are named as
    timm's ``FocalModulation``: ``f``, ``h``, ``proj``, ``focal_layers_0_0`` and so on, ``norm``.

    Attributes:
      levels: the number of convolutions that gather contexts; the last context is the map's mean.
      window: the side of the first one's kernel; each other is 2 larger.
      activation: behind each of them, by name or callable.
      norm: of a norm before the last layer, by name or module (``flaxzoo.layers.norm``); None for
        none.
      norm_epsilon: its epsilon; None for its own.
      dropout: the rate at which outputs are dropped.
    """

    levels: int
    window: int
    activation: Any = "gelu"
    norm: Any = None
    norm_epsilon: float | None = None
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width, act = x.shape[-1], as_activation(self.activation)
        conv: Any = functools.partial(Conv, kernel_init=Normal(0.02), **self.dtypes)
        x = conv(2 * width + self.levels + 1, 1, use_bias=True, name="f")(x)
        query, context, gates = jnp.split(x, [width, 2 * width], axis=-1)
        total = jnp.zeros_like(context)
        for i in range(self.levels):
            gather = conv(width, self.window + 2 * i, groups=width, name=f"focal_layers_{i}_0")
            context = act(gather(context))
            total = total + context * gates[..., i : i + 1]
        total = total + act(context.mean((1, 2), keepdims=True)) * gates[..., self.levels :]
        x = query * conv(width, 1, use_bias=True, name="h")(total)
        if self.norm is not None:
            norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
            x = call_norm(norm, x, train=train)
        x = conv(width, 1, use_bias=True, name="proj")(x)
        return nn.Dropout(self.dropout, name="proj_drop")(x, deterministic=not train)


class FocalBlock(Layer):
    """A modulation, then an MLP on each pixel; each has a norm and is added to its input.

    Parameters are named as those of timm's ``FocalNetBlock``.

    Attributes:
      levels: as ``FocalModulation``'s.
      window: likewise.
      mlp_ratio: the hidden units of the MLP, as a multiple of the width.
      activation: by name or callable.
      post_norm: whether norms stand behind the branches instead of before them.
      modulation_norm: whether one stands in the modulation, too.
      layer_scale: what the learnt scales of the branches begin with; None for no scales.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      block_dropout: the rate at which the units of modulation and MLP are dropped.
      drop_path: the rate at which a branch is dropped for a whole example (stochastic depth).
    """

    levels: int
    window: int
    mlp_ratio: float = 4.0
    activation: Any = "gelu"
    post_norm: bool = False
    modulation_norm: bool = False
    layer_scale: float | None = None
    norm: Any = "layer"
    norm_epsilon: float | None = None
    block_dropout: float = 0.0
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        options = {"activation": self.activation, "dropout": self.block_dropout, **self.dtypes}
        mix = FocalModulation(
            self.levels,
            self.window,
            norm=self.norm if self.modulation_norm else None,
            norm_epsilon=self.norm_epsilon,
            name="modulation",
            **options,
        )
        mlp = Mlp(int(x.shape[-1] * self.mlp_ratio), as_conv=True, name="mlp", **options)
        for i, layer in enumerate((mix, mlp), 1):
            x = x + self.branch(layer, i, x, train)
        return x

    def branch(self, layer: nn.Module, number: int, x: jax.Array, train: bool) -> jax.Array:
        """Computes what a layer adds, ``number`` 1 or 2."""
        name = f"norm{number}{'_post' * self.post_norm}"
        norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
        run: Any = layer
        if self.post_norm:
            y = call_norm(norm, run(x, train), train=train)
        else:
            y = run(call_norm(norm, x, train=train), train)
        if self.layer_scale is not None:
            y = LayerScale(self.layer_scale, name=f"ls{number}", **self.dtypes)(y)
        drop = DropPath(self.drop_path, name=f"drop_path{number}")
        return drop(y, deterministic=not train)


class ConvDownsample(Layer):
    """A strided convolution ``proj``, then a ``norm``.

    Attributes:
      features: the width of the output.
      stride: by how much the map becomes smaller, 2 or 4.
      overlap: whether windows overlap: 3 x 3 for a stride of 2, 7 x 7 for one of 4.
      norm: the kind of the norm, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon; None for its own.
    """

    features: int
    stride: int
    overlap: bool = False
    norm: Any = "layer"
    norm_epsilon: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``."""
        size, padding = {2: (3, 1), 4: (7, 2)}[self.stride] if self.overlap else (self.stride, 0)
        options = {"use_bias": True, "kernel_init": Normal(0.02), "name": "proj", **self.dtypes}
        x = Conv(self.features, size, stride=self.stride, padding=padding, **options)(x)
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)


class FocalNet(Backbone):
    """A FocalNet without its classifier: a strided convolution, stages of blocks, the last norm.

    It maps images ``[B, H, W, C]`` of any size to ``[B, H', W', C']``. Maps are those behind each
    stage, before the last norm.

    Attributes:
      layers: the number of blocks of each stage.
      width: the channels of the first stage; each stage doubles them.
      levels: the number of convolutions that gather contexts, in each stage.
      windows: the side of the first of their kernels, in each stage.
      overlap: whether the windows of strided convolutions overlap.
      mlp_ratio: the hidden units of each MLP, as a multiple of the width.
      activation: by name or callable.
      post_norm: whether norms stand behind the branches instead of before them.
      modulation_norm: whether one stands in the modulation, too.
      layer_scale: what the learnt scales of the branches begin with; None for no scales.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      block_dropout: rate at which the units of modulation and MLP are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (2, 2, 6, 2)
    width: int = 96
    levels: Sequence[int] = (2, 2, 2, 2)
    windows: Sequence[int] = (3, 3, 3, 3)
    overlap: bool = False
    mlp_ratio: float = 4.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    post_norm: bool = False
    modulation_norm: bool = False
    layer_scale: float | None = None
    norm: Any = "layer"
    norm_epsilon: float = 1e-5
    block_dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``layers_0_blocks_0`` and so on, with what leads to each."""
        down = functools.partial(
            ConvDownsample,
            overlap=self.overlap,
            norm=self.norm,
            norm_epsilon=self.norm_epsilon,
            **self.dtypes,
        )
        yield Part("stem", functools.partial(down, self.width, 4), takes="images")
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        for stage, count in enumerate(self.layers):
            prefix = f"layers_{stage}"
            if stage:
                merge = functools.partial(self._down, down, stage)
                yield Part(f"{prefix}_blocks_0", merge, owns=(f"{prefix}_downsample",))
            for i in range(count):
                block = functools.partial(FocalBlock, self.levels[stage], self.windows[stage])
                yield Part(
                    f"{prefix}_blocks_{i}",
                    functools.partial(block, drop_path=next(rates), **fields),
                    map=prefix if i == count - 1 else None,
                    reduction=4 << stage,
                    remat=self.remat,
                )
        yield Part("norm", self._norm, owns=("norm",), depth=f"{prefix}_blocks_{count - 1}")

    def _down(self, down: Any, stage: int, x: jax.Array, train: bool) -> jax.Array:
        return down(self.width << stage, 2, name=f"layers_{stage}_downsample")(x, train)

    def _norm(self, x: jax.Array, train: bool) -> jax.Array:
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers."""
        return {**super().head_options(), "kernel_init": Normal(0.02)}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_lists(self, "layers", "levels", "windows")
        check_size("width", self.width)


def _convert(tensors: Mapping[str, Any], backbone: FocalNet) -> dict[str, Any]:
    """Timm's names for the tensors of the authors' files, whose layers are no convolutions."""
    if "stem.proj.weight" in tensors:
        return dict(tensors)

    def later(match: re.Match[str]) -> str:
        return f"layers.{int(match[1]) + 1}.downsample"

    converted = {}
    for name, tensor in tensors.items():
        key = re.sub(r"gamma_(\d)", r"ls\1.gamma", name).replace("patch_embed", "stem")
        key = re.sub(r"layers\.(\d+)\.downsample", later, key).replace(".ln.", ".norm.")
        if backbone.post_norm:
            key = re.sub(r"\.norm([12])\.", r".norm\1_post.", key)
        if key.startswith("head."):
            key = key.replace("head.", "head.fc.")
        elif key.endswith(".weight") and tensor.ndim == 2:
            tensor = tensor[:, :, None, None]
        converted[key] = tensor
    return converted


# timm's names take no other depth.
CUT: dict[str, str] = {}

_S: dict[str, Any] = {"layers": (2, 2, 18, 2)}
_B: dict[str, Any] = {"layers": (2, 2, 18, 2), "width": 128}
_LRF: dict[str, Any] = {"levels": (3, 3, 3, 3)}
_LARGE: dict[str, Any] = {
    "layers": (2, 2, 18, 2),
    "post_norm": True,
    "overlap": True,
    "layer_scale": 1e-4,
}
_FL3: dict[str, Any] = {"levels": (3, 3, 3, 3), "windows": (5, 5, 5, 5), **_LARGE}
_FL4: dict[str, Any] = {"levels": (4, 4, 4, 4), **_LARGE}
_H: dict[str, Any] = {"width": 352, "modulation_norm": True}
_384 = (384, 384, 3)

variants(
    FocalNet,
    {
        "focalnet_tiny_srf": row("FocalNet-T, two levels"),
        "focalnet_small_srf": row("FocalNet-S, two levels", **_S),
        "focalnet_base_srf": row("FocalNet-B, two levels", **_B),
        "focalnet_tiny_lrf": row("FocalNet-T, three levels", **_LRF),
        "focalnet_small_lrf": row("FocalNet-S, three levels", **_S, **_LRF),
        "focalnet_base_lrf": row("FocalNet-B, three levels", **_B, **_LRF),
        "focalnet_large_fl3": row("FocalNet-L, three levels", width=192, input_shape=_384, **_FL3),
        "focalnet_large_fl4": row("FocalNet-L, four levels", width=192, input_shape=_384, **_FL4),
        "focalnet_xlarge_fl3": row(
            "FocalNet-XL, three levels", width=256, input_shape=_384, **_FL3
        ),
        "focalnet_xlarge_fl4": row("FocalNet-XL, four levels", width=256, input_shape=_384, **_FL4),
        "focalnet_huge_fl3": row(
            "FocalNet-H, three levels", **{**_FL3, "windows": (3, 3, 3, 3)}, **_H
        ),
        "focalnet_huge_fl4": row("FocalNet-H, four levels", **_FL4, **_H),
    },
    paper="https://arxiv.org/abs/2203.11926",
    # Contexts and queries are multiplied: larger kernels would let rounding grow with the depth.
    reference=Reference(stem=("stem/proj",), classifier="head.fc", convert=_convert, gain=1.0),
)
