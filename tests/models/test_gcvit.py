"""GCViT: windows and their queries, and what does not fit."""

import jax
import numpy as np
import pytest

from flaxzoo.models.gcvit import GlobalContextVit, WindowAttention, query_levels, query_size

pytestmark = pytest.mark.family("gcvit")

TINY = {
    "layers": (1, 2),
    "width": 8,
    "heads": (1, 2),
    "window_ratios": (8, 8),
    "input_shape": (16, 24, 3),
}


def test_windows_of_the_usual_image_and_of_another():
    network = GlobalContextVit()
    assert network.windows() == ((7, 7), (7, 7), (14, 14), (7, 7))
    levels = [query_levels(*pair) for pair in zip(network.grids(), network.windows(), strict=True)]
    assert levels == [3, 2, 0, 0]
    assert query_size((9, 17), 2) == (3, 5)
    wide = network.clone(input_shape=(256, 320, 3))
    assert wide.windows() == ((8, 10), (8, 10), (16, 20), (8, 10))


def test_windows_ask_by_their_images_queries():
    """The first two windows are of one image, the others of another."""
    random = np.random.default_rng(0)
    module = WindowAttention(heads=2, window=(1, 3))
    x, queries = (random.random((count, 3, 8), np.float32) for count in (4, 2))
    variables = module.init(jax.random.key(0), x, False, queries)
    assert variables["params"]["qkv"]["kernel"].shape == (8, 16)
    other = queries.copy()
    other[1] += 1
    change = module.apply(variables, x, False, other) - module.apply(variables, x, False, queries)
    assert np.abs(change[:2]).max() == 0
    assert np.abs(change[2:]).min(axis=(1, 2)).max() > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_shape": (16, 20, 3)}, "input_shape must be .* of multiples of 8, got"),
        ({"window_ratios": (8, 16)}, "windows of 1 x 1 do not fit a map of 2 x 3"),
        ({"window_size": 4}, "windows of 4 x 4 do not fit a map of 4 x 6"),
        ({"window_size": (2, 3, 4)}, "one of these for each of 2 stages"),
        ({"window_ratios": (8, 32)}, "windows of 0 x 0 do not fit a map of 2 x 3"),
        ({"heads": (1, 3)}, r"widths must be multiples of heads=\(1, 3\)"),
        ({"layers": (1,)}, "must be of one length"),
        ({"implementation": "flash"}, "implementation must be one of"),
        ({"block_dropout": 1.0}, "block_dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        GlobalContextVit(**{**TINY, **fields})
