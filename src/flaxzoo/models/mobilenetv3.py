"""MobileNet V3 and V4, FBNet V3 and PP-LCNet: mobile networks whose last layer sees one pixel.

What widens the features stands behind the pooling, where it costs next to nothing. Names and
numbers are those of timm's ``mobilenetv3`` module.

``mobilenetv3`` has gates and hard activations, ``minimal`` neither; ``tf_`` pads as TensorFlow
does, for the weights that were trained there; the number is the width in percent.
``mobilenetv4_conv`` is of universal inverted residuals, ``hybrid`` has attention as well, ``aa``
averages and ``blur`` blurs before pixels are dropped. ``fbnetv3`` was found by search, ``lcnet`` is
MobileNet with gates at its end, for CPUs.

References:
  MobileNet V3: https://arxiv.org/abs/1905.02244
  MobileNet V4: https://arxiv.org/abs/2404.10518
  FBNet V3: https://arxiv.org/abs/2006.02049
  PP-LCNet: https://arxiv.org/abs/2109.15099
"""

from __future__ import annotations

import functools
from typing import Any

from flax import linen as nn

from flaxzoo._checks import check_size
from flaxzoo.layers.initializers import HeNormal
from flaxzoo.models.mobile_backbone import (
    RENAMED,
    TF,
    MobileBackbone,
    round_width,
    scale_stages,
)
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import Row, row, variants

REFERENCE = Reference(
    stem=("conv_stem",),
    classifier="classifier",
    head=(("dense_0", "conv_head"), ("norm_0", "norm_head")),
    renamed=(
        *RENAMED,
        (r"(query|key|value|output)_(proj|down_conv|norm)", r"\1.\2"),
    ),
    layouts=(("params/head/dense_0/kernel", "pointwise"),),
)
# timm makes no shallow networks of these names: all are compared whole.
CUT: dict[str, str] = {}


class MobileNetV3(MobileBackbone):
    """A MobileNet V3 or V4 without its classifier: a stem and stages of blocks.

    It maps images ``[B, H, W, C]`` to the last map ``[B, H / 32, W / 32, C]``. Its own head pools
    that map, widens it and then classifies.

    Attributes:
      head_width: the units of the layer behind the pooling.
      head_norm: whether a norm stands between that layer and its activation (V4).
      head_bias: whether that layer has a bias.
    """

    stem_width: int = 16
    activation: Any = "hard_swish"
    squeeze_hidden: bool = True
    head_width: int = 1280
    head_norm: bool = False
    head_bias: bool = True

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """A layer between the pooling and the classifier."""
        hidden = {
            "hidden": (self.head_width,),
            "hidden_bias": self.head_bias and not self.head_norm,
            "hidden_init": HeNormal(),
            "hidden_norm": self.norm if self.head_norm else None,
            "hidden_norm_epsilon": self.norm_epsilon,
            "hidden_norm_first": True,
            "activation": self.activation,
        }
        return {**super().head_options(), **hidden}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        check_size("head_width", self.head_width)


# V3's gates, of V3, PP-LCNet and HardCoRe-NAS.
_HARD: dict[str, Any] = {"gate_activation": "hard_sigmoid", "squeeze_activation": "relu"}
V3: dict[str, Any] = {**_HARD, "squeeze_rounding": (8, 0.9)}

