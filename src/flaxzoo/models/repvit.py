"""RepViT: MobileNet V3 with the structure of a ViT's blocks, pixels mixed first and channels then.

Pixels are mixed by a depthwise convolution, one of 1 x 1 and the input, whose sum is one
convolution in inference. Names and numbers are those of timm's ``repvit`` module; the number behind
``m`` is the time in milliseconds that an iPhone 12 takes, of ``m1`` to ``m3`` a size of the paper's
first version.

References:
  RepViT: https://arxiv.org/abs/2307.09283
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax

from flaxzoo._checks import check_lengths, check_number, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.gates import SqueezeExcite
from flaxzoo.layers.initializers import PLAIN, FanIn, Normal, ones, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import as_norm, call_norm
from flaxzoo.layers.reparameterized import (
    Affine,
    FoldingConvNorm,
    Reparameterized,
    Variables,
    of_submodule,
)
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# What modules get from the network as it is.
_PASSED_ON = ("kernel_size", "activation", "norm", "legacy", "dtype", "param_dtype", "fused")
# timm says the depth of networks by another name.
CUT = {"layers": "depth"}


class _Layers(Layer, kw_only=True):
    """The fields that all modules share, and their layers.

    Attributes:
      kernel_size: of the convolutions that mix pixels.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      legacy: whether the convolution of 1 x 1 has a norm of its own, not the sum (the paper's first
        version).
      fused: whether convolutions and their norms, and branches, are one convolution.
    """

    kernel_size: int = 3
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "batch"
    legacy: bool = False
    fused: bool = False

    def layer(
        self, x: jax.Array, features: int, size: int, name: str, train: bool, **options: Any
    ) -> jax.Array:
        """Computes a convolution and its norm, in the network's form."""
        return folding(self, features, size, name, **options)(x, train)


def folding(
    owner: Any, features: int, size: int, name: str, scale_init: Any = ones, **options: Any
) -> Callable[[jax.Array, bool], jax.Array]:
    """A convolution and its norm, or the one convolution that they become.

    Args:
      owner: the module that it belongs to, whose norm, dtypes and form it has.
      features: the output's channels.
      size: the kernel's.
      name: of the layer.
      scale_init: the initialiser of the norm's scale.
      **options: the stride and the groups.
    """
    options |= {"name": name, **owner.dtypes}
    if owner.fused:
        conv = Conv(features, size, use_bias=True, kernel_init=FanIn(), **options)
        return lambda x, _train: conv(x)
    options |= {"norm": owner.norm, "names": ("c", "bn"), "scale_init": scale_init}
    return FoldingConvNorm(features, size, **options)


