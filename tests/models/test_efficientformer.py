"""EfficientFormer: which blocks attend, its two classifiers, refusals."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.efficientformer import EfficientFormer

pytestmark = pytest.mark.family("efficientformer")

NAME = "efficientformer_l1"
TINY = {"layers": (1, 3), "widths": (8, 12), "input_shape": (16, 24, 3)}


def tiny(**fields):
    return fz.models.get(NAME, num_classes=3, **{**TINY, **fields})


@pytest.mark.parametrize(("attending", "blocks"), [(1, (0, 1, 3)), (2, (0, 2, 3)), (9, (1, 2, 3))])
def test_the_last_blocks_attend(attending, blocks):
    model = tiny(attending=attending)
    params = model.shapes()["params"]["backbone"]
    # timm counts what makes tokens of a map as a block.
    assert {name for name in params if name.startswith("stages_1_blocks")} == {
        f"stages_1_blocks_{i}" for i in blocks
    }
    attend = [i for i in blocks if "token_mixer" in params[f"stages_1_blocks_{i}"]]
    assert attend == list(blocks[-attending:])
    assert params["stages_1_blocks_3"]["token_mixer"]["attention_biases"].shape == (8, 2 * 3)


def test_maps_and_tokens():
    model = tiny()
    images = jax.ShapeDtypeStruct((2, 16, 24, 3), "float32")
    variables = {kind: tree["backbone"] for kind, tree in model.shapes().items() if tree}
    backbone = model.module.backbone
    assert jax.eval_shape(backbone.apply, variables, images).shape == (2, 6, 12)
    maps = jax.eval_shape(backbone.clone(feature_maps=True).apply, variables, images)
    assert [leaf.shape for leaf in maps.values()] == [(2, 4, 6, 8), (2, 2, 3, 12)]


def test_two_classifiers_read_the_mean():
    model = tiny(distilled_training=True)
    x = np.random.default_rng(0).random((2, 6, 12)).astype(np.float32)
    head = model.module.head
    variables = head.init(jax.random.key(0), x)
    both = head.apply(variables, x, train=True)
    np.testing.assert_allclose(head.apply(variables, x), (both[0] + both[1]) / 2, atol=1e-6)
    fc = variables["params"]["fc_dist"]
    np.testing.assert_allclose(both[1], x.mean(1) @ fc["kernel"] + fc["bias"], atol=1e-5)


def test_images_and_fields_that_do_not_fit():
    model = tiny()
    with pytest.raises(ShapeError, match=r"images must be of 16 x 24, got .*input_shape="):
        jax.eval_shape(
            model.module.apply, model.shapes(), jax.ShapeDtypeStruct((1, 24, 16, 3), "float32")
        )
    for fields, message in (
        ({"attending": 0}, "attending must be an int of at least 1"),
        ({"layers": (1, 1, 1)}, "must be of one length"),
        ({"input_shape": (224, 224)}, "input_shape must be .height, width, channels."),
        ({"norm": "layr"}, "norm must be one of"),
        ({"drop_path": 1.5}, "drop_path must be"),
        ({"implementation": "flash"}, "implementation must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            EfficientFormer(**fields)