# The lines of each network, in the letters of flaxzoo.models.mobile_backbone.
_SMALL_MINIMAL = (
    ("ds_s2_c16",),
    (
        "ir_s2_e4.5_c24",
        "ir_e3.67_c24",
    ),
    (
        "ir_s2_e4_c40",
        "ir_r2_e6_c40",
    ),
    ("ir_r2_e3_c48",),
    ("ir_r3_s2_e6_c96",),
    ("cn_k1_c576",),
)
_SMALL = (
    ("ds_s2_c16_se0.25_nre",),
    (
        "ir_s2_e4.5_c24_nre",
        "ir_e3.67_c24_nre",
    ),
    (
        "ir_k5_s2_e4_c40_se0.25",
        "ir_r2_k5_e6_c40_se0.25",
    ),
    ("ir_r2_k5_e3_c48_se0.25",),
    ("ir_r3_k5_s2_e6_c96_se0.25",),
    ("cn_k1_c576",),
)
_LARGE_MINIMAL = (
    ("ds_c16",),
    (
        "ir_s2_e4_c24",
        "ir_e3_c24",
    ),
    ("ir_r3_s2_e3_c40",),
    (
        "ir_s2_e6_c80",
        "ir_e2.5_c80",
        "ir_r2_e2.3_c80",
    ),
    ("ir_r2_e6_c112",),
    ("ir_r3_s2_e6_c160",),
    ("cn_k1_c960",),
)
_LARGE = (
    ("ds_c16_nre",),
    (
        "ir_s2_e4_c24_nre",
        "ir_e3_c24_nre",
    ),
    ("ir_r3_k5_s2_e3_c40_se0.25_nre",),
    (
        "ir_s2_e6_c80",
        "ir_e2.5_c80",
        "ir_r2_e2.3_c80",
    ),
    ("ir_r2_e6_c112_se0.25",),
    ("ir_r3_k5_s2_e6_c160_se0.25",),
    ("cn_k1_c960",),
)
_LARGE_RW = (
    ("ds_c16_nre_noskip",),
    (
        "ir_s2_e4_c24_nre",
        "ir_e3_c24_nre",
    ),
    ("ir_r3_k5_s2_e3_c40_se0.25_nre",),
    (
        "ir_s2_e6_c80",
        "ir_e2.5_c80",
        "ir_r2_e2.3_c80",
    ),
    ("ir_r2_e6_c112_se0.25",),
    ("ir_r3_k5_s2_e6_c160_se0.25",),
    ("cn_k1_c960",),
)
_FBNET_B = (
    ("ds_r2_c16",),
    (
        "ir_k5_s2_e4_c24",
        "ir_r3_k5_e2_c24",
    ),
    (
        "ir_k5_s2_e5_c40_se0.25",
        "ir_r4_k5_e3_c40_se0.25",
    ),
    (
        "ir_k5_s2_e5_c72",
        "ir_r4_e3_c72",
    ),
    (
        "ir_e5_c120_se0.25",
        "ir_r5_k5_e3_c120_se0.25",
    ),
    (
        "ir_s2_e6_c184_se0.25",
        "ir_r5_k5_e4_c184_se0.25",
        "ir_k5_e6_c224_se0.25",
    ),
    ("cn_k1_c1344",),
)
_FBNET_D = (
    ("ds_r2_c16",),
    (
        "ir_s2_e5_c24",
        "ir_r5_e2_c24",
    ),
    (
        "ir_k5_s2_e4_c40_se0.25",
        "ir_r4_e3_c40_se0.25",
    ),
    (
        "ir_s2_e5_c72",
        "ir_r4_e3_c72",
    ),
    (
        "ir_e5_c128_se0.25",
        "ir_r6_k5_e3_c128_se0.25",
    ),
    (
        "ir_s2_e6_c208_se0.25",
        "ir_r5_k5_e5_c208_se0.25",
        "ir_k5_e6_c240_se0.25",
    ),
    ("cn_k1_c1440",),
)
_FBNET_G = (
    ("ds_r3_c24",),
    (
        "ir_k5_s2_e4_c40",
        "ir_r4_k5_e2_c40",
    ),
    (
        "ir_k5_s2_e4_c56_se0.25",
        "ir_r4_k5_e3_c56_se0.25",
    ),
    (
        "ir_k5_s2_e5_c104",
        "ir_r4_e3_c104",
    ),
    (
        "ir_e5_c160_se0.25",
        "ir_r8_k5_e3_c160_se0.25",
    ),
    (
        "ir_s2_e6_c264_se0.25",
        "ir_r6_k5_e5_c264_se0.25",
        "ir_r2_k5_e6_c288_se0.25",
    ),
    ("cn_k1_c1728",),
)
_LCNET = (
    ("dsa_c32",),
    ("dsa_r2_s2_c64",),
    ("dsa_r2_s2_c128",),
    (
        "dsa_s2_c256",
        "dsa_k5_c256",
    ),
    ("dsa_r4_k5_c256",),
    ("dsa_r2_k5_s2_c512_se0.25",),
)
_HYBRID_MEDIUM = (
    ("er_s2_e4_c48",),
    (
        "uir_a3_k5_s2_e4_c80",
        "uir_a3_e2_c80",
    ),
    (
        "uir_a3_k5_s2_e6_c160",
        "uir_a0_k0_e2_c160",
        "uir_a3_e4_c160",
        "uir_a3_k5_e4_c160",
        "mqa_h4_v2_d64_c160",
        "uir_a3_e4_c160",
        "mqa_h4_v2_d64_c160",
        "uir_a3_k0_e4_c160",
        "mqa_h4_v2_d64_c160",
        "uir_a3_e4_c160",
        "mqa_h4_v2_d64_c160",
        "uir_a3_k0_e4_c160",
    ),
    (
        "uir_a5_k5_s2_e6_c256",
        "uir_a5_k5_e4_c256",
        "uir_r2_a3_k5_e4_c256",
        "uir_a0_k0_e2_c256",
        "uir_a3_k5_e2_c256",
        "uir_a0_k0_e2_c256",
        "uir_a0_k0_e4_c256",
        "mqa_h4_d64_c256",
        "uir_a3_k0_e4_c256",
        "mqa_h4_d64_c256",
        "uir_a5_k5_e4_c256",
        "mqa_h4_d64_c256",
        "uir_a5_k0_e4_c256",
        "mqa_h4_d64_c256",
        "uir_a5_k0_e4_c256",
    ),
    ("cn_k1_c960",),
)
_HYBRID_LARGE = (
    ("er_s2_e4_c48",),
    (
        "uir_a3_k5_s2_e4_c96",
        "uir_a3_e4_c96",
    ),
    (
        "uir_a3_k5_s2_e4_c192",
        "uir_r3_a3_e4_c192",
        "uir_a3_k5_e4_c192",
        "uir_r2_a5_e4_c192",
        "mqa_h8_v2_d48_c192",
        "uir_a5_e4_c192",
        "mqa_h8_v2_d48_c192",
        "uir_a5_e4_c192",
        "mqa_h8_v2_d48_c192",
        "uir_a5_e4_c192",
        "mqa_h8_v2_d48_c192",
        "uir_a3_k0_e4_c192",
    ),
    (
        "uir_r4_a5_k5_s2_e4_c512",
        "uir_a5_k0_e4_c512",
        "uir_a5_e4_c512",
        "uir_r2_a5_k0_e4_c512",
        "uir_a5_e4_c512",
        "uir_a5_k5_e4_c512",
        "mqa_h8_d64_c512",
        "uir_a5_k0_e4_c512",
        "mqa_h8_d64_c512",
        "uir_a5_k0_e4_c512",
        "mqa_h8_d64_c512",
        "uir_a5_k0_e4_c512",
        "mqa_h8_d64_c512",
        "uir_a5_k0_e4_c512",
    ),
    ("cn_k1_c960",),
)
_CONV_SMALL = (
    (
        "cn_s2_c32",
        "cn_k1_c32",
    ),
    (
        "cn_s2_c96",
        "cn_k1_c64",
    ),
    (
        "uir_a5_k5_s2_e3_c96",
        "uir_r4_a0_e2_c96",
        "uir_a3_k0_e4_c96",
    ),
    (
        "uir_a3_s2_e6_c128",
        "uir_a5_k5_e4_c128",
        "uir_a0_k5_e4_c128",
        "uir_a0_k5_e3_c128",
        "uir_r2_a0_e4_c128",
    ),
    ("cn_k1_c960",),
)
_CONV_MEDIUM = (
    ("er_s2_e4_c48",),
    (
        "uir_a3_k5_s2_e4_c80",
        "uir_a3_e2_c80",
    ),
    (
        "uir_a3_k5_s2_e6_c160",
        "uir_r2_a3_e4_c160",
        "uir_a3_k5_e4_c160",
        "uir_a3_e4_c160",
        "uir_a3_k0_e4_c160",
        "uir_a0_k0_e2_c160",
        "uir_a3_k0_e4_c160",
    ),
    (
        "uir_a5_k5_s2_e6_c256",
        "uir_a5_k5_e4_c256",
        "uir_r2_a3_k5_e4_c256",
        "uir_a0_k0_e4_c256",
        "uir_a3_k0_e4_c256",
        "uir_a3_k5_e2_c256",
        "uir_a5_k5_e4_c256",
        "uir_r2_a0_k0_e4_c256",
        "uir_a5_k0_e2_c256",
    ),
    ("cn_k1_c960",),
)
_CONV_LARGE = (
    ("er_s2_e4_c48",),
    (
        "uir_a3_k5_s2_e4_c96",
        "uir_a3_e4_c96",
    ),
    (
        "uir_a3_k5_s2_e4_c192",
        "uir_r3_a3_e4_c192",
        "uir_a3_k5_e4_c192",
        "uir_r5_a5_e4_c192",
        "uir_a3_k0_e4_c192",
    ),
    (
        "uir_r4_a5_k5_s2_e4_c512",
        "uir_a5_k0_e4_c512",
        "uir_a5_e4_c512",
        "uir_r2_a5_k0_e4_c512",
        "uir_a5_e4_c512",
        "uir_a5_k5_e4_c512",
        "uir_r3_a5_k0_e4_c512",
    ),
    ("cn_k1_c960",),
)


