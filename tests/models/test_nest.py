"""NesT: blocks and their tokens, paddings between levels, and what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.nest import ConvPool, Nest, join_blocks, split_blocks

pytestmark = pytest.mark.family("nest")

TINY = {"patch_size": 2, "layers": (1, 1), "widths": (8, 12), "heads": (1, 2)}
SHAPE = (8, 12, 3)
IMAGES = np.random.default_rng(0).random((2, *SHAPE)).astype(np.float32)


def test_blocks_are_joined_as_they_were_split():
    maps = np.arange(2 * 4 * 6).reshape(2, 4, 6, 1)
    blocks = split_blocks(maps, (2, 2))
    assert blocks.shape == (2, 4, 6, 1)
    np.testing.assert_array_equal(blocks[0, 1, :, 0], [3, 4, 5, 9, 10, 11])
    np.testing.assert_array_equal(join_blocks(blocks, (2, 2), (2, 3)), maps)


def test_maps_and_weights_of_attention():
    model = fz.models.get("nest_tiny", num_classes=3, input_shape=SHAPE, **TINY).init(rng=0)
    shapes = [leaf.shape for leaf in model.feature_maps(IMAGES).values()]
    assert shapes == [(2, 4, 6, 8), (2, 2, 3, 12)]
    weights = model.attention_weights(IMAGES)
    assert [leaf.shape for leaf in weights.values()] == [(8, 1, 6, 6), (2, 2, 6, 6)]


def test_the_maximum_looks_before_or_after():
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 2)).astype(np.float32)
    module = ConvPool(2)
    variables = module.init(jax.random.key(0), x)
    kernel = np.zeros((3, 3, 2, 2), np.float32)
    kernel[1, 1] = np.eye(2)
    variables["params"]["conv"]["kernel"] = kernel
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    before, after = (ConvPool(2, pad_after=flag).apply(variables, x) for flag in (False, True))
    np.testing.assert_allclose(before[0, 0, 0], normal[0, :2, :2].max((0, 1)), atol=1e-5)
    np.testing.assert_allclose(after[0, 1, 1], normal[0, 2:, 2:].max((0, 1)), atol=1e-5)


def test_images_of_another_size_are_refused():
    model = fz.models.get("nest_tiny", num_classes=3, input_shape=SHAPE, **TINY)
    with pytest.raises(ShapeError, match=r"images must be of 8 x 12, got .*their input_shape="):
        model.init(rng=0)(np.zeros((1, 12, 8, 3), np.float32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_shape": (8, 10, 3)}, "both sides multiples of 4: patches of 2 x 2 in 2 blocks"),
        ({"input_shape": (8, 0, 3)}, "both sides multiples of 4"),
        ({"heads": (1, 5)}, r"widths must be multiples of heads=\(1, 5\)"),
        ({"layers": (1,)}, "must be of one length"),
        ({"attention_dropout": 1.5}, "attention_dropout must be"),
        ({"implementation": "flash"}, "implementation must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Nest(**{"input_shape": SHAPE, **TINY, **fields})
