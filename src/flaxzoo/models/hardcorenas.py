"""HardCoRe-NAS: mobile networks of a search that keeps to a hard limit on latency.

They are MobileNet V3s: the search chooses kernels, expansions, gates and the number of blocks of
each stage. ``a`` is the fastest, ``f`` the slowest and the most accurate one. Names and numbers are
those of timm's ``hardcorenas`` module.

References:
  HardCoRe-NAS: https://arxiv.org/abs/2102.11646
"""

from __future__ import annotations

from flaxzoo.models.mobilenetv3 import REFERENCE, V3, MobileNetV3
from flaxzoo.models.registry import Row, row, variants

# timm makes no shallow networks of these names: all are compared whole.
CUT: dict[str, str] = {}

# The lines of each network, in the letters of flaxzoo.models.mobile_backbone.
_A = (
    ("ds_c16_nre",),
    (
        "ir_k5_s2_e3_c24_nre",
        "ir_k5_e3_c24_se0.25_nre",
    ),
    (
        "ir_k5_s2_e3_c40_nre",
        "ir_k5_e6_c40_se0.25_nre",
    ),
    (
        "ir_k5_s2_e6_c80_se0.25",
        "ir_k5_e6_c80_se0.25",
    ),
    ("ir_r2_k5_e6_c112_se0.25",),
    (
        "ir_k5_s2_e6_c192_se0.25",
        "ir_k5_e6_c192_se0.25",
    ),
    ("cn_k1_c960",),
)
_B = (
    ("ds_c16_nre",),
    (
        "ir_k5_s2_e3_c24_nre",
        "ir_k5_e3_c24_se0.25_nre",
        "ir_e3_c24_nre",
    ),
    (
        "ir_k5_s2_e3_c40_nre",
        "ir_r2_k5_e3_c40_nre",
    ),
    (
        "ir_k5_s2_e3_c80",
        "ir_k5_e3_c80",
        "ir_r2_e3_c80",
    ),
    (
        "ir_k5_e3_c112",
        "ir_r3_e3_c112",
    ),
    (
        "ir_k5_s2_e6_c192_se0.25",
        "ir_k5_e6_c192_se0.25",
        "ir_e3_c192_se0.25",
    ),
    ("cn_k1_c960",),
)
_C = (
    ("ds_c16_nre",),
    (
        "ir_k5_s2_e3_c24_nre",
        "ir_k5_e3_c24_se0.25_nre",
    ),
    (
        "ir_k5_s2_e3_c40_nre",
        "ir_r3_k5_e3_c40_nre",
    ),
    (
        "ir_k5_s2_e4_c80",
        "ir_k5_e6_c80_se0.25",
        "ir_r2_e3_c80",
    ),
    (
        "ir_k5_e6_c112_se0.25",
        "ir_r3_e3_c112",
    ),
    (
        "ir_k5_s2_e6_c192_se0.25",
        "ir_k5_e6_c192_se0.25",
        "ir_e3_c192_se0.25",
    ),
    ("cn_k1_c960",),
)
_D = (
    ("ds_c16_nre",),
    (
        "ir_k5_s2_e3_c24_se0.25_nre",
        "ir_k5_e3_c24_se0.25_nre",
    ),
    (
        "ir_k5_s2_e3_c40_se0.25_nre",
        "ir_k5_e4_c40_se0.25_nre",
        "ir_e3_c40_se0.25_nre",
    ),
    (
        "ir_k5_s2_e4_c80_se0.25",
        "ir_r3_e3_c80_se0.25",
    ),
    (
        "ir_e4_c112_se0.25",
        "ir_k5_e4_c112_se0.25",
        "ir_e3_c112_se0.25",
        "ir_k5_e3_c112_se0.25",
    ),
    (
        "ir_k5_s2_e6_c192_se0.25",
        "ir_r2_k5_e6_c192_se0.25",
        "ir_e6_c192_se0.25",
    ),
    ("cn_k1_c960",),
)
_E = (
    ("ds_c16_nre",),
    (
        "ir_k5_s2_e3_c24_se0.25_nre",
        "ir_k5_e3_c24_se0.25_nre",
    ),
    (
        "ir_k5_s2_e6_c40_se0.25_nre",
        "ir_r2_k5_e4_c40_se0.25_nre",
        "ir_e3_c40_se0.25_nre",
    ),
    (
        "ir_k5_s2_e4_c80_se0.25",
        "ir_e6_c80_se0.25",
    ),
    (
        "ir_r3_k5_e6_c112_se0.25",
        "ir_k5_e3_c112_se0.25",
    ),
    (
        "ir_k5_s2_e6_c192_se0.25",
        "ir_r2_k5_e6_c192_se0.25",
        "ir_e6_c192_se0.25",
    ),
    ("cn_k1_c960",),
)
_F = (
    ("ds_c16_nre",),
    (
        "ir_k5_s2_e3_c24_se0.25_nre",
        "ir_k5_e3_c24_se0.25_nre",
    ),
    (
        "ir_k5_s2_e6_c40_se0.25_nre",
        "ir_k5_e6_c40_se0.25_nre",
    ),
    (
        "ir_k5_s2_e6_c80_se0.25",
        "ir_k5_e6_c80_se0.25",
        "ir_r2_e3_c80_se0.25",
    ),
    (
        "ir_e6_c112_se0.25",
        "ir_r2_k5_e6_c112_se0.25",
        "ir_e3_c112_se0.25",
    ),
    (
        "ir_k5_s2_e6_c192_se0.25",
        "ir_k5_e6_c192_se0.25",
        "ir_r2_e6_c192_se0.25",
    ),
    ("cn_k1_c960",),
)


def _row(letter: str, blocks: tuple[tuple[str, ...], ...]) -> Row:
    """A row, whose gates are those of MobileNet V3."""
    return row(f"HardCoRe-NAS-{letter}", blocks=blocks, stem_width=32, **V3)


variants(
    MobileNetV3,
    {
        "hardcorenas_a": _row("A", _A),
        "hardcorenas_b": _row("B", _B),
        "hardcorenas_c": _row("C", _C),
        "hardcorenas_d": _row("D", _D),
        "hardcorenas_e": _row("E", _E),
        "hardcorenas_f": _row("F", _F),
    },
    paper="https://arxiv.org/abs/2102.11646",
    reference=REFERENCE,
)
