"""EfficientViT of MIT: convolutions, and attention whose cost grows with the number of pixels.

Attention has no softmax: keys and values are summed once for all queries, of pixels and of what a
convolution gathers around them. Inverted bottlenecks stand around it. Names and numbers are those
of timm's ``efficientvit_mit`` module.

References:
  EfficientViT: https://arxiv.org/abs/2205.14756
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_choice, check_lengths, check_number, check_size, check_widths
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.initializers import PLAIN, FanIn, plain_bias, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# The convolutions of each kind of block: name, size, and whether it is depthwise.
_LAYERS: dict[str, tuple[tuple[str, int, bool], ...]] = {
    "separable": (("depth_conv", 3, True), ("point_conv", 1, False)),
    "pair": (("conv1", 3, False), ("conv2", 3, False)),
    "inverted": (("inverted_conv", 1, False), ("depth_conv", 3, True), ("point_conv", 1, False)),
    "fused": (("spatial_conv", 3, False), ("point_conv", 1, False)),
}
# The kinds of stages: that of the blocks' convolutions, and whether only the last has a norm.
_STAGES = {
    "inverted": ("inverted", False),
    "fused": ("fused", False),
    "sparse": ("inverted", True),
    "attention": ("inverted", True),
}
# What modules get from the network as it is.
_PASSED_ON = ("activation", "norm", "norm_epsilon", "dtype", "param_dtype")
# timm counts the stem and the strided blocks among its depths.
CUT: dict[str, str] = {}


class _Layers(Layer):
    """The fields that the modules of an EfficientViT share.

    Attributes:
      activation: by name or callable.
      norm: the kind of the norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      drop_path: the rate at which a branch is dropped for a whole example (stochastic depth).
    """

    activation: str | Callable[[jax.Array], jax.Array] = "hard_swish"
    norm: Any = "batch"
    norm_epsilon: float = 1e-5
    drop_path: float = 0.0

    @nn.nowrap
    def layer(self, features: int, name: str, size: int = 1, **options: Any) -> ConvNorm:
        """Makes a convolution; without a norm where ``options`` ask for a bias."""
        bare = options.get("use_bias", False)
        bias = plain_bias if bare else zeros
        options |= {"norm": None if bare else self.norm, "norm_epsilon": self.norm_epsilon}
        options |= {**self.dtypes, "bias_init": bias}
        return ConvNorm(features, size, names=("conv", "norm"), name=name, **options)

    def add(self, x: jax.Array, y: jax.Array, train: bool) -> jax.Array:
        """Adds a branch, which is dropped for some examples."""
        return x + DropPath(self.drop_path, name="drop_path")(y, deterministic=not train)


class LocalBlock(_Layers):
    """Two or three convolutions, the hidden ones wider.

    Parameters are named as timm's ``DSConv``, ``ConvBlock``, ``MBConv`` and ``FusedMBConv``.

    Attributes:
      kind: ``"separable"``, a depthwise convolution and a layer on each pixel; ``"pair"``, two of
        3 x 3 pixels; ``"inverted"``, a depthwise one between two layers; ``"fused"``, one of 3 x 3
        pixels and a layer.
      features: the channels of the output.
      stride: by how much it is smaller.
      expansion: how much wider the block is inside.
      sparse: whether only the last convolution has a norm; the others have biases.
      shortcut: whether the input is added.
    """

    kind: str = "inverted"
    features: int = 16
    stride: int = 1
    expansion: float = 4.0
    sparse: bool = False
    shortcut: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, features]``, rounded up."""
        y, stride, hidden = x, self.stride, round(x.shape[-1] * self.expansion)
        *first, (last, last_size, _) = _LAYERS[self.kind]
        for name, size, depthwise in first:
            options: dict[str, Any] = {"activation": self.activation, "use_bias": self.sparse}
            options["groups"] = hidden if depthwise else 1
            if size > 1:
                options["stride"], stride = stride, 1
            y = self.layer(hidden, name, size, **options)(y, train)
        y = self.layer(self.features, last, last_size)(y, train)
        return self.add(x, y, train) if self.shortcut else y


