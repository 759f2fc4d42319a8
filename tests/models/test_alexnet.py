"""AlexNet: what its wide layers see, where units are dropped, and what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.alexnet import AlexNet

pytestmark = pytest.mark.family("alexnet")

TINY = {"widths": (4, 8, 8, 8, 8), "hidden": 16}


def output(backbone, height, width, **options):
    x = jax.ShapeDtypeStruct((1, height, width, 3), "float32")
    return jax.eval_shape(backbone.init_with_output, jax.random.key(0), x, **options)[0]


def test_maps_of_any_size_become_vectors():
    backbone = AlexNet(**TINY)
    for size in ((63, 63), (224, 224), (100, 300)):
        assert output(backbone, *size).shape == (1, 16)
    with pytest.raises(ShapeError, match="images must be at least 63 x 63"):
        output(backbone, 62, 80)


def test_units_are_dropped_before_the_wide_layers_alone():
    model = fz.models.get("alexnet", dropout=0.5, num_classes=3, **TINY)
    assert model.module.backbone.dropout == 0.5
    assert model.module.head.dropout == 0
    assert fz.models.get("alexnet", num_classes=3).module.backbone.dropout == 0


def test_features_are_those_before_the_classifier():
    model = fz.models.get("alexnet", num_classes=3, **TINY).init(rng=0)
    x = np.random.default_rng(0).random((2, 63, 64, 3), np.float32)
    fc = model.variables["params"]["head"]["fc"]
    bare = fz.models.get("alexnet", num_classes=0, **TINY)
    params = {"backbone": model.variables["params"]["backbone"]}
    features = bare.with_variables({"params": params})(x)
    assert features.shape == (2, 16)
    np.testing.assert_allclose(features @ fc["kernel"] + fc["bias"], model(x), atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (4, 8)}, "widths must be 5 numbers"),
        ({"hidden": 0}, "hidden must be"),
        ({"dropout": 1.0}, "dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        AlexNet(**fields)
