"""EfficientNet and the mobile networks before and after it: MobileNet, MNASNet, MixNet and others.

Stages of depthwise convolutions between layers on each pixel, found by search and scaled in width,
depth and resolution together. Names and numbers are those of timm's ``efficientnet`` module.

``b0`` to ``b8`` and ``l2`` grow; ``lite`` has no gates; ``es``, ``em`` and ``el`` (EdgeTPU) and
``v2`` begin with fused blocks; ``cc`` mixes kernels for each image; ``x`` and ``h`` stack pixels;
``tf_`` pads as TensorFlow does, for the weights that were trained there. ``mnasnet``, ``semnasnet``
with gates, ``mobilenetv1``, ``mobilenetv2``, ``mobilenet_edgetpu``, ``fbnetc``, ``spnasnet``,
``mixnet`` with kernels of several sizes, and ``tinynet`` are networks of the same blocks.

References:
  EfficientNet: https://arxiv.org/abs/1905.11946
  EfficientNet V2: https://arxiv.org/abs/2104.00298
  EfficientNet-X: https://arxiv.org/abs/2102.05610
  MobileNet: https://arxiv.org/abs/1704.04861
  MobileNet V2: https://arxiv.org/abs/1801.04381
  MobileNet-EdgeTPU V2: https://arxiv.org/abs/2204.14007
  MNASNet: https://arxiv.org/abs/1807.11626
  MixNet: https://arxiv.org/abs/1907.09595
  CondConv: https://arxiv.org/abs/1904.04971
  FBNet: https://arxiv.org/abs/1812.03443
  Single-path NAS: https://arxiv.org/abs/1904.02877
  TinyNet: https://arxiv.org/abs/2010.14819
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax

from flaxzoo._checks import check_size
from flaxzoo.errors import CheckpointError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.initializers import HeNormal
from flaxzoo.layers.norm import GroupNorm
from flaxzoo.models.backbone import Part
from flaxzoo.models.mobile_backbone import (
    RENAMED,
    TF,
    MobileBackbone,
    read_line,
    round_width,
    scale_stages,
)
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import Row, row, variants

# What the packages efficientnet_pytorch and efficientnet_lite_pytorch call timm's layers: those of
# the network, and those of a block by the letters of its line.
_PACKAGE = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_GATE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
_PACKAGE_BLOCKS = {
    "ds": {
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn1",
        "_project_conv": "conv_pw",
        "_bn2": "bn2",
        **_GATE,
    },
    "ir": {
        "_expand_conv": "conv_pw",
        "_bn0": "bn1",
        "_depthwise_conv": "conv_dw",
        "_bn1": "bn2",
        "_project_conv": "conv_pwl",
        "_bn2": "bn3",
        **_GATE,
    },
}


def convert(tensors: Mapping[str, Any], backbone: EfficientNet) -> Mapping[str, Any]:
    """Timm's names for the tensors of files of efficientnet_pytorch, which counts all blocks.

    Raises:
      CheckpointError: the network does not pad as that package's do.
    """
    if not any(name.startswith(("_conv_stem.", "_blocks.")) for name in tensors):
        return tensors
    if backbone.padding != "SAME":
        raise CheckpointError(
            "the names are those of efficientnet_pytorch, whose weights are for TensorFlow's "
            "padding and epsilon: take the model whose name begins with 'tf_', or "
            "padding='SAME', norm_epsilon=1e-3"
        )
    places = []
    for stage, lines in enumerate(backbone.blocks):
        kinds = [line.kind for line in map(read_line, lines) for _ in range(line.repeats)]
        places += [(f"blocks.{stage}.{i}", kind) for i, kind in enumerate(kinds)]

    def today(name: str) -> str:
        block = re.match(r"_blocks\.(\d+)\.", name)
        prefix, layers = "", _PACKAGE
        if block is not None:
            if int(block[1]) >= len(places):
                return name
            place, kind = places[int(block[1])]
            prefix, layers = f"{place}.", _PACKAGE_BLOCKS.get(kind, {})
        layer, _, leaf = name[block.end() if block else 0 :].rpartition(".")
        return f"{prefix}{layers[layer]}.{leaf}" if layer in layers else name

    return {today(name): tensor for name, tensor in tensors.items()}


REFERENCE = Reference(
    stem=("conv_stem",),
    classifier="classifier",
    renamed=RENAMED,
    leaves=(("*/experts", "weight"),),
    convert=convert,
    former_classifiers=("_fc",),
)
# timm makes no shallow networks of these names: all are compared whole.
CUT: dict[str, str] = {}


class EfficientNet(MobileBackbone):
    """An EfficientNet without its classifier: a stem, stages of blocks, and a last convolution.

    It maps images ``[B, H, W, C]`` to the last map ``[B, H / 32, W / 32, head_width]``.

    Attributes:
      head_width: the channels of the last convolution, of one pixel, which maps do not pass
        through; None for no such convolution.
    """

    head_width: int | None = 1280

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem and the blocks, and the last convolution."""
        for part in super().parts():
            yield part
        if self.head_width is not None:
            last = functools.partial(self._last, self.head_width)
            yield Part("conv_head", last, owns=("conv_head", "bn2"), depth=part.name)

    def _last(self, width: int, x: jax.Array, train: bool) -> jax.Array:
        options: dict[str, Any] = {"padding": self.padding, "kernel_init": HeNormal()}
        x = Conv(width, 1, name="conv_head", **options, **self.dtypes)(x)
        return self._normalise(x, "bn2", train)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        check_size("head_width", self.head_width, optional=True)