class LinearAttention(_Layers):
    """Attention without a softmax, of pixels and of what convolutions gather around them.

    Cai et al. 2022, https://arxiv.org/abs/2205.14756, section 3.1: queries and keys go through a
    ReLU, so that keys and values are summed once for all queries. The sums are float32 at least.
    Parameters are named as timm's ``LiteMLA``: ``qkv``, ``aggreg_0_0`` and ``aggreg_0_1`` for each
    scale, ``proj``.

    Attributes:
      head_width: the width of a head.
      scales: the sizes of the convolutions that gather, each for as many heads again.
      epsilon: a small number that is added to the sum of a query's weights.
    """

    head_width: int = 16
    scales: Sequence[int] = (5,)
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        batch, height, width, channels = x.shape
        inner, groups = 3 * channels, 3 * (channels // self.head_width)
        options: dict[str, Any] = {"kernel_init": FanIn(), "dtype": self.dtype}
        options["param_dtype"] = self.param_dtype
        qkv = ConvNorm(inner, norm=None, names=("conv", "norm"), name="qkv", **options)(x, train)
        found = [qkv]
        for i, size in enumerate(self.scales):
            y = Conv(inner, size, groups=inner, name=f"aggreg_{i}_0", **options)(qkv)
            found.append(Conv(inner, 1, groups=groups, name=f"aggreg_{i}_1", **options)(y))
        y = jnp.concatenate(found, axis=-1).reshape(batch, height * width, -1, 3 * self.head_width)
        q, k, v = jnp.split(y.astype(jnp.promote_types(y.dtype, jnp.float32)), 3, axis=-1)
        q, k = nn.relu(q), nn.relu(k)
        sums = jnp.einsum("bnhd,bnhe->bhde", k, v)
        weights = jnp.einsum("bnhd,bhd->bnh", q, k.sum(1)) + self.epsilon
        y = jnp.einsum("bnhd,bhde->bnhe", q, sums) / weights[..., None]
        y = y.astype(qkv.dtype).reshape(batch, height, width, -1)
        return self.layer(channels, "proj")(y, train)


class AttentionBlock(_Layers):
    """Linear attention, then an inverted bottleneck, each added to its input.

    Parameters are named as timm's ``EfficientVitBlock``: ``context_module``, ``local_module``.

    Attributes:
      head_width: the width of a head.
      expansion: how much wider the bottleneck is inside.
    """

    head_width: int = 16
    expansion: float = 4.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        own = {name: getattr(self, name) for name in (*_PASSED_ON, "drop_path")}
        attention = LinearAttention(head_width=self.head_width, name="context_module", **own)
        x = self.add(x, attention(x, train), train)
        fields: dict[str, Any] = {"features": x.shape[-1], "expansion": self.expansion}
        return LocalBlock(sparse=True, name="local_module", **fields, **own)(x, train)


class Stem(_Layers):
    """A strided convolution ``in_conv``, then blocks ``res0`` and so on.

    Attributes:
      features: the channels of the output.
      depth: the number of blocks.
      kind: of the blocks, ``"separable"`` or ``"pair"``.
    """

    features: int = 8
    depth: int = 1
    kind: str = "separable"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps images ``[B, H, W, C]`` to ``[B, H / 2, W / 2, features]``, rounded up."""
        own: dict[str, Any] = {name: getattr(self, name) for name in _PASSED_ON}
        own |= {"kind": self.kind, "features": self.features, "expansion": 1.0}
        options: dict[str, Any] = {"stride": 2, "activation": self.activation}
        x = self.layer(self.features, "in_conv", 3, **options)(x, train)
        for i in range(self.depth):
            x = LocalBlock(name=f"res{i}", **own)(x, train)
        return x


class EfficientVit(Backbone):
    """An EfficientViT without its classifier: a stem and stages, the later ones with attention.

    It maps images ``[B, H, W, C]`` of any size to the last map, ``[B, H / 32, W / 32, C]`` for four
    stages, rounded up. Each stage begins with a strided block without a shortcut.

    Attributes:
      layers: the number of blocks of each stage, behind its strided one.
      widths: the channels of each stage.
      kinds: of the blocks of each stage: ``"inverted"`` bottlenecks; ``"fused"`` ones, of a
        convolution of 3 x 3 pixels; ``"sparse"``, inverted ones of but one norm; ``"attention"``.
      expansions: how much wider the blocks of each stage are inside.
      down_expansions: how much wider its strided one is.
      stem_width: the channels of the stem.
      stem_kind: of the stem's block, ``"separable"`` or ``"pair"``.
      head_width: the width of a head of attention.
      classifier_widths: the widths of the classifier's two hidden layers, the first on each pixel
        before the pooling; None for none.
      activation: by name or callable.
      norm: the kind of the norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (1, 1, 2, 2)
    widths: Sequence[int] = (16, 32, 64, 128)
    kinds: Sequence[str] = ("inverted", "inverted", "attention", "attention")
    expansions: Sequence[float] = (4, 4, 4, 4)
    down_expansions: Sequence[float] = (4, 4, 4, 4)
    stem_width: int = 8
    stem_kind: str = "separable"
    head_width: int = 16
    classifier_widths: Sequence[int] | None = (1024, 1280)
    activation: str | Callable[[jax.Array], jax.Array] = "hard_swish"
    norm: Any = "batch"
    norm_epsilon: float = 1e-5
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stages_0_blocks_0`` and so on."""
        own: dict[str, Any] = {name: getattr(self, name) for name in _PASSED_ON}
        stem = functools.partial(Stem, kind=self.stem_kind, features=self.stem_width, **own)
        yield Part("stem", stem, takes="images")
        rates = iter(drop_path_rates(self.drop_path, sum(self.layers)))
        for i, count in enumerate(self.layers):
            kind, sparse = _STAGES[self.kinds[i]]
            local = functools.partial(
                LocalBlock, kind=kind, features=self.widths[i], sparse=sparse, **own
            )
            for j in range(count + 1):
                fields: dict[str, Any] = {"expansion": self.expansions[i]}
                block: Any = local
                if j == 0:
                    fields = {"expansion": self.down_expansions[i], "stride": 2, "shortcut": False}
                elif self.kinds[i] == "attention":
                    block = functools.partial(AttentionBlock, head_width=self.head_width, **own)
                rate = next(rates) if j else 0.0
                options: dict[str, Any] = {"map": f"stages_{i}" if j == count else None}
                options |= {"reduction": 4 << i, "remat": self.remat}
                run = functools.partial(block, drop_path=rate, **fields)
                yield Part(f"stages_{i}_blocks_{j}", run, **options)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """A layer before the pooling and one behind it."""
        hidden: dict[str, Any] = {"hidden_norm": "layer", "hidden_norm_epsilon": self.norm_epsilon}
        hidden |= {"hidden_norm_first": True, "hidden_bias": False, "activation": self.activation}
        if self.classifier_widths is not None:
            first, second = self.classifier_widths
            hidden |= {"map_width": first, "hidden": (second,)}
        return {**super().head_options(), **hidden, **PLAIN}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        names = ("layers", "widths", "kinds", "expansions", "down_expansions")
        lists = {name: getattr(self, name) for name in names}
        check_lengths(**lists)
        check_widths("widths", self.widths)
        for count in self.layers:
            check_size("layers", count, minimum=0)
        for name in ("expansions", "down_expansions"):
            for ratio in lists[name]:
                check_number(name, ratio, above=0)
        for name in ("stem_width", "head_width"):
            check_size(name, getattr(self, name))
        for width, kind in zip(self.widths, self.kinds, strict=True):
            check_choice("kinds", kind, _STAGES)
            if kind == "attention" and width % self.head_width:
                raise ArgumentError(
                    f"widths of stages that attend must be multiples of "
                    f"head_width={self.head_width}, got {width}"
                )
        if self.classifier_widths is not None:
            check_widths("classifier_widths", self.classifier_widths)
            if len(self.classifier_widths) != 2:
                raise ArgumentError(
                    f"classifier_widths must be two or None, got {tuple(self.classifier_widths)}"
                )
        check_choice("stem_kind", self.stem_kind, ("separable", "pair"))


REFERENCE = Reference(
    stem=("stem/in_conv/conv",),
    classifier="head.classifier.4",
    head=(
        ("in_conv", "head.in_conv"),
        ("dense_0", "head.classifier.0"),
        ("norm_0", "head.classifier.1"),
    ),
    renamed=(
        # Blocks that do not attend have but one branch.
        (r"stages_(\d+)_blocks_(\d+)/(\w+_conv)", r"stages.\1.blocks.\2.main.\3"),
        (r"(context_module|local_module|res\d+)", r"\1.main"),
    ),
    # Branches are added to each other, and no norm stands between them.
    gain=1.0,
)

_LARGE: dict[str, Any] = {
    "kinds": ("fused", "fused", "sparse", "attention"),
    "expansions": (4, 4, 4, 6),
    "down_expansions": (16, 16, 16, 24),
    "stem_kind": "pair",
    "head_width": 32,
    "activation": "gelu_tanh",
    "norm_epsilon": 1e-7,
}
variants(
    EfficientVit,
    {
        "efficientvit_b0": row("EfficientViT-B0"),
        "efficientvit_b1": row(
            "EfficientViT-B1",
            layers=(1, 2, 3, 4),
            widths=(32, 64, 128, 256),
            stem_width=16,
            classifier_widths=(1536, 1600),
        ),
        "efficientvit_b2": row(
            "EfficientViT-B2",
            layers=(2, 3, 4, 6),
            widths=(48, 96, 192, 384),
            stem_width=24,
            head_width=32,
            classifier_widths=(2304, 2560),
        ),
        "efficientvit_b3": row(
            "EfficientViT-B3",
            layers=(3, 5, 6, 9),
            widths=(64, 128, 256, 512),
            stem_width=32,
            head_width=32,
            classifier_widths=(2304, 2560),
        ),
        "efficientvit_l1": row(
            "EfficientViT-L1",
            layers=(1, 1, 6, 6),
            widths=(64, 128, 256, 512),
            stem_width=32,
            classifier_widths=(3072, 3200),
            **_LARGE,
        ),
        "efficientvit_l2": row(
            "EfficientViT-L2",
            layers=(2, 2, 8, 8),
            widths=(64, 128, 256, 512),
            stem_width=32,
            classifier_widths=(3072, 3200),
            **_LARGE,
        ),
        "efficientvit_l3": row(
            "EfficientViT-L3",
            layers=(2, 2, 8, 8),
            widths=(128, 256, 512, 1024),
            stem_width=64,
            classifier_widths=(6144, 6400),
            **_LARGE,
        ),
    },
    paper="https://arxiv.org/abs/2205.14756",
    reference=REFERENCE,
)
