"""TResNet: pixels as channels, other channels, the authors' files, and what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.tresnet import TResNet, convert, pixels_as_channels

pytestmark = pytest.mark.family("tresnet")

TINY = {
    "layers": (1, 1),
    "widths": (4, 4),
    "kinds": ("basic", "bottleneck"),
    "gated": (True, False),
}


def test_blocks_of_pixels_are_channels():
    x = np.arange(8 * 4 * 3).reshape(1, 8, 4, 3)
    y = np.asarray(pixels_as_channels(x))
    assert y.shape == (1, 2, 1, 48)
    np.testing.assert_array_equal(y[0, 1, 0].reshape(4, 4, 3), x[0, 4:])
    with pytest.raises(ShapeError, match=r"multiples of 4, got \[1, 6, 4, 3\]"):
        pixels_as_channels(np.zeros((1, 6, 4, 3)))


def test_grey_images_see_the_sum_of_the_colours(tmp_path):
    options = {"num_classes": 2, "input_shape": (32, 32, 3), **TINY}
    model = fz.models.get("tresnet_m", **options).init(rng=0)
    model.save_pretrained(tmp_path)
    grey = fz.models.get("tresnet_m", pretrained=tmp_path, in_channels=1, num_classes=2, **TINY)
    images = np.random.default_rng(0).random((2, 32, 32, 1), np.float32)
    np.testing.assert_allclose(grey(images), model(np.repeat(images, 3, -1)), atol=1e-5)


def test_the_authors_files():
    names = {
        "body.conv1.0.weight": "body.conv1.conv.weight",
        "body.conv1.1.weight": "body.conv1.bn.weight",
        "body.layer1.0.conv1.0.0.weight": "body.layer1.0.conv1.conv.weight",
        "body.layer1.0.conv1.0.1.bias": "body.layer1.0.conv1.bn.bias",
        "body.layer3.0.downsample.1.0.weight": "body.layer3.0.downsample.1.conv.weight",
        "body.layer3.0.downsample.1.1.weight": "body.layer3.0.downsample.1.bn.weight",
        "head.fc.weight": "head.fc.weight",
    }
    tensors = {name: np.full(1, -1.0) for name in names}
    renamed = convert(tensors, None)
    assert list(renamed) == list(names.values())
    assert renamed["body.conv1.bn.weight"] == pytest.approx(1 + 1e-5)
    assert renamed["body.layer1.0.conv1.bn.bias"] == -1
    assert convert(renamed, None) is renamed


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kinds": ("basic", "bottlneck")}, "Did you mean 'bottleneck'"),
        ({"layers": (1,)}, "must be of one length"),
        ({"widths": (4, 0)}, "widths must"),
        ({"anti_aliasing": "blurr"}, "anti_aliasing must be"),
        ({"drop_path": 1.5}, "drop_path must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        TResNet(**{**TINY, **fields})


def test_maps_that_cannot_be_added():
    with pytest.raises(ShapeError, match="multiples of 32"):
        TResNet(**TINY, anti_aliasing="avg").init(
            jax.random.key(0), np.zeros((1, 12, 8, 3), np.float32)
        )