# One object each: partials of equal arguments are different keys to jit.
_GROUPS_OF_8 = functools.partial(GroupNorm, num_groups=None, group_size=8)
_GROUPS_OF_16 = functools.partial(GroupNorm, num_groups=None, group_size=16)

# The lines of each network, in the letters of flaxzoo.models.mobile_backbone.
_B = (
    ("ds_c16_se0.25",),
    ("ir_r2_s2_e6_c24_se0.25",),
    ("ir_r2_k5_s2_e6_c40_se0.25",),
    ("ir_r3_s2_e6_c80_se0.25",),
    ("ir_r3_k5_e6_c112_se0.25",),
    ("ir_r4_k5_s2_e6_c192_se0.25",),
    ("ir_e6_c320_se0.25",),
)
_LITE = (
    ("ds_c16",),
    ("ir_r2_s2_e6_c24",),
    ("ir_r2_k5_s2_e6_c40",),
    ("ir_r3_s2_e6_c80",),
    ("ir_r3_k5_e6_c112",),
    ("ir_r4_k5_s2_e6_c192",),
    ("ir_e6_c320",),
)
_EDGE = (
    ("er_e4_c24_fc24_noskip",),
    ("er_r2_s2_e8_c32",),
    ("er_r4_s2_e8_c48",),
    ("ir_r5_k5_s2_e8_c96",),
    ("ir_r4_k5_e8_c144",),
    ("ir_r2_k5_s2_e8_c192",),
)
_V2_BASE = (
    ("cn_c16_skip",),
    ("er_r2_s2_e4_c32",),
    ("er_r2_s2_e4_c48",),
    ("ir_r3_s2_e4_c96_se0.25",),
    ("ir_r5_e6_c112_se0.25",),
    ("ir_r8_s2_e6_c192_se0.25",),
)
_V2_S = (
    ("cn_r2_c24_skip",),
    ("er_r4_s2_e4_c48",),
    ("er_r4_s2_e4_c64",),
    ("ir_r6_s2_e4_c128_se0.25",),
    ("ir_r9_e6_c160_se0.25",),
    ("ir_r15_s2_e6_c256_se0.25",),
)
_V2_RW_S = (("er_r2_e1_c24",), *_V2_S[1:-1], ("ir_r15_s2_e6_c272_se0.25",))
_V2_M = (
    ("cn_r3_c24_skip",),
    ("er_r5_s2_e4_c48",),
    ("er_r5_s2_e4_c80",),
    ("ir_r7_s2_e4_c160_se0.25",),
    ("ir_r14_e6_c176_se0.25",),
    ("ir_r18_s2_e6_c304_se0.25",),
    ("ir_r5_e6_c512_se0.25",),
)
_V2_L = (
    ("cn_r4_c32_skip",),
    ("er_r7_s2_e4_c64",),
    ("er_r7_s2_e4_c96",),
    ("ir_r10_s2_e4_c192_se0.25",),
    ("ir_r19_e6_c224_se0.25",),
    ("ir_r25_s2_e6_c384_se0.25",),
    ("ir_r7_e6_c640_se0.25",),
)
_V2_XL = (
    ("cn_r4_c32_skip",),
    ("er_r8_s2_e4_c64",),
    ("er_r8_s2_e4_c96",),
    ("ir_r16_s2_e4_c192_se0.25",),
    ("ir_r24_e6_c256_se0.25",),
    ("ir_r32_s2_e6_c512_se0.25",),
    ("ir_r8_e6_c640_se0.25",),
)
_X = (
    ("ds_c16_se0.25_d1",),
    ("er_r2_s2_e6_c24_se0.25_nre",),
    ("er_r2_k5_s2_e6_c40_se0.25_nre",),
    *_B[3:],
)
_H = (
    ("ds_c16_se0.25_d1",),
    ("er_r2_s2_e4_c24_se0.25_nre",),
    ("er_r2_k5_s2_e4_c40_se0.25_nre",),
    ("ir_r3_s2_e4_c80_se0.25",),
    *_B[4:],
)
_MNASNET_A = (
    ("ds_c16_noskip",),
    ("ir_r2_s2_e6_c24",),
    ("ir_r3_k5_s2_e3_c40_se0.25",),
    ("ir_r4_s2_e6_c80",),
    ("ir_r2_e6_c112_se0.25",),
    ("ir_r3_k5_s2_e6_c160_se0.25",),
    ("ir_e6_c320",),
)
_MNASNET_B = (
    ("ds_c16_noskip",),
    ("ir_r3_s2_e3_c24",),
    ("ir_r3_k5_s2_e3_c40",),
    ("ir_r3_k5_s2_e6_c80",),
    ("ir_r2_e6_c96",),
    ("ir_r4_k5_s2_e6_c192",),
    ("ir_e6_c320_noskip",),
)
_MNASNET_SMALL = (
    ("ds_c8",),
    ("ir_s2_e3_c16",),
    ("ir_r2_s2_e6_c16",),
    ("ir_r4_k5_s2_e6_c32_se0.25",),
    ("ir_r3_e6_c32_se0.25",),
    ("ir_r3_k5_s2_e6_c88_se0.25",),
    ("ir_e6_c144",),
)
_MOBILENET_V1 = (
    ("dsa_c64",),
    ("dsa_r2_s2_c128",),
    ("dsa_r2_s2_c256",),
    ("dsa_r6_s2_c512",),
    ("dsa_r2_s2_c1024",),
)
_MOBILENET_V2 = (
    ("ds_c16",),
    ("ir_r2_s2_e6_c24",),
    ("ir_r3_s2_e6_c32",),
    ("ir_r4_s2_e6_c64",),
    ("ir_r3_e6_c96",),
    ("ir_r3_s2_e6_c160",),
    ("ir_e6_c320",),
)
_FBNET_C = (
    ("ir_e1_c16",),
    ("ir_s2_e6_c24", "ir_r2_e1_c24"),
    ("ir_k5_s2_e6_c32", "ir_k5_e3_c32", "ir_k5_e6_c32", "ir_e6_c32"),
    ("ir_k5_s2_e6_c64", "ir_k5_e3_c64", "ir_r2_k5_e6_c64"),
    ("ir_r3_k5_e6_c112", "ir_k5_e3_c112"),
    ("ir_r4_k5_s2_e6_c184",),
    ("ir_e6_c352",),
)
_SPNASNET = (
    ("ds_c16_noskip",),
    ("ir_r3_s2_e3_c24",),
    ("ir_k5_s2_e6_c40", "ir_r3_e3_c40"),
    ("ir_k5_s2_e6_c80", "ir_r3_e3_c80"),
    ("ir_k5_e6_c96", "ir_r3_k5_e3_c96"),
    ("ir_r4_k5_s2_e6_c192",),
    ("ir_e6_c320_noskip",),
)
_MIXNET_S = (
    ("ds_c16",),
    ("ir_a1.1_p1.1_s2_e6_c24", "ir_a1.1_p1.1_e3_c24"),
    ("ir_k3.5.7_s2_e6_c40_se0.5_nsw", "ir_r3_k3.5_a1.1_p1.1_e6_c40_se0.5_nsw"),
    ("ir_k3.5.7_p1.1_s2_e6_c80_se0.25_nsw", "ir_r2_k3.5_p1.1_e6_c80_se0.25_nsw"),
    ("ir_k3.5.7_a1.1_p1.1_e6_c120_se0.5_nsw", "ir_r2_k3.5.7.9_a1.1_p1.1_e3_c120_se0.5_nsw"),
    ("ir_k3.5.7.9.11_s2_e6_c200_se0.5_nsw", "ir_r2_k3.5.7.9_p1.1_e6_c200_se0.5_nsw"),
)
_MIXNET_M = (
    ("ds_c24",),
    ("ir_k3.5.7_a1.1_p1.1_s2_e6_c32", "ir_a1.1_p1.1_e3_c32"),
    ("ir_k3.5.7.9_s2_e6_c40_se0.5_nsw", "ir_r3_k3.5_a1.1_p1.1_e6_c40_se0.5_nsw"),
    ("ir_k3.5.7_s2_e6_c80_se0.25_nsw", "ir_r3_k3.5.7.9_a1.1_p1.1_e6_c80_se0.25_nsw"),
    ("ir_e6_c120_se0.5_nsw", "ir_r3_k3.5.7.9_a1.1_p1.1_e3_c120_se0.5_nsw"),
    ("ir_k3.5.7.9_s2_e6_c200_se0.5_nsw", "ir_r3_k3.5.7.9_p1.1_e6_c200_se0.5_nsw"),
)
_EDGETPU = (
    ("cn_k1_c16",),
    ("er_s2_e8_c32", "er_r3_e4_c32"),
    ("er_s2_e8_c48", "er_r3_e4_c48"),
    ("ir_s2_e8_c96", "ir_r3_e4_c96"),
    ("ir_e8_c96_noskip", "ir_r3_e4_c96"),
    ("ir_k5_s2_e8_c160", "ir_r3_k5_e4_c160"),
    ("ir_e8_c192",),
)
_B1_PRUNED = (
    ("ds_c16_q8", "ds_c16_q4"),
    ("ir_k3_s2_m48_c12_q4", "ir_k3_m62_c12_q6", "ir_k3_m48_c12_q6"),
    ("ir_k5_s2_m70_c35_q6", "ir_k5_m61_c35_q10", "ir_k5_m51_c35_q10"),
    ("ir_k3_s2_m175_c74_q10", "ir_k3_m188_c74_q20", "ir_k3_m137_c74_q20", "ir_k3_m164_c74_q20"),
    ("ir_k5_m399_c67_q20", "ir_k5_m201_c67_q28", "ir_k5_m160_c67_q28", "ir_k5_m213_c67_q28"),
    (
        "ir_k5_s2_m637_c192_q27",
        "ir_k5_m806_c192_q48",
        "ir_k5_m798_c192_q48",
        "ir_k5_m891_c192_q48",
        "ir_k5_m990_c192_q48",
    ),
    ("ir_k3_m1152_c320_q48", "ir_k3_m1912_c320_q80"),
)
_B2_PRUNED = (
    ("ds_c16_q8", "ds_c16_q4"),
    ("ir_k3_s2_m54_c17_q4", "ir_k3_m69_c17_q6", "ir_k3_m61_c17_q6"),
    ("ir_k5_s2_m86_c42_q6", "ir_k5_m72_c42_q12", "ir_k5_m98_c42_q12"),
    ("ir_k3_s2_m245_c85_q12", "ir_k3_m274_c85_q22", "ir_k3_m254_c85_q22", "ir_k3_m292_c85_q22"),
    ("ir_k5_m502_c116_q22", "ir_k5_m315_c116_q30", "ir_k5_m354_c116_q30", "ir_k5_m443_c116_q30"),
    (
        "ir_k5_s2_m719_c208_q30",
        "ir_k5_m1148_c208_q52",
        "ir_k5_m1160_c208_q52",
        "ir_k5_m1182_c208_q52",
        "ir_k5_m1228_c208_q52",
    ),
    ("ir_k3_m1248_c352_q52", "ir_k3_m2112_c352_q88"),
)
_B3_PRUNED = (
    ("ds_c24_q10", "ds_c24_q6"),
    ("ir_k3_s2_m27_c12_q6", "ir_k3_m49_c12_q8", "ir_k3_m48_c12_q8"),
    ("ir_k5_s2_m83_c40_q8", "ir_k5_m90_c40_q12", "ir_k5_m85_c40_q12"),
    (
        "ir_k3_s2_m215_c93_q12",
        "ir_k3_m261_c93_q24",
        "ir_k3_m219_c93_q24",
        "ir_k3_m254_c93_q24",
        "ir_k3_m236_c93_q24",
    ),
    (
        "ir_k5_m480_c120_q24",
        "ir_k5_m235_c120_q34",
        "ir_k5_m217_c120_q34",
        "ir_k5_m226_c120_q33",
        "ir_k5_m340_c120_q34",
    ),
    (
        "ir_k5_s2_m802_c232_q34",
        "ir_k5_m1030_c232_q58",
        "ir_k5_m924_c232_q58",
        "ir_k5_m1016_c232_q58",
        "ir_k5_m1130_c232_q58",
        "ir_k5_m1266_c232_q58",
    ),
    ("ir_k3_m1392_c384_q58", "ir_k3_m2301_c384_q96"),
)
_TEST = (
    ("cn_c16_skip",),
    ("er_s2_e4_c24",),
    ("er_s2_e4_c32",),
    ("ir_s2_e4_c48_se0.25",),
    ("ir_s2_e4_c64_se0.25",),
)


