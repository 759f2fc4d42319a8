"""iFormer: convolutions on fine maps, and gated attention of one head on coarse ones.

The last two stages have groups of three blocks: a depthwise convolution for positions, attention,
and two layers on each pixel. Names and numbers are those of timm's ``iformer`` module.

References:
  iFormer: https://arxiv.org/abs/2501.15369
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lengths, check_number, check_size, check_widths
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.attention import attend, weight_hook
from flaxzoo.layers.checked import Checked
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.drop_path import DropPath, drop_path_rates
from flaxzoo.layers.initializers import Constant, Normal
from flaxzoo.layers.layer import Layer
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

_INIT = Normal(0.02)
_GROUP = 3
# What all modules get from the network as it is.
_PASSED_ON = ("activation", "norm", "norm_epsilon", "dtype", "param_dtype")


class _Layers(Layer):
    """The fields that the modules of an iFormer share.

    Attributes:
      activation: by name or callable.
      norm: the kind of the convolutions' norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
    """

    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "batch"
    norm_epsilon: float | None = None

    @property
    def shared(self) -> dict[str, Any]:
        """These fields as keywords."""
        return {name: getattr(self, name) for name in _PASSED_ON}

    @nn.nowrap
    def layer(self, features: int, name: str, size: int = 1, **options: Any) -> ConvNorm:
        """Makes a convolution ``c`` with its norm ``bn``."""
        options = {**self.shared, "activation": None, "kernel_init": _INIT, **options}
        return ConvNorm(features, size, names=("c", "bn"), name=name, **options)


class ConvStem(_Layers):
    """Two strided convolutions of 5 x 5, ``conv1`` and ``conv2``, and one of 1 x 1, ``conv3``.

    Attributes:
      features: the channels of the map, even.
    """

    features: int = 32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / 4, W / 4, features]``, rounded up."""
        half = self.features // 2
        options = {"stride": 2, "activation": self.activation}
        x = self.layer(half, "conv1", 5, **options)(x, train)
        x = self.layer(4 * half, "conv2", 5, **options)(x, train)
        return self.layer(self.features, "conv3")(x, train)


class PixelMlp(_Layers):
    """Two layers on each pixel, behind a depthwise convolution or not.

    Parameters are named as those of timm's ``nn.Sequential``s, by their places.

    Attributes:
      ratio: the channels between the layers, as a multiple of the input's.
      kernel_size: the side of the depthwise kernel; None for no such convolution.
    """

    ratio: int = 4
    kernel_size: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        width, place = x.shape[-1], 0
        if self.kernel_size is not None:
            x = self.layer(width, "0", self.kernel_size, groups=width)(x, train)
            place = 1
        x = self.layer(self.ratio * width, str(place), activation=self.activation)(x, train)
        return self.layer(width, str(place + 2))(x, train)


class ModulationAttention(_Layers):
    """Attention of one head among all pixels, whose values and results have sigmoid gates.

    Zheng 2025, https://arxiv.org/abs/2501.15369, section 3.3. Parameters are named as timm's
    ``SHMA``: ``q``, ``k``, ``v_gate``, ``proj``.

    Attributes:
      ratio: the width of the values, as a multiple of the pixels'.
      reduction: by how much queries and keys are narrower than the pixels.
    """

    ratio: int = 1
    reduction: int = 2

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        batch, height, width, channels = x.shape
        inner = int(channels * self.ratio)
        values = nn.sigmoid(self.layer(2 * inner, "v_gate")(x, train))
        v, gate = jnp.split(values, 2, axis=-1)
        keys = channels // self.reduction
        q, k = (self.layer(keys, name)(x, train) for name in ("q", "k"))
        q, k, v = (part.reshape(batch, height * width, 1, part.shape[-1]) for part in (q, k, v))
        y = attend(q, k, v, drop=weight_hook(self, 0.0, train))
        return self.layer(channels, "proj")(y.reshape(gate.shape) * gate, train)


class Residual(Checked):
    """Adds what a ``module`` makes of a map, scaled by ``gamma`` or not, and dropped for some.

    Attributes:
      kind: makes the module; called with its name.
      layer_scale: what the learnt scale of each channel begins with; None for no scale.
      drop_path: the rate at which the branch is dropped for a whole example (stochastic depth).
      param_dtype: the dtype of the scales ``[1, 1, 1, C]``.
    """

    kind: Callable[..., nn.Module]
    layer_scale: float | None = None
    drop_path: float = 0.0
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        run: Any = self.kind(name="module")
        y = DropPath(self.drop_path, name="drop_path")(run(x, train), deterministic=not train)
        if self.layer_scale is not None:
            shape = (1, 1, 1, x.shape[-1])
            gamma = self.param("gamma", Constant(self.layer_scale), shape, self.param_dtype)
            y = y * gamma.astype(y.dtype)
        return x + y


