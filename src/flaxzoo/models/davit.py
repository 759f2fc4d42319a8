"""DaViT: attention among the tokens of a window, then among the channels of the whole map.

Four stages of pairs of blocks: in the first of a pair tokens attend within windows, in the second
channels attend to channels, which each see all of the image. Positions come from depthwise
convolutions. Names and numbers are those of timm's ``davit`` module; the towers of Florence-2
differ by what leads from stage to stage, and by the scale of the channels' products.

References:
  DaViT: https://arxiv.org/abs/2204.03645
  Florence-2: https://arxiv.org/abs/2311.06242
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lists, check_size
from flaxzoo.layers.attention import attend, check_heads
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.initializers import PLAIN, Normal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.layers.windows import over_windows
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What blocks get from the network as it is.
_PASSED_ON = (
    *("mlp_ratio", "activation", "qkv_bias", "norm", "norm_epsilon"),
    *("implementation", "dtype", "param_dtype"),
)


class StridedConv(Layer):
    """A strided convolution with a norm before or behind it; parameters are ``conv`` and ``norm``.

    Attributes:
      features: the width of the output.
      kernel_size: the kernel's side; maps are filled up with zeros to multiples of ``stride`` where
        it is even or the norm stands behind.
      stride: by how much the map becomes smaller.
      norm_first: whether the norm stands before the convolution.
      norm: the kind of the norm, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: its epsilon; None for its own.
    """

    features: int
    kernel_size: int
    stride: int
    norm_first: bool = True
    norm: Any = "layer"
    norm_epsilon: float | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        if self.norm_first:
            x = call_norm(norm, x, train=train)
        odd = self.kernel_size % 2
        if not (odd and self.norm_first):
            missing = [-length % self.stride for length in x.shape[1:3]]
            x = jnp.pad(x, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)))
        padding = self.kernel_size // 2 if odd else 0
        options = {"stride": self.stride, "padding": padding, "use_bias": True, **self.dtypes}
        options |= {**PLAIN, "name": "conv"}
        x = Conv(self.features, self.kernel_size, **options)(x)
        return x if self.norm_first else call_norm(norm, x, train=train)


class ConvPositions(Layer):
    """Adds to each pixel a 3 x 3 depthwise convolution ``proj`` around it.

    Chu et al. 2021, https://arxiv.org/abs/2102.10882.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width = x.shape[-1]
        options = {"groups": width, "use_bias": True, **self.dtypes}
        options |= PLAIN
        return x + Conv(width, 3, name="proj", **options)(x)


class ChannelAttention(Layer):
    """Attention in which channels look at channels, by their values over all tokens.

    Parameters are named as those of timm's modules of this name: ``qkv`` and ``proj``.

    Attributes:
      heads: the number of groups of channels, which attend by themselves.
      qkv_bias: whether queries, keys and values have biases.
      by_length: whether products are divided by the root of the number of tokens, and the queries'
        channels look at the keys' (Florence-2), instead of the root of the number of channels, and
        the keys' at the values'.
    """

    heads: int
    qkv_bias: bool = True
    by_length: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to the same shape."""
        batch, length, width = x.shape
        options = {"kernel_init": Normal(0.02), "bias_init": zeros, **self.dtypes}
        qkv = Dense(3 * width, use_bias=self.qkv_bias, name="qkv", **options)(x)
        qkv = qkv.reshape(batch, length, 3, self.heads, width // self.heads)
        # Channels stand where tokens do in other attention.
        q, k, v = (qkv[:, :, i].transpose(0, 3, 2, 1) for i in range(3))
        if self.by_length:
            y = attend(q, k, v)
        else:
            # The product is divided by the root of the tokens' number.
            scale = (length / (width // self.heads)) ** 0.5
            y = attend(k * jnp.asarray(scale, k.dtype), v, q)
        y = y.reshape(batch, width // self.heads, self.heads, length).transpose(0, 3, 2, 1)
        return Dense(width, name="proj", **options)(y.reshape(batch, length, width))


class WindowBlock(TransformerBlock):
    """A block of attention within windows, with a convolution for positions before each branch.

    Parameters are named as those of timm's ``SpatialBlock``.

    Attributes:
      window_size: the side of a window.
    """

    window_size: int = 7

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False, positions: Any = None) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape; there are no other positions."""
        del positions
        x = ConvPositions(name="cpe1", **self.dtypes)(x)
        y = self.attention(self.normalise(x, "norm1"), "attn", train)
        x = x + self.branch(y, "ls1", "drop_path1", train)
        x = ConvPositions(name="cpe2", **self.dtypes)(x)
        y = self.feed_forward(self.normalise(x, "norm2"), "mlp", train)
        return x + self.branch(y, "ls2", "drop_path2", train)

    def attention(self, x: jax.Array, name: str, train: bool, **_: Any) -> jax.Array:
        """Mixes the tokens ``[B, H, W, C]`` of each window."""
        attention = self.attention_module(name)
        window = (self.window_size, self.window_size)
        return over_windows(x, window, (0, 0), lambda tokens, _: attention(tokens, train))


