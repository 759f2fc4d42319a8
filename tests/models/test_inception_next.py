"""InceptionNeXt's convolutions of parts of the channels, dilated stages, fields that do not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.inception_next import InceptionConv, InceptionNeXt

pytestmark = pytest.mark.family("inception_next")

TINY = {"layers": (1, 1, 1), "widths": (8, 12, 16), "mlp_ratios": (1, 1, 1)}


def test_each_part_sees_its_kernel(random_variables):
    x = np.random.default_rng(0).standard_normal((1, 4, 5, 9)).astype(np.float32)
    module = InceptionConv(band_size=3, branch_ratio=2 / 9)
    variables = random_variables(module, x)
    params = variables["params"]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    expected = [x[..., :3]]
    for name, start in (("dwconv_hw", 3), ("dwconv_w", 5), ("dwconv_h", 7)):
        kernel = params[name]["kernel"]
        rows, columns = kernel.shape[:2]
        # A band's first row or column lies in the middle.
        top, left = 1 - rows // 2, 1 - columns // 2
        part = padded[..., start : start + 2]
        expected.append(
            params[name]["bias"]
            + sum(
                part[:, top + i : top + i + 4, left + j : left + j + 5] * kernel[i, j, 0]
                for i in range(rows)
                for j in range(columns)
            )
        )
    out = module.apply(variables, x)
    np.testing.assert_allclose(out, np.concatenate(expected, -1), rtol=1e-4, atol=1e-5)
    # Parts of less than a channel are none.
    np.testing.assert_array_equal(InceptionConv(branch_ratio=0.1).apply({}, x), x)


def test_dilated_stages_keep_their_size():
    model = fz.models.get("inception_next_tiny", output_stride=8, **TINY)
    images = jax.ShapeDtypeStruct((1, 32, 48, 3), "float32")
    backbone = model.module.backbone.clone(feature_maps=True)
    maps, _ = jax.eval_shape(lambda x: backbone.init_with_output(jax.random.key(0), x), images)
    assert [leaf.shape[1:3] for leaf in maps.values()] == [(8, 12), (4, 6), (4, 6)]
    assert list(backbone.reductions().values()) == [4, 8, 8]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 1)}, "layers, widths and mlp_ratios must be of one length"),
        ({"mlp_ratios": (1, 1, 0)}, "mlp_ratios must be"),
        ({"band_size": 4}, "band_size must be odd, got 4"),
        ({"branch_ratio": 0.5}, "branch_ratio must be"),
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
        ({"drop_path": 1.0}, "drop_path must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        InceptionNeXt(**{**TINY, **fields})
