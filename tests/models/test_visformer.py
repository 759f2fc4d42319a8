"""Visformer: which stages attend, sizes, and what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.visformer import Visformer

pytestmark = pytest.mark.family("visformer")

TINY = {
    "layers": (1, 1, 1),
    "widths": (8, 16, 32),
    "stem_width": 4,
    "heads": 2,
    "input_shape": (37, 64, 3),
}
IMAGES = np.zeros((2, 37, 64, 3), np.float32)


def test_maps_are_of_whole_patches():
    model = fz.models.get("visformer_tiny", num_classes=3, **TINY)
    backbone = model.module.backbone.clone(feature_maps=True)
    maps = jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x)[0], IMAGES)
    assert {key: leaf.shape for key, leaf in maps.items()} == {
        "stage1": (2, 4, 8, 8),
        "stage2": (2, 2, 4, 16),
        "stage3": (2, 1, 2, 32),
    }
    assert backbone.grids() == ((4, 8), (2, 4), (1, 2))


def test_every_stage_may_attend_and_convolve():
    fields = {**TINY, "attention": (True, False, True), "spatial": (False, True, True)}
    params = fz.models.get("visformer_tiny", **fields).shapes()["params"]["backbone"]
    kernels = {
        f"{stage}/{name}": layer["kernel"].shape
        for stage in ("stage1_0", "stage2_0", "stage3_0")
        for group in ("attn", "mlp")
        for name, layer in params[stage].get(group, {}).items()
    }
    assert kernels == {
        # Heads of the first stage are half as wide.
        "stage1_0/qkv": (1, 1, 8, 12),
        "stage1_0/proj": (1, 1, 4, 8),
        "stage1_0/conv1": (1, 1, 8, 32),
        "stage1_0/conv3": (1, 1, 32, 8),
        "stage2_0/conv1": (1, 1, 16, 32),
        "stage2_0/conv2": (3, 3, 4, 32),
        "stage2_0/conv3": (1, 1, 32, 16),
        "stage3_0/qkv": (1, 1, 32, 96),
        "stage3_0/proj": (1, 1, 32, 32),
        "stage3_0/conv1": (1, 1, 32, 64),
        "stage3_0/conv2": (3, 3, 8, 64),
        "stage3_0/conv3": (1, 1, 64, 32),
    }


def test_images_of_another_size_are_refused():
    model = fz.models.get("visformer_tiny", num_classes=3, **TINY).init(rng=0)
    with pytest.raises(ShapeError, match=r"images must be of 37 x 64, got .*their input_shape="):
        model(IMAGES[:, :, :32])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": 3}, r"widths must be multiples of heads=\(3, 3, 3\), got"),
        ({"attention": (True, True)}, "must be of one length"),
        ({"patch_sizes": (4, 2, 0)}, "patch_sizes must be"),
        ({"head_ratios": (0, 1, 1)}, "head_ratios must be a finite number above 0"),
        ({"input_shape": (30, 64, 3)}, "of at least 31 pixels along each side, got"),
        ({"groups": 0}, "groups must be"),
        ({"position_dropout": 1.5}, "position_dropout must be"),
        ({"implementation": "flash"}, "implementation must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Visformer(**{**TINY, **fields})