class PixelMixer(_Layers, Reparameterized, kw_only=True):
    """The sum of a depthwise convolution, one of 1 x 1 and the input, and a norm of it.

    Parameters are named as timm's ``RepVggDw``: ``conv``, ``conv1`` and ``bn``. A fused network has
    a convolution in its place.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width = x.shape[-1]
        y = self.layer(x, width, self.kernel_size, "conv", train, groups=width)
        if self.legacy:
            return y + self.layer(x, width, 1, "conv1", train, groups=width) + x
        options: dict[str, Any] = {**PLAIN, **self.dtypes}
        pointwise = Conv(width, 1, groups=width, use_bias=True, name="conv1", **options)
        return call_norm(
            as_norm(self.norm)(name="bn", **self.dtypes), y + pointwise(x) + x, train=train
        )

    @nn.nowrap
    def folded(self, variables: Variables) -> Variables:
        """Returns the parameters of the one convolution."""
        large = of_submodule(variables, "conv")
        branch = Affine.of(large, "c").normalised(large, "bn", self.norm)
        width = len(branch.bias)
        if self.legacy:
            small = of_submodule(variables, "conv1")
            pointwise = Affine.of(small, "c").normalised(small, "bn", self.norm)
        else:
            pointwise = Affine.of(variables, "conv1")
        whole = branch + pointwise + Affine.identity(width, width)
        if not self.legacy:
            whole = whole.normalised(variables, "bn", self.norm)
        return {"params": whole.variables(self.param_dtype)}


class PixelMlp(_Layers, kw_only=True):
    """Two layers on each pixel, each with a norm.

    Parameters are named as timm's ``RepVitMlp``: ``conv1`` and ``conv2``.

    Attributes:
      ratio: the width between the layers, as a multiple of the channels.
    """

    ratio: float = 2.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        y = self.layer(x, int(x.shape[-1] * self.ratio), 1, "conv1", train)
        y = as_activation(self.activation)(y)
        return self.layer(y, x.shape[-1], 1, "conv2", train, scale_init=zeros)


class RepVitBlock(_Layers, kw_only=True):
    """Mixes pixels, and then channels, with a shortcut around the second.

    Parameters are named as timm's: ``token_mixer``, ``se`` and ``channel_mixer``.

    Attributes:
      gated: whether a squeeze-and-excitation stands between the two.
      ratio: the width between the layers that mix channels, as a multiple of theirs.
      drop_path: the rate at which that branch is dropped for a whole example.
    """

    gated: bool = False
    ratio: float = 2.0
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        own = {name: getattr(self, name) for name in _PASSED_ON}
        width, mixer = x.shape[-1], "token_mixer"
        if self.fused:
            x = folding(self, width, self.kernel_size, mixer, groups=width)(x, train)
        else:
            x = PixelMixer(name=mixer, **own)(x, train)
        if self.gated:
            x = SqueezeExcite(0.25, **PLAIN, name="se", **self.dtypes)(x)
        y = PixelMlp(ratio=self.ratio, name="channel_mixer", **own)(x, train)
        return x + DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)


class Reduction(_Layers, kw_only=True):
    """What leads to a stage: a block, a strided convolution, a layer, and two with a shortcut.

    Parameters are named as timm's ``RepVitDownsample``: ``pre_block``, ``spatial_downsample``,
    ``channel_downsample`` and ``ffn``.

    Attributes:
      features: the channels of the output.
      ratio: the width between two layers, as a multiple of the channels.
    """

    features: int
    ratio: float = 2.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 2, W / 2, features]``, rounded up."""
        own = {"ratio": self.ratio, **{name: getattr(self, name) for name in _PASSED_ON}}
        x = RepVitBlock(name="pre_block", **own)(x, train)
        options = {"stride": 2, "groups": x.shape[-1]}
        x = self.layer(x, x.shape[-1], self.kernel_size, "spatial_downsample", train, **options)
        x = self.layer(x, self.features, 1, "channel_downsample", train)
        return x + PixelMlp(name="ffn", **own)(x, train)