class ChannelBlock(WindowBlock):
    """A block whose channels attend to each other; parameters are as those of timm's.

    Attributes:
      by_length: as ``ChannelAttention``'s.
    """

    by_length: bool = False

    def attention(self, x: jax.Array, name: str, train: bool, **_: Any) -> jax.Array:
        """Mixes the channels of ``[B, H, W, C]``."""
        del train
        tokens = x.reshape(x.shape[0], -1, x.shape[-1])
        options = {"qkv_bias": self.qkv_bias, "by_length": self.by_length, **self.dtypes}
        return ChannelAttention(self.heads, name=name, **options)(tokens).reshape(x.shape)


class DualBlock(nn.Module):
    """A block of windows, ``spatial_block``, and one of channels, ``channel_block``.

    Attributes:
      window_size: the side of a window.
      by_length: as ``ChannelAttention``'s.
      options: the fields that both blocks have.
    """

    window_size: int
    by_length: bool
    options: Mapping[str, Any]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        x = WindowBlock(window_size=self.window_size, name="spatial_block", **self.options)(
            x, train
        )
        options = {"by_length": self.by_length, "name": "channel_block", **self.options}
        return ChannelBlock(**options)(x, train)


class DaViT(Backbone):
    """A DaViT without its classifier: a strided convolution and stages of pairs of blocks.

    It maps images ``[B, H, W, C]`` of any size to ``[B, H / 32, W / 32, C']``, rounded up. Maps are
    those behind each stage.

    Attributes:
      layers: the number of pairs of blocks of each stage.
      widths: the channels of each stage.
      heads: the number of heads of each stage, of tokens and of channels.
      window_size: the side of a window; maps are filled up with zeros to whole windows.
      down_kernel_size: of the convolutions between the stages.
      by_length: whether channels' products are divided by the root of the number of tokens
        (``ChannelAttention``).
      mlp_ratio: the hidden units of each MLP, as a multiple of the width.
      activation: of the MLPs, by name or callable.
      qkv_bias: whether queries, keys and values have biases.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      drop_path: rate of stochastic depth in the last pair; it grows linearly from 0.
      implementation: of the windows' attention (``flaxzoo.layers.attention.attend``).
      remat: whether pairs are computed again in the backward pass instead of stored, or the policy
        of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (1, 1, 3, 1)
    widths: Sequence[int] = (96, 192, 384, 768)
    heads: Sequence[int] = (3, 6, 12, 24)
    window_size: int = 7
    down_kernel_size: int = 2
    by_length: bool = False
    mlp_ratio: float = 4.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    qkv_bias: bool = True
    norm: Any = "layer"
    norm_epsilon: float = 1e-5
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the pairs ``stages_0_blocks_0`` and so on, with what leads to each."""
        norm = {"norm": self.norm, "norm_epsilon": self.norm_epsilon, **self.dtypes}
        stem = functools.partial(StridedConv, self.widths[0], 7, 4, norm_first=False, **norm)
        yield Part("stem", stem, takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        for stage, count in enumerate(self.layers):
            prefix = f"stages_{stage}"
            if stage:
                down = functools.partial(self._down, stage)
                yield Part(f"{prefix}_blocks_0", down, owns=(f"{prefix}_downsample",))
            for i in range(count):
                yield Part(
                    f"{prefix}_blocks_{i}",
                    self._pair(stage, next(rates)),
                    map=prefix if i == count - 1 else None,
                    reduction=4 << stage,
                    remat=self.remat,
                )

    @nn.nowrap
    def _pair(self, stage: int, drop_path: float) -> Callable[..., nn.Module]:
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        options = {"heads": self.heads[stage], "drop_path": drop_path, **fields}
        return functools.partial(DualBlock, self.window_size, self.by_length, options)

    def _down(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        norm = {"norm": self.norm, "norm_epsilon": self.norm_epsilon, **self.dtypes}
        name = f"stages_{stage}_downsample"
        return StridedConv(self.widths[stage], self.down_kernel_size, 2, name=name, **norm)(
            x, train
        )

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers: a norm stands behind the pooling."""
        norm = {"norm": self.norm, "norm_epsilon": self.norm_epsilon}
        return {**super().head_options(), **norm, "kernel_init": Normal(0.02)}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_lists(self, "layers", "widths", "heads")
        check_heads(self.widths, self.heads)
        for name in ("window_size", "down_kernel_size"):
            check_size(name, getattr(self, name))
        pair = self._pair(0, self.drop_path)(parent=None)
        WindowBlock(parent=None, **pair.options).check_fields()


# Names of Microsoft's own files, and of the vision tower in Florence-2's.
_DAVIT = (
    (r"patch_embeds\.(\d+)", r"stages.\1.downsample"),
    (r"main_blocks\.(\d+)", r"stages.\1.blocks"),
    (r"downsample\.proj", "downsample.conv"),
    (r"stages\.0\.downsample", "stem"),
    (r"^head\.", "head.fc."),
    (r"^norms\.", "head.norm."),
    (r"cpe\.0", "cpe1"),
    (r"cpe\.1", "cpe2"),
)
_FLORENCE = (
    (r"^vision_tower\.", ""),
    (r"^convs\.(\d+)", r"stages.\1.downsample"),
    (r"^blocks\.(\d+)", r"stages.\1.blocks"),
    (r"downsample\.proj", "downsample.conv"),
    (r"stages\.0\.downsample", "stem"),
    (r"(window|channel)_attn\.norm\.", "norm1."),
    (r"(window|channel)_attn\.fn\.", "attn."),
    (r"ffn\.norm\.", "norm2."),
    (r"ffn\.fn\.net\.", "mlp."),
    (r"conv([12])\.fn\.dw", r"cpe\1.proj"),
)


def _convert(tensors: Mapping[str, Any], _backbone: DaViT) -> dict[str, Any]:
    """Timm's names for the tensors of Microsoft's files, and of Florence-2's the vision tower's."""
    if "stem.conv.weight" in tensors:
        return dict(tensors)
    whole = "vision_tower.convs.0.proj.weight" in tensors
    kept = [name for name in tensors if name.startswith("vision_tower.")] if whole else [*tensors]
    converted = {}
    for name in kept:
        key = name
        for pattern, replacement in _FLORENCE if whole else _DAVIT:
            key = re.sub(pattern, replacement, key)
        converted[key] = tensors[name]
    return converted


REFERENCE = Reference(
    stem=("stem/conv",),
    classifier="head.fc",
    head=(("norm", "head.norm"),),
    convert=_convert,
    renamed=(("spatial_block", "0"), ("channel_block", "1")),
)

_add = functools.partial(variants, DaViT)
_add(
    {
        "davit_tiny": row("DaViT-T"),
        "davit_small": row("DaViT-S", layers=(1, 1, 9, 1)),
        "davit_base": row(
            "DaViT-B", layers=(1, 1, 9, 1), widths=(128, 256, 512, 1024), heads=(4, 8, 16, 32)
        ),
        "davit_large": row(
            "DaViT-L", layers=(1, 1, 9, 1), widths=(192, 384, 768, 1536), heads=(6, 12, 24, 48)
        ),
        "davit_huge": row(
            "DaViT-H", layers=(1, 1, 9, 1), widths=(256, 512, 1024, 2048), heads=(8, 16, 32, 64)
        ),
        "davit_giant": row(
            "DaViT-G", layers=(1, 1, 12, 3), widths=(384, 768, 1536, 3072), heads=(12, 24, 48, 96)
        ),
    },
    paper="https://arxiv.org/abs/2204.03645",
    reference=REFERENCE,
)

_FL: dict[str, Any] = {"window_size": 12, "down_kernel_size": 3, "by_length": True}
_add(
    {
        "davit_base_fl": row(
            "DaViT-B of Florence-2",
            layers=(1, 1, 9, 1),
            widths=(128, 256, 512, 1024),
            heads=(4, 8, 16, 32),
            **_FL,
        ),
        "davit_huge_fl": row(
            "DaViT-H of Florence-2",
            layers=(1, 1, 9, 1),
            widths=(256, 512, 1024, 2048),
            heads=(8, 16, 32, 64),
            **_FL,
        ),
    },
    paper="https://arxiv.org/abs/2311.06242",
    reference=dataclasses.replace(REFERENCE, renamed=()),
    input_shape=(768, 768, 3),
)