def _v3(
    title: str,
    blocks: tuple[tuple[str, ...], ...],
    width: float = 1.0,
    depth: float = 1.0,
    head: int = 1280,
    **fields: Any,
) -> Row:
    """A row of MobileNet V3."""
    return row(
        title,
        blocks=scale_stages(blocks, width, depth),
        stem_width=16 if width < 0.75 else round_width(16, width),
        head_width=head,
        **{**V3, **fields},
    )


def _fbnet(title: str, blocks: tuple[tuple[str, ...], ...], stem: int) -> Row:
    """A row of FBNet V3, whose gates' widths are parts of their blocks' inputs."""
    return row(
        title,
        blocks=scale_stages(blocks, limit=0.95),
        stem_width=stem,
        head_width=1984,
        head_bias=False,
        gate_activation="hard_sigmoid",
        squeeze_hidden=False,
        squeeze_rounding=(8, 0.95),
    )


def _lcnet(width: float) -> Row:
    """A row of PP-LCNet."""
    blocks, stem = scale_stages(_LCNET, width), round_width(16, width)
    return row(f"PP-LCNet of width {width:g}", blocks=blocks, stem_width=stem, **_HARD)


def _v4(
    title: str,
    blocks: tuple[tuple[str, ...], ...],
    width: float = 1.0,
    *,
    stem: int = 32,
    **fields: Any,
) -> Row:
    """A row of MobileNet V4, whose stem is not narrowed."""
    fields = {"activation": "relu", "head_norm": True, "stem_width": stem, **fields}
    return row(title, blocks=scale_stages(blocks, width), **fields)