class IformerBlock(_Layers):
    """One of four kinds of blocks, whose branch is ``mixer``, or ``cpe`` for positions.

    Attributes:
      kind: ``"conv"``, a depthwise convolution of 7 x 7 and two layers on each pixel;
        ``"positions"``, one of 3 x 3; ``"attention"``; or ``"mlp"``, the two layers alone.
      ratio: the channels between the two layers, or of the values, as a multiple of the input's.
      reduction: by how much queries and keys are narrower.
      layer_scale: what the learnt scale of each channel begins with; None for no scale.
      drop_path: the rate at which the branch is dropped for a whole example (stochastic depth).
    """

    kind: str = "conv"
    ratio: int = 4
    reduction: int = 2
    layer_scale: float | None = None
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        if self.kind == "positions":
            fields = {**self.shared, "activation": None, "kernel_init": _INIT}
            fields |= {"groups": x.shape[-1], "names": ("c", "bn")}
            branch: Any = functools.partial(ConvNorm, x.shape[-1], 3, **fields)
            return Residual(branch, name="cpe")(x, train)
        if self.kind == "attention":
            options = {"ratio": self.ratio, "reduction": self.reduction, **self.shared}
            branch = functools.partial(ModulationAttention, **options)
        else:
            size = 7 if self.kind == "conv" else None
            branch = functools.partial(PixelMlp, ratio=self.ratio, kernel_size=size, **self.shared)
        fields = {"layer_scale": self.layer_scale, "drop_path": self.drop_path}
        return Residual(branch, name="mixer", param_dtype=self.param_dtype, **fields)(x, train)


