"""MLP-Mixer, ResMLP and gMLP: patches that are mixed by dense layers, without attention.

A layer across the patches has one weight for each pair of them, so that a network is for one grid.
Names and numbers are those of timm's ``mlp_mixer`` module.

References:
  MLP-Mixer: https://arxiv.org/abs/2105.01601
  ResMLP: https://arxiv.org/abs/2105.03404
  gMLP: https://arxiv.org/abs/2105.08050
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_choice
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import DropPath
from flaxzoo.layers.initializers import GlorotUniform, LecunNormal, Normal, ones, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.mlp import GluMlp, Mlp
from flaxzoo.layers.norm import LayerNorm, as_norm, call_norm, make_norm, scaled_channels
from flaxzoo.layers.patch_embed import PatchEmbed
from flaxzoo.models.backbone import Part, tokens_to_map
from flaxzoo.models.patch_backbone import GridBackbone
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

MLPS: dict[str, Callable[..., Mlp]] = {
    "mlp": Mlp,
    "glu": functools.partial(GluMlp, open_gates=True),
}

# What a block gets from the network as it is.
_PASSED_ON = (
    *("mlp", "mlp_ratio", "token_ratio", "activation", "layer_scale", "norm", "norm_epsilon"),
    *("block_dropout", "drop_path", "dtype", "param_dtype"),
)


class Affine(Layer):
    """Scales and shifts each channel, and normalises nothing: ResMLP's stand-in for a norm.

    Attributes:
      dtype: the dtype of the result; None promotes inputs and parameters.
      param_dtype: the dtype of ``alpha`` and ``beta`` ``[1, 1, C]``.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to the same shape."""
        shape = (1, 1, x.shape[-1])
        alpha = self.param("alpha", ones, shape, self.param_dtype)
        beta = self.param("beta", zeros, shape, self.param_dtype)
        x, alpha, beta = nn.dtypes.promote_dtype(x, alpha, beta, dtype=self.dtype)
        return alpha * x + beta


class SpatialGatingMlp(Mlp):
    """An ``Mlp`` one half of whose hidden units is mixed across the patches and gates the other."""

    def normalise(self, y: jax.Array, train: bool) -> jax.Array:
        """Gates the hidden units, to half the width."""
        return SpatialGatingUnit(name="gate", **self.dtypes)(y)


class SpatialGatingUnit(Layer):
    """Multiplies one half of the channels by the other, which a layer has mixed across the patches.

    Liu et al. 2021, https://arxiv.org/abs/2105.08050, section 2.1. It begins as the identity of the
    first half.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to ``[B, N, C / 2]``."""
        init: dict[str, Any] = {"kernel_init": Normal(1e-6), "bias_init": ones}
        values, gates = jnp.split(x, 2, axis=-1)
        gates = LayerNorm(epsilon=1e-5, name="norm", **self.dtypes)(gates)
        return values * _across(Dense(x.shape[1], name="proj", **init, **self.dtypes), gates)


class MixerBlock(Layer):
    """An MLP across the patches, then one on each; each stands behind a norm and is added.

    Parameters are named as timm's ``MixerBlock``: ``norm1``, ``mlp_tokens``, ``norm2``,
    ``mlp_channels``. The fields are those of ``MlpMixer``.
    """

    mlp: str = "mlp"
    mlp_ratio: float = 4.0
    token_ratio: float = 0.5
    activation: Any = "gelu"
    layer_scale: float | None = None
    norm: Any = "layer"
    norm_epsilon: float | None = None
    block_dropout: float = 0.0
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to the same shape."""
        hidden = int(x.shape[-1] * self.token_ratio)
        mix = functools.partial(self.mlp_module(hidden, "mlp_tokens"), train=train)
        x = x + self.dropped(_across(mix, self.normalise(x, "norm1")), "drop_path1", train)
        y = self.feed_forward(self.normalise(x, "norm2"), train)
        return x + self.dropped(y, "drop_path2", train)

    def normalise(self, x: jax.Array, name: str) -> jax.Array:
        """Normalises the last axis, or scales and shifts it."""
        return _normalise(self, x, name)

    def feed_forward(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps each token by itself."""
        return self.mlp_module(int(x.shape[-1] * self.mlp_ratio), "mlp_channels")(x, train)

    @nn.nowrap
    def mlp_module(self, hidden: int, name: str, kind: type[Mlp] | None = None) -> Mlp:
        """Makes an MLP, by default of the block's kind."""
        return (MLPS[self.mlp] if kind is None else kind)(
            hidden,
            activation=self.activation,
            dropout=self.block_dropout,
            kernel_init=GlorotUniform(),
            bias_init=Normal(1e-6),
            name=name,
            **self.dtypes,
        )

    def dropped(self, y: jax.Array, name: str, train: bool) -> jax.Array:
        """Drops a branch for some examples."""
        return DropPath(self.drop_path, name=name)(y, deterministic=not train)


class LinearBlock(MixerBlock):
    """One layer across the patches, then an MLP on each; learnt scales on both (ResMLP).

    Parameters are named as timm's ``ResBlock``: ``norm1``, ``linear_tokens``, ``ls1``, ``norm2``,
    ``mlp_channels``, ``ls2``.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to the same shape."""
        mix = Dense(
            x.shape[1],
            kernel_init=GlorotUniform(),
            bias_init=zeros,
            name="linear_tokens",
            **self.dtypes,
        )
        scaled = functools.partial(
            scaled_channels, self, init_value=self.layer_scale, param_dtype=self.param_dtype
        )
        y = scaled("ls1", _across(mix, self.normalise(x, "norm1")))
        x = x + self.dropped(y, "drop_path1", train)
        y = scaled("ls2", self.feed_forward(self.normalise(x, "norm2"), train))
        return x + self.dropped(y, "drop_path2", train)


class GatingBlock(MixerBlock):
    """An MLP whose hidden units are gated across the patches (gMLP).

    Parameters are named as timm's ``SpatialGatingBlock``: ``norm``, ``mlp_channels``.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to the same shape."""
        hidden = int(x.shape[-1] * self.mlp_ratio)
        mlp = self.mlp_module(hidden, "mlp_channels", SpatialGatingMlp)
        y = mlp(self.normalise(x, "norm"), train)
        return x + self.dropped(y, "drop_path", train)


BLOCKS: dict[str, type[MixerBlock]] = {
    "mixer": MixerBlock,
    "linear": LinearBlock,
    "gating": GatingBlock,
}


class MlpMixer(GridBackbone):
    """A Mixer, ResMLP or gMLP without its classifier: patches, blocks and the last norm.

    It maps images ``[B, H, W, C]`` to tokens ``[B, rows * columns, width]``. Maps are the tokens
    behind each block, before the last norm.

    Attributes:
      input_shape: ``[H, W, C]`` of the images, whose grid of patches the layers across it are for.
      patch_size: height and width of a patch.
      width: of a token.
      depth: number of blocks.
      block: their kind: ``"mixer"`` for two MLPs, ``"linear"`` for one layer across the patches and
        an MLP on each (ResMLP), ``"gating"`` for one MLP, gated across the patches (gMLP).
      mlp: the kind of MLPs of ``"mixer"`` and ``"linear"``: ``"mlp"``, or ``"glu"``, one half of
        whose hidden units gates the other.
      mlp_ratio: the hidden units of the MLP on each patch, as a multiple of ``width``.
      token_ratio: those of the MLP across the patches, as a multiple of ``width``, too.
      activation: of the MLPs, by name or callable.
      layer_scale: what the learnt scales of ``"linear"`` begin with; None for no scales.
      norm: the kind of all norms but those of gates, by name or module (``flaxzoo.layers.norm``);
        ``"affine"`` scales and shifts the channels without normalising them.
      norm_epsilon: their epsilon.
      block_dropout: rate at which the units of MLPs are dropped.
      drop_path: rate of stochastic depth, the same in all blocks.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    # ``"affine"`` is no norm that others have.
    unusual = ("norm",)

    input_shape: tuple[int, int, int] = (224, 224, 3)
    patch_size: int = 16
    width: int = 512
    depth: int = 8
    block: str = "mixer"
    mlp: str = "mlp"
    mlp_ratio: float = 4.0
    token_ratio: float = 0.5
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    layer_scale: float | None = None
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    block_dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The patches, the blocks ``blocks_0``, ``blocks_1`` and so on, and the last norm."""
        yield Part("stem", self._stem, owns=("stem",), takes="images")
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        for i in range(self.depth):
            yield Part(
                f"blocks_{i}",
                functools.partial(BLOCKS[self.block], **fields),
                takes="tokens",
                map=f"blocks_{i}",
                reduction=self.patch_size,
                view=functools.partial(tokens_to_map, height=self.grid[0], width=self.grid[1]),
                remat=self.remat,
            )
        last = f"blocks_{self.depth - 1}"
        yield Part("norm", self._norm, owns=("norm",), takes="tokens", depth=last)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        options = {"kernel_init": LecunNormal(), "bias_init": zeros, "name": "stem", **self.dtypes}
        patches = PatchEmbed(self.width, self.patch_size, **options)
        x = patches(self.whole_patches(x), train)
        return x.reshape(x.shape[0], math.prod(self.grid), self.width)

    def _norm(self, x: jax.Array, _train: bool) -> jax.Array:
        return _normalise(self, x, "norm")

    @nn.nowrap
    def pooling_options(self) -> dict[str, Any]:
        """The fields of a ``Head`` that averages the patches."""
        return {"pooling": "avg"}

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers, which begins with zeros."""
        return {**self.pooling_options(), "kernel_init": zeros}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        check_choice("block", self.block, BLOCKS)
        check_choice("mlp", self.mlp, MLPS)
        if self.norm != "affine":
            as_norm(self.norm)
        gated = self.block == "gating" or self.mlp == "glu"
        if gated and int(self.width * self.mlp_ratio) % 2:
            raise ArgumentError(
                "one half of the hidden units gates the other: width * mlp_ratio must be even, got "
                f"{self.width} * {self.mlp_ratio}"
            )


def _across(layer: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Applies a layer of the last axis to the patches of ``[B, N, C]``, channel by channel."""
    return layer(x.swapaxes(1, 2)).swapaxes(1, 2)


def _normalise(module: Any, x: jax.Array, name: str) -> jax.Array:
    """Computes the norm of this name that a module's fields describe."""
    dtypes = {"dtype": module.dtype, "param_dtype": module.param_dtype}
    if module.norm == "affine":
        return Affine(name=name, **dtypes)(x)
    norm = make_norm(module.norm, name, epsilon=module.norm_epsilon, **dtypes)
    return call_norm(norm, x, train=False)


def _convert(tensors: Mapping[str, Any], _backbone: MlpMixer) -> Mapping[str, Any]:
    """Today's names and shapes for the tensors of ResMLP's authors."""
    if "patch_embed.proj.weight" not in tensors:
        return tensors
    words = (
        ("patch_embed.", "stem."),
        ("attn.", "linear_tokens."),
        ("mlp.", "mlp_channels."),
        ("gamma_", "ls"),
    )
    converted = {}
    for name, tensor in tensors.items():
        for theirs, ours in words:
            name = name.replace(theirs, ours)
        affine = name.endswith((".alpha", ".beta"))
        converted[name] = tensor.reshape(1, 1, -1) if affine else tensor
    return converted


def _refuse(kernel: Any, shape: Any, backbone: MlpMixer, old: Any, new: Any) -> Any:
    """Refuses weights of another grid; see ``flaxzoo.models.reference.Resize``."""
    del shape
    if old is not None and backbone.grid_of(old) == backbone.grid_of(new):
        return kernel
    raise ShapeError(
        f"the weights' layers across the patches are for {kernel.shape[0]} of them and can't be "
        f"resampled: images of {new[0]} x {new[1]} have {math.prod(backbone.grid_of(new))}; leave "
        "input_shape as it is and resize the images, or train without pretrained weights"
    )


REFERENCE = Reference(
    stem=("stem/proj",),
    classifier="head",
    convert=_convert,
    resized=tuple(
        (f"params/backbone/blocks_*/{layer}/kernel", _refuse)
        for layer in ("mlp_tokens/fc1", "linear_tokens", "mlp_channels/gate/proj")
    ),
)

# timm's functions of these names take no other depth: scripts/certify.py compares them whole.
CUT: dict[str, str] = {}

# What names have in common: sizes, and the habits of groups.
_S: dict[str, Any] = {"width": 512, "depth": 8}
_B: dict[str, Any] = {"width": 768, "depth": 12}
_L: dict[str, Any] = {"width": 1024, "depth": 24}
_GLU: dict[str, Any] = {"width": 384, "mlp": "glu", "token_ratio": 1.0, "activation": "silu"}
_RES: dict[str, Any] = {"block": "linear", "norm": "affine", "width": 384}
_GATING: dict[str, Any] = {"block": "gating", "depth": 30, "mlp_ratio": 6.0}

_add = functools.partial(variants, MlpMixer, reference=REFERENCE)
_add(
    {
        "mixer_s32_224": row("Mixer-S/32", patch_size=32, **_S),
        "mixer_s16_224": row("Mixer-S/16", patch_size=16, **_S),
        "mixer_b32_224": row("Mixer-B/32", patch_size=32, **_B),
        "mixer_b16_224": row("Mixer-B/16", patch_size=16, **_B),
        "mixer_l32_224": row("Mixer-L/32", patch_size=32, **_L),
        "mixer_l16_224": row("Mixer-L/16", patch_size=16, **_L),
    },
    paper="https://arxiv.org/abs/2105.01601",
)
variants(
    MlpMixer,
    {
        "gmixer_12_224": row("gMixer-12, with gated MLPs", depth=12, **_GLU),
        "gmixer_24_224": row("gMixer-24, with gated MLPs", depth=24, **_GLU),
    },
    paper="https://arxiv.org/abs/2105.01601",
    # Products of products of random numbers lose a digit.
    reference=dataclasses.replace(REFERENCE, gain=0.5),
)
_add(
    {
        "resmlp_12_224": row("ResMLP-12", depth=12, layer_scale=1e-4, **_RES),
        "resmlp_24_224": row("ResMLP-24", depth=24, layer_scale=1e-5, **_RES),
        "resmlp_36_224": row("ResMLP-36", depth=36, layer_scale=1e-6, **_RES),
        "resmlp_big_24_224": row(
            "ResMLP-B-24", patch_size=8, depth=24, layer_scale=1e-6, **{**_RES, "width": 768}
        ),
    },
    paper="https://arxiv.org/abs/2105.03404",
)
_add(
    {
        "gmlp_ti16_224": row("gMLP-Ti/16", width=128, **_GATING),
        "gmlp_s16_224": row("gMLP-S/16", width=256, **_GATING),
        "gmlp_b16_224": row("gMLP-B/16", width=512, **_GATING),
    },
    paper="https://arxiv.org/abs/2105.08050",
)