def _condconv(experts: int) -> tuple[tuple[str, ...], ...]:
    """The lines of B0, the last three stages with so many kernels for each convolution."""
    return (*_B[:4], *((f"{line}_cc{experts}",) for (line,) in _B[4:]))


def _edgetpu_v2(widths: tuple[int, ...], group_size: int) -> tuple[tuple[str, ...], ...]:
    """The lines of a MobileNet-EdgeTPU V2, whose fused blocks have groups in turns."""
    a, b, c, d, e, f, g = widths
    grouped = f"er_e4_gs{group_size}_c"
    return (
        (f"cn_k1_c{a}",),
        (f"er_s2_e8_c{b}", f"{grouped}{b}"),
        (f"er_s2_e8_c{c}", f"{grouped}{c}", f"er_e4_c{c}", f"{grouped}{c}"),
        (f"er_s2_e8_c{d}", f"ir_r3_e4_c{d}"),
        (f"ir_e8_c{e}", f"ir_r3_e4_c{e}"),
        (f"ir_s2_e8_c{f}", f"ir_r3_e4_c{f}"),
        (f"ir_e8_c{g}",),
    )


def _scaled(
    title: str,
    blocks: tuple[tuple[str, ...], ...],
    width: float = 1.0,
    depth: float | tuple[float, ...] = 1.0,
    *,
    stem: int = 32,
    head: int = 1280,
    by: int = 8,
    limit: float = 0.9,
    group_size: int | None = None,
    **fields: Any,
) -> Row:
    """A row of a network that is scaled as a whole, as EfficientNets are."""
    wider = functools.partial(round_width, factor=width, by=by, limit=limit)
    fields = {"activation": "silu", "stem_width": wider(stem), "head_width": wider(head), **fields}
    options: dict[str, Any] = {"by": by, "limit": limit, "group_size": group_size}
    return row(title, blocks=scale_stages(blocks, width, depth, **options), **fields)