class Iformer(Backbone):
    """An iFormer without its classifiers: a stem and stages of blocks.

    It maps images ``[B, H, W, C]`` of any size to ``[B, H / 32, W / 32, C']``, rounded up. Maps are
    those behind each stage.

    Attributes:
      layers: the number of blocks of each stage.
      widths: the channels of each stage; that of the first is even.
      attention_groups: the number of groups of three blocks of each stage, the middle of which
        attends; all other blocks are convolutions, one of them behind the groups.
      key_reductions: by how much queries and keys of each stage are narrower than its channels.
      conv_ratio: the channels between two layers behind a convolution, as a multiple of the width.
      mlp_ratio: those of the last blocks of the groups.
      value_ratio: the width of the values, as a multiple of the stage's.
      layer_scale: what the learnt scales of the branches begin with; None for no scales.
      distilled: whether classifiers have a second layer, which another network taught, and return
        the mean of both.
      distilled_training: whether these return both layers' logits in training, a pair, for a loss
        each: of the labels and of the teacher's. In inference it is always the mean.
      activation: by name or callable.
      norm: the kind of the convolutions' norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (2, 2, 22, 6)
    widths: Sequence[int] = (48, 96, 192, 384)
    attention_groups: Sequence[int] = (0, 0, 4, 2)
    key_reductions: Sequence[int] = (1, 1, 2, 4)
    conv_ratio: int = 4
    mlp_ratio: int = 3
    value_ratio: int = 1
    layer_scale: float | None = None
    distilled: bool = False
    distilled_training: bool = False
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "batch"
    norm_epsilon: float | None = None
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, then the blocks ``stages_0_blocks_0`` and so on, with what leads to each."""
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        stem = functools.partial(ConvStem, features=self.widths[0], **fields)
        yield Part("stem", stem, takes="images")
        rates = drop_path_rates(self.drop_path, sum(self.layers))
        for stage, count in enumerate(self.layers):
            prefix, before = f"stages_{stage}", sum(self.layers[:stage])
            if stage:
                down = functools.partial(self._down, stage)
                yield Part(f"{prefix}_blocks_0", down, owns=(f"{prefix}_downsample",))
            kinds = self.kinds(stage)
            options = {"reduction": self.key_reductions[stage], "layer_scale": self.layer_scale}
            for i, (kind, rate) in enumerate(zip(kinds, rates[before:], strict=False)):
                ends = i == count - 1
                fields_of = {"kind": kind, "ratio": self.ratios[kind], **options, **fields}
                yield Part(
                    f"{prefix}_blocks_{i}",
                    functools.partial(IformerBlock, drop_path=rate, **fields_of),
                    map=prefix if ends else None,
                    reduction=4 << stage,
                    # The last block is as deep as the classifiers, as in timm.
                    depth="head" if ends and stage == len(self.layers) - 1 else None,
                    remat=self.remat,
                )

    @property
    def ratios(self) -> dict[str, int]:
        """The ratio that each kind of block takes."""
        return {
            "conv": self.conv_ratio,
            "positions": 1,
            "attention": self.value_ratio,
            "mlp": self.mlp_ratio,
        }

    @nn.nowrap
    def kinds(self, stage: int) -> tuple[str, ...]:
        """The kinds of a stage's blocks."""
        groups = self.attention_groups[stage]
        convs = self.layers[stage] - _GROUP * groups
        last = 1 if groups and convs else 0
        group = ("positions", "attention", "mlp")
        return ("conv",) * (convs - last) + group * groups + ("conv",) * last

    def _down(self, stage: int, x: jax.Array, train: bool) -> jax.Array:
        options: dict[str, Any] = {"norm": self.norm, "norm_epsilon": self.norm_epsilon}
        options |= {"names": ("c", "bn"), "kernel_init": _INIT, **self.dtypes}
        name = f"stages_{stage}_downsample"
        return ConvNorm(self.widths[stage], 3, 2, name=name, **options)(x, train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers, each of which has a BatchNorm."""
        options = {**super().head_options(), "classifier_norm": "batch", "kernel_init": _INIT}
        if self.distilled:
            options["distilled"] = "pair" if self.distilled_training else "mean"
        return options

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        lists = {name: getattr(self, name) for name in ("layers", "widths", "key_reductions")}
        for name, value in lists.items():
            check_widths(name, value)
        check_lengths(**lists, attention_groups=self.attention_groups)
        for count, groups in zip(self.layers, self.attention_groups, strict=True):
            check_size("attention_groups", groups, minimum=0)
            if count < _GROUP * groups:
                raise ArgumentError(
                    "layers must be at least 3 for each of attention_groups="
                    f"{tuple(self.attention_groups)}, got {tuple(self.layers)}"
                )
        if self.widths[0] % 2:
            raise ArgumentError(f"widths must begin with an even number, got {self.widths[0]}")
        narrow = zip(self.widths, self.key_reductions, strict=True)
        if any(reduction > width for width, reduction in narrow):
            raise ArgumentError(
                f"key_reductions must be at most widths={tuple(self.widths)}, got "
                f"{tuple(self.key_reductions)}"
            )
        for name in ("conv_ratio", "mlp_ratio", "value_ratio"):
            check_size(name, getattr(self, name))
        if self.layer_scale is not None:
            check_number("layer_scale", self.layer_scale)
        if self.distilled_training and not self.distilled:
            raise ArgumentError("distilled_training=True takes distilled=True, got False")


# Names of the authors' own files, before timm's.
_AUTHORS = (
    (r"^classifier\.classifier_dist\.", "head.head_dist."),
    (r"^classifier\.(?:classifier\.)?", "head.head."),
    (r"^downsample_layers\.0\.0\.", "stem.conv1."),
    (r"^downsample_layers\.0\.2\.conv_exp_bn1\.", "stem.conv2."),
    (r"^downsample_layers\.0\.2\.conv_pwl_bn2\.", "stem.conv3."),
    (r"^downsample_layers\.(\d+)\.(?:0\.)?", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(\d+)\.(?:block\.)?", r"stages.\1.blocks.\2."),
    (r"\b(?:token_)?channel_mixer\b", "mixer"),
    (r"\.m\.", ".module."),
)


def _convert(tensors: Mapping[str, Any], _backbone: Iformer) -> dict[str, Any]:
    """Timm's names for the tensors of the authors' files."""
    if "stem.conv1.c.weight" in tensors:
        return dict(tensors)
    converted = {}
    for name, tensor in tensors.items():
        key = name
        for pattern, replacement in _AUTHORS:
            key = re.sub(pattern, replacement, key)
        converted[key] = tensor
    return converted


# Groups of three blocks leave no shallow networks of these names: all are compared whole.
CUT: dict[str, str] = {}

_S: dict[str, Any] = {"layers": (2, 2, 19, 6), "widths": (32, 64, 176, 320)}
_S |= {"attention_groups": (0, 0, 3, 2)}
_T: dict[str, Any] = {"layers": (2, 2, 16, 6), "widths": (32, 64, 128, 256), "conv_ratio": 3}
_T |= {"attention_groups": (0, 0, 3, 2), "mlp_ratio": 2}
_L: dict[str, Any] = {"layers": (2, 2, 33, 6), "widths": (48, 96, 256, 384)}
_L |= {"attention_groups": (0, 0, 8, 2)}
_L2: dict[str, Any] = {"layers": (3, 3, 46, 9), "widths": (64, 128, 256, 512)}
_L2 |= {"attention_groups": (0, 0, 11, 3)}
_H: dict[str, Any] = {"layers": (5, 5, 60, 18), "widths": (96, 192, 384, 768), "mlp_ratio": 4}
_H |= {"attention_groups": (0, 0, 15, 6), "key_reductions": (1, 1, 1, 1), "layer_scale": 1e-6}

variants(
    Iformer,
    {
        "iformer_t": row("iFormer-T", **_T),
        "iformer_s": row("iFormer-S", **_S),
        "iformer_m": row("iFormer-M"),
        "iformer_l": row("iFormer-L", **_L),
        "iformer_l2": row("iFormer-L2", **_L2),
        "iformer_h": row("iFormer-H", **_H),
        "iformer_m_distilled": row("iFormer-M, distilled", distilled=True),
        "iformer_l_distilled": row("iFormer-L, distilled", distilled=True, **_L),
        "iformer_l2_distilled": row("iFormer-L2, distilled", distilled=True, **_L2),
    },
    paper="https://arxiv.org/abs/2501.15369",
    reference=Reference(
        stem=("stem/conv1/c",),
        classifier="head.head.l",
        head=(
            ("fc_norm", "head.head.bn"),
            ("fc_dist", "head.head_dist.l"),
            ("fc_dist_norm", "head.head_dist.bn"),
        ),
        layouts=(("params/backbone/*/gamma", "map"),),
        convert=_convert,
    ),
)
