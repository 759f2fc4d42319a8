"""Selective kernels: what they weigh, what each sees, and what does not fit."""

import jax
import numpy as np
import pytest

from flaxzoo.models.sknet import Selection, SelectiveKernel, SKNet

pytestmark = pytest.mark.family("sknet")

TINY = {"layers": (1, 1), "widths": (4, 8), "stem_width": 8}


def test_weights_are_shares():
    maps = np.random.default_rng(0).standard_normal((2, 2, 3, 4, 6)).astype(np.float32)
    module = Selection(5)
    variables = module.init(jax.random.key(0), maps)
    weights = module.apply(variables, maps)
    assert weights.shape == (2, 2, 1, 1, 6)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-6)
    # It sees means alone: the same numbers elsewhere have the same weights.
    np.testing.assert_allclose(module.apply(variables, maps[:, :, ::-1]), weights, rtol=1e-6)
    assert module.apply(variables, maps.astype("bfloat16")).dtype == np.float32


@pytest.mark.parametrize("split_input", [True, False])
def test_each_path_sees_its_share(split_input):
    module = SelectiveKernel(6, split_input=split_input, ratio=0.5, rounding=1)
    x = jax.ShapeDtypeStruct((1, 5, 7, 8), "float32")
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    assert y.shape == (1, 5, 7, 6)
    paths = variables["params"]
    inputs = 4 if split_input else 8
    for name in ("paths_0", "paths_1"):
        assert paths[name]["conv"]["kernel"].shape == (3, 3, inputs, 6)
    assert paths["attn"]["fc_reduce"]["kernel"].shape == (1, 1, 6, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rounding": 0}, "rounding must be"),
        ({"ratio": 0.0}, "ratio must be"),
        ({"block": "basic", "groups": 2}, "a basic block takes groups=1 and base_width=64"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        SKNet(**{**TINY, **fields})