def _lite(title: str, width: float, depth: float, **fields: Any) -> Row:
    """A row of EfficientNet-Lite, whose ends keep their size."""
    blocks = scale_stages(_LITE, width, depth, keep_ends=True)
    return row(title, blocks=blocks, activation="relu6", **fields)


def _mnasnet(title: str, blocks: tuple[tuple[str, ...], ...], width: float) -> Row:
    """A row of MNASNet: the last convolution keeps its width."""
    return row(title, blocks=scale_stages(blocks, width), stem_width=round_width(32, width))


def _mobilenet_v1(title: str, width: float, head: int | None = None) -> Row:
    """A row of MobileNet, most without a last convolution."""
    blocks, stem = scale_stages(_MOBILENET_V1, width), round_width(32, width)
    return row(title, blocks=blocks, stem_width=stem, head_width=head, activation="relu6")


def _mobilenet_v2(title: str, width: float, depth: float = 1.0, *, keep_ends: bool = False) -> Row:
    """A row of MobileNet V2, whose last convolution is not narrowed."""
    return row(
        title,
        blocks=scale_stages(_MOBILENET_V2, width, depth, keep_ends=keep_ends),
        stem_width=32 if keep_ends else round_width(32, width),
        head_width=1280 if keep_ends else max(1280, round_width(1280, width)),
        activation="relu6",
    )