_add = functools.partial(variants, MobileNetV3, reference=REFERENCE)
_add(
    {
        "mobilenetv3_large_075": _v3("MobileNet V3-Large of width 0.75", _LARGE, 0.75),
        "mobilenetv3_large_100": _v3("MobileNet V3-Large of width 1", _LARGE, 1.0),
        "mobilenetv3_large_150d": _v3("MobileNet V3-Large of width 1.5, deeper", _LARGE, 1.5, 1.2),
        "mobilenetv3_small_050": _v3("MobileNet V3-Small of width 0.5", _SMALL, 0.5, head=1024),
        "mobilenetv3_small_075": _v3("MobileNet V3-Small of width 0.75", _SMALL, 0.75, head=1024),
        "mobilenetv3_small_100": _v3("MobileNet V3-Small of width 1", _SMALL, 1.0, head=1024),
        "mobilenetv3_rw": row(
            "MobileNet V3-Large, an early one of timm's",
            blocks=_LARGE_RW,
            head_bias=False,
            gate_activation="hard_sigmoid",
            norm_epsilon=1e-3,
        ),
        "tf_mobilenetv3_large_075": _v3(
            "MobileNet V3-Large of width 0.75 as TensorFlow pads", _LARGE, 0.75, **TF
        ),
        "tf_mobilenetv3_large_100": _v3(
            "MobileNet V3-Large of width 1 as TensorFlow pads", _LARGE, 1.0, **TF
        ),
        "tf_mobilenetv3_large_minimal_100": _v3(
            "MobileNet V3-Large without gates as TensorFlow pads",
            _LARGE_MINIMAL,
            activation="relu",
            **TF,
        ),
        "tf_mobilenetv3_small_075": _v3(
            "MobileNet V3-Small of width 0.75 as TensorFlow pads", _SMALL, 0.75, head=1024, **TF
        ),
        "tf_mobilenetv3_small_100": _v3(
            "MobileNet V3-Small of width 1 as TensorFlow pads", _SMALL, 1.0, head=1024, **TF
        ),
        "tf_mobilenetv3_small_minimal_100": _v3(
            "MobileNet V3-Small without gates as TensorFlow pads",
            _SMALL_MINIMAL,
            head=1024,
            activation="relu",
            **TF,
        ),
        "fbnetv3_b": _fbnet("FBNet V3-B", _FBNET_B, 16),
        "fbnetv3_d": _fbnet("FBNet V3-D", _FBNET_D, 24),
        "fbnetv3_g": _fbnet("FBNet V3-G", _FBNET_G, 32),
        "lcnet_035": _lcnet(0.35),
        "lcnet_050": _lcnet(0.5),
        "lcnet_075": _lcnet(0.75),
        "lcnet_100": _lcnet(1.0),
        "lcnet_150": _lcnet(1.5),
    },
    paper="https://arxiv.org/abs/1905.02244",
)
_add(
    {
        "mobilenetv4_conv_small_035": _v4("MobileNet V4-Conv-S of width 0.35", _CONV_SMALL, 0.35),
        "mobilenetv4_conv_small_050": _v4("MobileNet V4-Conv-S of width 0.5", _CONV_SMALL, 0.5),
        "mobilenetv4_conv_small": _v4("MobileNet V4-Conv-S of width 1", _CONV_SMALL, 1.0),
        "mobilenetv4_conv_medium": _v4("MobileNet V4-Conv-M", _CONV_MEDIUM),
        "mobilenetv4_conv_large": _v4("MobileNet V4-Conv-L", _CONV_LARGE, stem=24),
        "mobilenetv4_hybrid_medium": _v4("MobileNet V4-Hybrid-M", _HYBRID_MEDIUM, layer_scale=1e-5),
        "mobilenetv4_hybrid_large": _v4(
            "MobileNet V4-Hybrid-L", _HYBRID_LARGE, stem=24, activation="gelu", layer_scale=1e-5
        ),
        "mobilenetv4_conv_aa_medium": _v4(
            "MobileNet V4-Conv-M that averages before it drops pixels",
            _CONV_MEDIUM,
            anti_aliasing="avg",
        ),
        "mobilenetv4_conv_blur_medium": _v4(
            "MobileNet V4-Conv-M that blurs before it drops pixels",
            _CONV_MEDIUM,
            anti_aliasing="blur_zeros",
        ),
        "mobilenetv4_conv_aa_large": _v4(
            "MobileNet V4-Conv-L that averages before it drops pixels",
            _CONV_LARGE,
            stem=24,
            anti_aliasing="avg",
        ),
        "mobilenetv4_hybrid_medium_075": _v4(
            "MobileNet V4-Hybrid-M of width 0.75", _HYBRID_MEDIUM, 0.75, layer_scale=1e-5
        ),
        "mobilenetv4_hybrid_large_075": _v4(
            "MobileNet V4-Hybrid-L of width 0.75",
            _HYBRID_LARGE,
            0.75,
            stem=24,
            activation="gelu",
            layer_scale=1e-5,
        ),
    },
    paper="https://arxiv.org/abs/2404.10518",
)
