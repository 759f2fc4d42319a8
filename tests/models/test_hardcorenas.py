"""HardCoRe-NAS: the lines of each name, and that they are MobileNet V3s."""

import pytest

import flaxzoo as fz
from flaxzoo.models.mobile_backbone import read_line
from flaxzoo.models.mobilenetv3 import MobileNetV3
from flaxzoo.models.registry import MODELS

pytestmark = pytest.mark.family("hardcorenas")


@pytest.mark.parametrize(
    ("name", "blocks", "gates"),
    # Of the stages between the first and the last.
    [("a", (2, 2, 2, 2, 2), 8), ("c", (2, 4, 4, 4, 3), 6), ("f", (2, 2, 4, 4, 4), 16)],
)
def test_blocks_and_gates(name, blocks, gates):
    backbone = fz.models.get(f"hardcorenas_{name}").module.backbone
    assert isinstance(backbone, MobileNetV3)
    lines = [[read_line(line) for line in stage] for stage in backbone.blocks]
    assert [sum(line.repeats for line in stage) for stage in lines[1:-1]] == list(blocks)
    assert sum(line.repeats for stage in lines for line in stage if line.squeeze_ratio) == gates


def test_the_family_is_its_own():
    known = MODELS.architecture("hardcorenas_a")
    assert known.family == "flaxzoo.models.hardcorenas"
    assert known.paper == "https://arxiv.org/abs/2102.11646"