def _mixnet(
    title: str,
    blocks: tuple[tuple[str, ...], ...],
    width: float = 1.0,
    depth: float = 1.0,
    *,
    stem: int = 24,
    **fields: Any,
) -> Row:
    """A row of MixNet."""
    return row(
        title,
        blocks=scale_stages(blocks, width, depth, nearest=True),
        stem_width=round_width(stem, width),
        head_width=1536,
        **fields,
    )


def _tinynet(title: str, width: float, depth: float) -> Row:
    """A row of TinyNet: B0 made smaller, but for its ends."""
    blocks = scale_stages(_B, width, depth, nearest=True)
    head = max(1280, round_width(1280, width))
    return row(title, blocks=blocks, head_width=head, activation="silu")


_add = functools.partial(variants, EfficientNet, paper="https://arxiv.org/abs/1905.11946")
_add(
    {
        "mnasnet_050": _mnasnet("MNASNet-B1 of width 0.5", _MNASNET_B, 0.5),
        "mnasnet_075": _mnasnet("MNASNet-B1 of width 0.75", _MNASNET_B, 0.75),
        "mnasnet_100": _mnasnet("MNASNet-B1 of width 1", _MNASNET_B, 1.0),
        "mnasnet_140": _mnasnet("MNASNet-B1 of width 1.4", _MNASNET_B, 1.4),
        "semnasnet_050": _mnasnet("MNASNet-A1, with gates, of width 0.5", _MNASNET_A, 0.5),
        "semnasnet_075": _mnasnet("MNASNet-A1, with gates, of width 0.75", _MNASNET_A, 0.75),
        "semnasnet_100": _mnasnet("MNASNet-A1, with gates, of width 1", _MNASNET_A, 1.0),
        "semnasnet_140": _mnasnet("MNASNet-A1, with gates, of width 1.4", _MNASNET_A, 1.4),
        "mnasnet_small": row("MNASNet-Small", blocks=_MNASNET_SMALL, stem_width=8),
        "mobilenetv1_100": _mobilenet_v1("MobileNet", 1.0),
        "mobilenetv1_100h": _mobilenet_v1("MobileNet with a last convolution", 1.0, head=1024),
        "mobilenetv1_125": _mobilenet_v1("MobileNet of width 1.25", 1.25),
        "mobilenetv2_035": _mobilenet_v2("MobileNet V2 of width 0.35", 0.35),
        "mobilenetv2_050": _mobilenet_v2("MobileNet V2 of width 0.5", 0.5),
        "mobilenetv2_075": _mobilenet_v2("MobileNet V2 of width 0.75", 0.75),
        "mobilenetv2_100": _mobilenet_v2("MobileNet V2 of width 1", 1.0),
        "mobilenetv2_140": _mobilenet_v2("MobileNet V2 of width 1.4", 1.4),
        "mobilenetv2_110d": _mobilenet_v2(
            "MobileNet V2 of width 1.1, deeper", 1.1, 1.2, keep_ends=True
        ),
        "mobilenetv2_120d": _mobilenet_v2(
            "MobileNet V2 of width 1.2, deeper", 1.2, 1.4, keep_ends=True
        ),
        "spnasnet_100": row("Single-Path NAS for the Pixel 1", blocks=_SPNASNET),
        "efficientnet_b0": _scaled("EfficientNet-B0", _B, 1.0, 1.0),
        "efficientnet_b1": _scaled("EfficientNet-B1", _B, 1.0, 1.1),
        "efficientnet_b2": _scaled("EfficientNet-B2", _B, 1.1, 1.2),
        "efficientnet_b3": _scaled("EfficientNet-B3", _B, 1.2, 1.4),
        "efficientnet_b4": _scaled("EfficientNet-B4", _B, 1.4, 1.8),
        "efficientnet_b5": _scaled("EfficientNet-B5", _B, 1.6, 2.2),
        "efficientnet_b6": _scaled("EfficientNet-B6", _B, 1.8, 2.6),
        "efficientnet_b7": _scaled("EfficientNet-B7", _B, 2.0, 3.1),
        "efficientnet_b8": _scaled("EfficientNet-B8", _B, 2.2, 3.6),
        "efficientnet_l2": _scaled("EfficientNet-L2", _B, 4.3, 5.3),
        "efficientnet_b0_gn": _scaled("EfficientNet-B0 with GroupNorm", _B, norm=_GROUPS_OF_8),
        "efficientnet_b0_g8_gn": _scaled(
            "EfficientNet-B0 with groups of 8 and GroupNorm", _B, group_size=8, norm=_GROUPS_OF_8
        ),
        "efficientnet_b0_g16_evos": _scaled(
            "EfficientNet-B0 with groups of 16", _B, group_size=16, by=16
        ),
        "efficientnet_b3_gn": _scaled(
            "EfficientNet-B3 with GroupNorm", _B, 1.2, 1.4, by=16, norm=_GROUPS_OF_16
        ),
        "efficientnet_b3_g8_gn": _scaled(
            "EfficientNet-B3 with groups of 8 and GroupNorm",
            _B,
            1.2,
            1.4,
            by=16,
            group_size=8,
            norm=_GROUPS_OF_16,
        ),
        "efficientnet_blur_b0": _scaled(
            "EfficientNet-B0 that blurs before it drops pixels", _B, anti_aliasing="blur_zeros"
        ),
        "efficientnet_es": _scaled("EfficientNet-EdgeTPU S", _EDGE, 1.0, 1.0, activation="relu"),
        "efficientnet_em": _scaled("EfficientNet-EdgeTPU M", _EDGE, 1.0, 1.1, activation="relu"),
        "efficientnet_el": _scaled("EfficientNet-EdgeTPU L", _EDGE, 1.2, 1.4, activation="relu"),
        "efficientnet_es_pruned": _scaled(
            "EfficientNet-EdgeTPU S, many weights zero", _EDGE, 1.0, 1.0, activation="relu"
        ),
        "efficientnet_el_pruned": _scaled(
            "EfficientNet-EdgeTPU L, many weights zero", _EDGE, 1.2, 1.4, activation="relu"
        ),
        "efficientnet_cc_b0_4e": _scaled(
            "EfficientNet-B0 with 4 kernels for each convolution", _condconv(4), 1.0, 1.0
        ),
        "efficientnet_cc_b0_8e": _scaled(
            "EfficientNet-B0 with 8 kernels for each convolution", _condconv(8), 1.0, 1.0
        ),
        "efficientnet_cc_b1_8e": _scaled(
            "EfficientNet-B1 with 8 kernels for each convolution", _condconv(8), 1.0, 1.1
        ),
        "efficientnet_lite0": _lite("EfficientNet-Lite0", 1.0, 1.0),
        "efficientnet_lite1": _lite("EfficientNet-Lite1", 1.0, 1.1),
        "efficientnet_lite2": _lite("EfficientNet-Lite2", 1.1, 1.2),
        "efficientnet_lite3": _lite("EfficientNet-Lite3", 1.2, 1.4),
        "efficientnet_lite4": _lite("EfficientNet-Lite4", 1.4, 1.8),
        "efficientnet_b1_pruned": row(
            "EfficientNet-B1 with channels pruned away",
            blocks=_B1_PRUNED,
            stem_width=32,
            head_width=1280,
            activation="silu",
            **TF,
        ),
        "efficientnet_b2_pruned": row(
            "EfficientNet-B2 with channels pruned away",
            blocks=_B2_PRUNED,
            stem_width=32,
            head_width=1408,
            activation="silu",
            **TF,
        ),
        "efficientnet_b3_pruned": row(
            "EfficientNet-B3 with channels pruned away",
            blocks=_B3_PRUNED,
            stem_width=40,
            head_width=1536,
            activation="silu",
            **TF,
        ),
        "efficientnetv2_rw_t": _scaled("EfficientNet V2 of timm's, tiny", _V2_S, 0.8, 0.9, stem=24),
        "gc_efficientnetv2_rw_t": _scaled(
            "EfficientNet V2 of timm's, tiny, with global context",
            _V2_S,
            0.8,
            0.9,
            stem=24,
            gate="gc",
        ),
        "efficientnetv2_rw_s": _scaled(
            "EfficientNet V2 of timm's, small", _V2_RW_S, stem=24, head=1792
        ),
        "efficientnetv2_rw_m": _scaled(
            "EfficientNet V2 of timm's, medium",
            _V2_RW_S,
            1.2,
            (1.2, 1.2, 1.2, 1.2, 1.6, 1.6),
            stem=24,
            head=1792,
        ),
        "efficientnetv2_s": _scaled("EfficientNet V2-S", _V2_S, stem=24),
        "efficientnetv2_m": _scaled("EfficientNet V2-M", _V2_M, stem=24),
        "tf_efficientnet_b0": _scaled("EfficientNet-B0 as TensorFlow pads", _B, 1.0, 1.0, **TF),
        "tf_efficientnet_b1": _scaled("EfficientNet-B1 as TensorFlow pads", _B, 1.0, 1.1, **TF),
        "tf_efficientnet_b2": _scaled("EfficientNet-B2 as TensorFlow pads", _B, 1.1, 1.2, **TF),
        "tf_efficientnet_b3": _scaled("EfficientNet-B3 as TensorFlow pads", _B, 1.2, 1.4, **TF),
        "tf_efficientnet_b4": _scaled("EfficientNet-B4 as TensorFlow pads", _B, 1.4, 1.8, **TF),
        "tf_efficientnet_b5": _scaled("EfficientNet-B5 as TensorFlow pads", _B, 1.6, 2.2, **TF),
        "tf_efficientnet_b6": _scaled("EfficientNet-B6 as TensorFlow pads", _B, 1.8, 2.6, **TF),
        "tf_efficientnet_b7": _scaled("EfficientNet-B7 as TensorFlow pads", _B, 2.0, 3.1, **TF),
        "tf_efficientnet_b8": _scaled("EfficientNet-B8 as TensorFlow pads", _B, 2.2, 3.6, **TF),
        "tf_efficientnet_l2": _scaled("EfficientNet-L2 as TensorFlow pads", _B, 4.3, 5.3, **TF),
        "tf_efficientnet_es": _scaled(
            "EfficientNet-EdgeTPU S as TensorFlow pads", _EDGE, 1.0, 1.0, activation="relu", **TF
        ),
        "tf_efficientnet_em": _scaled(
            "EfficientNet-EdgeTPU M as TensorFlow pads", _EDGE, 1.0, 1.1, activation="relu", **TF
        ),
        "tf_efficientnet_el": _scaled(
            "EfficientNet-EdgeTPU L as TensorFlow pads", _EDGE, 1.2, 1.4, activation="relu", **TF
        ),
        "tf_efficientnet_cc_b0_4e": _scaled(
            "EfficientNet-B0 with 4 kernels as TensorFlow pads", _condconv(4), 1.0, 1.0, **TF
        ),
        "tf_efficientnet_cc_b0_8e": _scaled(
            "EfficientNet-B0 with 8 kernels as TensorFlow pads", _condconv(8), 1.0, 1.0, **TF
        ),
        "tf_efficientnet_cc_b1_8e": _scaled(
            "EfficientNet-B1 with 8 kernels as TensorFlow pads", _condconv(8), 1.0, 1.1, **TF
        ),
        "tf_efficientnet_lite0": _lite("EfficientNet-Lite0 as TensorFlow pads", 1.0, 1.0, **TF),
        "tf_efficientnet_lite1": _lite("EfficientNet-Lite1 as TensorFlow pads", 1.0, 1.1, **TF),
        "tf_efficientnet_lite2": _lite("EfficientNet-Lite2 as TensorFlow pads", 1.1, 1.2, **TF),
        "tf_efficientnet_lite3": _lite("EfficientNet-Lite3 as TensorFlow pads", 1.2, 1.4, **TF),
        "tf_efficientnet_lite4": _lite("EfficientNet-Lite4 as TensorFlow pads", 1.4, 1.8, **TF),
        "tf_efficientnetv2_s": _scaled(
            "EfficientNet V2-S as TensorFlow pads", _V2_S, stem=24, **TF
        ),
        "tf_efficientnetv2_m": _scaled(
            "EfficientNet V2-M as TensorFlow pads", _V2_M, stem=24, **TF
        ),
        "tf_efficientnetv2_b0": _scaled(
            "EfficientNet V2-B0 as TensorFlow pads", _V2_BASE, 1.0, 1.0, limit=0.0, **TF
        ),
        "tf_efficientnetv2_b1": _scaled(
            "EfficientNet V2-B1 as TensorFlow pads", _V2_BASE, 1.0, 1.1, limit=0.0, **TF
        ),
        "tf_efficientnetv2_b2": _scaled(
            "EfficientNet V2-B2 as TensorFlow pads", _V2_BASE, 1.1, 1.2, limit=0.0, **TF
        ),
        "tf_efficientnetv2_b3": _scaled(
            "EfficientNet V2-B3 as TensorFlow pads", _V2_BASE, 1.2, 1.4, limit=0.0, **TF
        ),
        "efficientnet_x_b3": _scaled("EfficientNet-X B3", _X, 1.2, 1.4),
        "efficientnet_x_b5": _scaled("EfficientNet-X B5", _X, 1.6, 2.2),
        "efficientnet_h_b5": _scaled("EfficientNet-H B5", _H, 1.92, 2.2),
        "mixnet_s": _mixnet("MixNet-S", _MIXNET_S, stem=16),
        "mixnet_m": _mixnet("MixNet-M", _MIXNET_M, 1.0, 1.0),
        "mixnet_l": _mixnet("MixNet-L", _MIXNET_M, 1.3, 1.0),
        "mixnet_xl": _mixnet("MixNet-XL", _MIXNET_M, 1.6, 1.2),
        "mixnet_xxl": _mixnet("MixNet-XXL", _MIXNET_M, 2.4, 1.3),
        "tf_mixnet_s": _mixnet("MixNet-S as TensorFlow pads", _MIXNET_S, stem=16, **TF),
        "tf_mixnet_m": _mixnet("MixNet-M as TensorFlow pads", _MIXNET_M, 1.0, **TF),
        "tf_mixnet_l": _mixnet("MixNet-L as TensorFlow pads", _MIXNET_M, 1.3, **TF),
        "tinynet_a": _tinynet("TinyNet-A", 1.0, 1.2),
        "tinynet_b": _tinynet("TinyNet-B", 0.75, 1.1),
        "tinynet_c": _tinynet("TinyNet-C", 0.54, 0.85),
        "tinynet_d": _tinynet("TinyNet-D", 0.54, 0.695),
        "tinynet_e": _tinynet("TinyNet-E", 0.51, 0.6),
        "mobilenet_edgetpu_100": row("MobileNet-EdgeTPU", blocks=_EDGETPU),
        "mobilenet_edgetpu_v2_xs": row(
            "MobileNet-EdgeTPU V2-XS",
            blocks=_edgetpu_v2((16, 32, 48, 96, 144, 160, 192), 64),
            stem_width=32,
            stem_kernel_size=3,
            head_width=1280,
        ),
        "mobilenet_edgetpu_v2_s": row(
            "MobileNet-EdgeTPU V2-S",
            blocks=_edgetpu_v2((24, 48, 64, 128, 160, 192, 256), 64),
            stem_width=64,
            stem_kernel_size=5,
            head_width=1280,
        ),
        "mobilenet_edgetpu_v2_m": row(
            "MobileNet-EdgeTPU V2-M",
            blocks=_edgetpu_v2((32, 64, 80, 160, 192, 240, 320), 64),
            stem_width=64,
            stem_kernel_size=5,
            head_width=1344,
        ),
        "mobilenet_edgetpu_v2_l": row(
            "MobileNet-EdgeTPU V2-L",
            blocks=_edgetpu_v2((32, 64, 96, 192, 240, 256, 384), 128),
            stem_width=64,
            stem_kernel_size=7,
            head_width=1408,
        ),
        "test_efficientnet": _scaled(
            "A tiny network for tests", _TEST, stem=24, head=256, limit=0.0
        ),
        "test_efficientnet_gn": _scaled(
            "A tiny network for tests, with GroupNorm",
            _TEST,
            stem=24,
            head=256,
            limit=0.0,
            norm=_GROUPS_OF_8,
        ),
        "test_efficientnet_ln": _scaled(
            "A tiny network for tests, with LayerNorm",
            _TEST,
            stem=24,
            head=256,
            limit=0.0,
            norm="layer",
            norm_epsilon=1e-5,
        ),
        "test_efficientnet_evos": _scaled(
            "A tiny network for tests, with EvoNorm",
            _TEST,
            stem=24,
            head=256,
            limit=0.0,
            norm="evo_s0",
        ),
    },
    reference=REFERENCE,
)
# In eighty blocks in a row random numbers of the usual size turn rounding into other answers.
_add(
    {
        "efficientnetv2_l": _scaled("EfficientNet V2-L", _V2_L, stem=32),
        "efficientnetv2_xl": _scaled("EfficientNet V2-XL", _V2_XL, stem=32),
        "tf_efficientnetv2_l": _scaled(
            "EfficientNet V2-L as TensorFlow pads", _V2_L, stem=32, **TF
        ),
        "tf_efficientnetv2_xl": _scaled(
            "EfficientNet V2-XL as TensorFlow pads", _V2_XL, stem=32, **TF
        ),
    },
    reference=dataclasses.replace(REFERENCE, gain=1.0),
)
# timm gives this network the epsilon of its weights only where it loads them.
_add(
    {
        "fbnetc_100": row(
            "FBNet-C", blocks=_FBNET_C, stem_width=16, head_width=1984, norm_epsilon=1e-3
        ),
    },
    reference=dataclasses.replace(REFERENCE, options=(("bn_eps", 1e-3),)),
)
