"""VOLO: outlook attention by its formula, neighbourhoods, and what does not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.volo import OutlookAttention, Volo, neighbourhoods, overlapping_sum

pytestmark = pytest.mark.family("volo")

TINY = {
    "input_shape": (16, 24, 3),
    "patch_size": 4,
    "stem_width": 4,
    "layers": (1, 1),
    "widths": (4, 8),
    "heads": (1, 2),
}


def test_the_sum_is_the_transpose_of_the_neighbourhoods():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 4, 3)).astype(np.float32)
    found = neighbourhoods(x)
    assert found.shape == (2, 3, 2, 9, 3)
    np.testing.assert_array_equal(found[:, 1, 1, 4], x[:, 2, 2])
    np.testing.assert_array_equal(found[:, 1, 1, 0], x[:, 1, 1])
    assert not found[:, 0, :, :3].any()
    y = rng.standard_normal(found.shape).astype(np.float32)
    (expected,) = jax.vjp(neighbourhoods, jnp.asarray(x))[1](jnp.asarray(y))
    np.testing.assert_allclose(overlapping_sum(y, (5, 4)), expected, rtol=1e-6, atol=1e-6)


def test_outlook_attention_by_its_formula(random_variables):
    x = np.random.default_rng(0).standard_normal((1, 4, 4, 4)).astype(np.float32)
    module = OutlookAttention(2)
    layers = random_variables(module, x)["params"]
    v = np.pad(x @ layers["v"]["kernel"], ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = np.zeros_like(v)
    for i, j in np.ndindex(2, 2):
        rows, columns = slice(2 * i, 2 * i + 3), slice(2 * j, 2 * j + 3)
        mean = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2))
        logits = mean @ layers["attn"]["kernel"] + layers["attn"]["bias"]
        logits = logits.reshape(2, 9, 9) / np.sqrt(2)
        weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        near = v[:, rows, columns].reshape(9, 2, 2)
        total[0, rows, columns] += np.einsum("hqk,khd->qhd", weights, near).reshape(3, 3, 4)
    expected = total[:, 1:-1, 1:-1] @ layers["proj"]["kernel"] + layers["proj"]["bias"]
    np.testing.assert_allclose(module.apply({"params": layers}, x), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ShapeError, match=r"C a multiple of heads=3, got \[1, 4, 4, 4\]"):
        OutlookAttention(3).init(jax.random.key(0), x)


def test_images_of_another_size_are_refused():
    model = fz.models.get("volo_d1_224", num_classes=3, **TINY)
    with pytest.raises(ShapeError, match=r"images must be of 16 x 24, got .*their input_shape="):
        model.init(rng=0)(np.zeros((1, 24, 16, 3), np.float32))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"heads": (1, 3)}, r"widths must be multiples of heads=\(1, 3\), got \(4, 8\)"),
        ({"widths": (4, 8, 8)}, r"widths must be that of the first stage and that of the others"),
        ({"layers": (2,)}, r"layers must be of at least 2 stages, got \(2,\)"),
        ({"class_depth": 0}, "class_depth must be"),
        ({"patch_size": 5}, "patch_size must be even, got 5"),
        ({"input_shape": (6, 24, 3)}, "at least 7 pixels along each side, got"),
        ({"attention_dropout": 1.5}, "attention_dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Volo(**{**TINY, **fields})
