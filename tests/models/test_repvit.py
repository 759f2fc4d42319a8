"""RepViT: gates, classifiers, and what does not fit."""

import pytest

import flaxzoo as fz
from flaxzoo.models.repvit import RepVit

pytestmark = pytest.mark.family("repvit")

TINY = {"layers": (3, 1), "widths": (4, 8)}


def test_every_second_block_has_a_gate():
    model = fz.models.get("repvit_m0_9", num_classes=2, input_shape=(16, 16, 3), **TINY)
    blocks = model.shapes()["params"]["backbone"]
    gated = [name for name, leaves in blocks.items() if "se" in leaves]
    assert gated == ["stages_0_blocks_0", "stages_0_blocks_2", "stages_1_blocks_0"]


@pytest.mark.parametrize("distilled", [True, False])
def test_classifiers(distilled):
    options = {"num_classes": 2, "input_shape": (16, 16, 3), "distilled": distilled}
    head = fz.models.get("repvit_m0_9", **options, **TINY).shapes()["params"]["head"]
    second = {"fc_dist", "fc_dist_norm"} if distilled else set()
    assert head.keys() == {"fc", "fc_norm"} | second


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (5, 8)}, "widths must begin with an even number, got 5"),
        ({"layers": (1,)}, "must be of one length"),
        ({"ratio": 0}, "ratio must be"),
        ({"kernel_size": 0}, "kernel_size must be"),
        ({"distilled": False, "distilled_training": True}, "takes distilled=True"),
        ({"drop_path": 1.5}, "drop_path must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        RepVit(**{**TINY, **fields})
