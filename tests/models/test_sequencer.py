"""Sequencer: LSTMs by their formula, what a pixel sees, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.sequencer import BidirectionalLSTM, CrossLSTM, Sequencer

pytestmark = pytest.mark.family("sequencer")

TINY = {
    "layers": (1, 1),
    "widths": (8, 8),
    "units": (3, 3),
    "patch_sizes": (4, 2),
    "mlp_ratios": (2.0, 2.0),
}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def one_direction(x, params, suffix):
    """Hochreiter and Schmidhuber's equations, step by step."""
    weights = {name: np.asarray(params[f"{name}_{suffix}"]) for name in ("weight_ih", "weight_hh")}
    bias = np.asarray(params[f"bias_ih_{suffix}"] + params[f"bias_hh_{suffix}"])
    h = c = np.zeros((x.shape[1], 3))
    steps = []
    for step in x:
        i, f, g, o = np.split(step @ weights["weight_ih"] + h @ weights["weight_hh"] + bias, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        steps.append(h)
    return np.stack(steps)


@pytest.mark.parametrize("custom_gradient", [True, False])
def test_both_directions_by_their_formula(custom_gradient, random_variables):
    x = np.random.default_rng(0).standard_normal((4, 2, 5)).astype(np.float32)
    module = BidirectionalLSTM(3, custom_gradient=custom_gradient)
    params = random_variables(module, x)["params"]
    back = one_direction(x[::-1], params, "l0_reverse")[::-1]
    expected = np.concatenate([one_direction(x, params, "l0"), back], axis=-1)
    np.testing.assert_allclose(module.apply({"params": params}, x), expected, atol=1e-5)


def test_a_pixel_sees_its_row_and_its_column():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 3, 4, 4)), jnp.float32)
    module = CrossLSTM(2)
    variables = module.init(jax.random.key(0), x)
    gradient = jax.grad(lambda x: module.apply(variables, x)[0, 1, 2].sum())(x)
    seen = np.abs(gradient[0]).max(-1) > 0
    expected = np.zeros((3, 4), bool)
    expected[1], expected[:, 2] = True, True
    np.testing.assert_array_equal(seen, expected)


def test_images_smaller_than_patches_are_refused():
    model = fz.models.get("sequencer2d_s", num_classes=2, **TINY)
    with pytest.raises(ShapeError, match="maps before stage 1 must be of 2 x 2 .* got 1 x 3"):
        jax.eval_shape(model.module.init, jax.random.key(0), jnp.zeros((1, 4, 12, 3)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1,)}, "must be of one length"),
        ({"units": (3, 0)}, "units must be"),
        ({"mlp_ratios": (2.0,)}, "must be of one length"),
        ({"mlp_ratios": (2.0, 0.0)}, "mlp_ratios must be"),
        ({"patch_sizes": (4, 0)}, "patch_sizes must be"),
        ({"drop_path": 1.0}, "drop_path must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Sequencer(**{**TINY, **fields})
