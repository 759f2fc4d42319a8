"""FasterNet's partial convolutions, its head, and fields that do not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.fasternet import FasterNet, PartialConv

pytestmark = pytest.mark.family("fasternet")

TINY = {"layers": (1, 1), "width": 8, "head_width": 12}


def test_the_first_channels_alone_are_convolved(random_variables):
    x = np.random.default_rng(0).standard_normal((1, 4, 5, 7)).astype(np.float32)
    module = PartialConv(3)
    variables = random_variables(module, x)
    kernel = variables["params"]["partial_conv3"]["kernel"]
    assert kernel.shape == (3, 3, 2, 2)
    padded = np.pad(x[..., :2], ((0, 0), (1, 1), (1, 1), (0, 0)))
    near = sum(padded[:, i : i + 4, j : j + 5] @ kernel[i, j] for i in range(3) for j in range(3))
    out = module.apply(variables, x)
    np.testing.assert_allclose(out[..., :2], near, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(out[..., 2:], x[..., 2:])


def test_the_head_has_a_hidden_layer():
    shapes = fz.models.get("fasternet_t0", num_classes=3, **TINY).shapes()["params"]["head"]
    assert shapes["dense_0"]["kernel"].shape == (16, 12)
    assert set(shapes["dense_0"]) == {"kernel"}
    images = jax.ShapeDtypeStruct((2, 34, 50, 3), "float32")
    maps, _ = jax.eval_shape(FasterNet(**TINY).init_with_output, jax.random.key(0), images)
    assert maps.shape == (2, 4, 6, 16)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": ()}, "layers must be"),
        ({"divisor": 9}, "divisor must be at most width=8, .* got 9"),
        ({"mlp_ratio": 0.0}, "mlp_ratio must be"),
        ({"patch_norm": None}, "patch_norm must be"),
        ({"head_width": 0}, "head_width must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        FasterNet(**{**TINY, **fields})