class RepVit(Backbone):
    """A RepViT without its classifier: a stem of stride 4 and stages of blocks.

    It maps images ``[B, H, W, C]`` of any size to the last map ``[B, H / 32, W / 32, C']`` where
    there are four stages, rounded up.

    Attributes:
      layers: the number of blocks of each stage, of which every second one has no gate.
      widths: the channels of each stage.
      ratio: the width between the layers that mix channels, as a multiple of theirs.
      kernel_size: of the convolutions that mix pixels.
      legacy: whether convolutions of 1 x 1 have norms of their own, not the sums (the paper's first
        version).
      distilled: whether classifiers have a second layer, which another network taught, and return
        the mean of both.
      distilled_training: whether these return both layers' logits in training, a pair, as timm does
        after ``set_distilled_training``.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
      fused: whether convolutions and their norms, and branches, are one convolution, the form of
        inference (``flaxzoo.Model.reparameterize``); the classifier stays as it is.
    """

    layers: Sequence[int] = (2, 2, 14, 2)
    widths: Sequence[int] = (48, 96, 192, 384)
    ratio: float = 2.0
    kernel_size: int = 3
    legacy: bool = False
    distilled: bool = True
    distilled_training: bool = False
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "batch"
    drop_path: float = 0.0
    remat: bool | str = False
    fused: bool = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stages_0_blocks_0`` and so on, with what leads to each."""
        yield Part("stem", self._stem, ("stem_conv1", "stem_conv2"), takes="images")
        own = {"ratio": self.ratio, **{name: getattr(self, name) for name in _PASSED_ON}}
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        for i, (count, width) in enumerate(zip(self.layers, self.widths, strict=True)):
            stage = f"stages_{i}"
            if i:
                reduce = functools.partial(self._reduce, stage, width)
                yield Part(f"{stage}_blocks_0", reduce, (f"{stage}_downsample",))
            for j in range(count):
                fields: dict[str, Any] = {"gated": j % 2 == 0, "drop_path": next(rates), **own}
                options: dict[str, Any] = {"map": stage if j == count - 1 else None}
                options |= {"reduction": 4 << i, "remat": self.remat}
                block = functools.partial(RepVitBlock, **fields)
                yield Part(f"{stage}_blocks_{j}", block, **options)

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        x = folding(self, self.widths[0] // 2, 3, "stem_conv1", stride=2)(x, train)
        x = as_activation(self.activation)(x)
        return folding(self, self.widths[0], 3, "stem_conv2", stride=2)(x, train)

    def _reduce(self, stage: str, width: int, x: jax.Array, train: bool) -> jax.Array:
        own = {"ratio": self.ratio, **{name: getattr(self, name) for name in _PASSED_ON}}
        return Reduction(features=width, name=f"{stage}_downsample", **own)(x, train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The classifiers, each with a BatchNorm of its own; distilled networks have two."""
        options = {"classifier_norm": "batch", "kernel_init": Normal(0.02)}
        if self.distilled:
            options["distilled"] = "pair" if self.distilled_training else "mean"
        return {**super().head_options(), **options}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        lists = {name: tuple(getattr(self, name)) for name in ("layers", "widths")}
        for name, value in lists.items():
            check_widths(name, value)
        check_lengths(**lists)
        if self.widths[0] % 2:
            raise ArgumentError(f"widths must begin with an even number, got {self.widths[0]}")
        check_size("kernel_size", self.kernel_size)
        check_number("ratio", self.ratio, above=0)
        if self.distilled_training and not self.distilled:
            raise ArgumentError("distilled_training=True takes distilled=True, got False")


REFERENCE = Reference(
    stem=("stem_conv1/c", "stem_conv1"),
    classifier="head.head.l",
    head=(
        ("fc_norm", "head.head.bn"),
        ("fc_dist_norm", "head.head_dist.bn"),
        ("fc_dist", "head.head_dist.l"),
    ),
    renamed=(
        (r"stem_(conv\d)", r"stem.\1"),
        (r"stages_(\d+)_downsample", r"stages.\1.downsample"),
    ),
    # Branches are added to each other, and no norm stands between them: of the first version with
    # large ones rounding grows from block to block.
    gain=1.0,
    scales=(("*.token_mixer.conv*.bn.weight", 0.25),),
    fused=("stem.conv1.weight",),
)
_M1: dict[str, Any] = {"layers": (2, 2, 14, 2)}
_M2: dict[str, Any] = {"layers": (2, 2, 12, 2), "widths": (64, 128, 256, 512)}
variants(
    RepVit,
    {
        "repvit_m1": row("RepViT-M1 of the first version", legacy=True, **_M1),
        "repvit_m2": row("RepViT-M2 of the first version", legacy=True, **_M2),
        "repvit_m3": row(
            "RepViT-M3 of the first version", legacy=True, **{**_M2, "layers": (4, 4, 18, 2)}
        ),
        "repvit_m0_9": row("RepViT-M0.9", **_M1),
        "repvit_m1_0": row("RepViT-M1.0", widths=(56, 112, 224, 448), **_M1),
        "repvit_m1_1": row("RepViT-M1.1", **_M2),
        "repvit_m1_5": row("RepViT-M1.5", **{**_M2, "layers": (4, 4, 24, 4)}),
        "repvit_m2_3": row("RepViT-M2.3", layers=(6, 6, 34, 2), widths=(80, 160, 320, 640)),
    },
    paper="https://arxiv.org/abs/2307.09283",
    reference=REFERENCE,
)
