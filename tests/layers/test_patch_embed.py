import flax.linen as nn
import jax
import numpy as np
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.layers.patch_embed import (
    OverlapPatchEmbed,
    PatchDropout,
    PatchEmbed,
    resample_kernel,
)
from flaxzoo.layers.pos_embed import resize_weights

X = np.random.default_rng(0).standard_normal((2, 8, 9, 3)).astype(np.float32)


def test_each_patch_by_itself(random_variables):
    module = PatchEmbed(5, (4, 3))
    variables = random_variables(module, X)
    proj = variables["params"]["proj"]
    out = module.apply(variables, X)
    assert out.shape == (2, 2, 3, 5)
    patch = X[:, 4:8, 3:6].reshape(2, -1)
    expected = patch @ proj["kernel"].reshape(-1, 5) + proj["bias"]
    np.testing.assert_allclose(out[:, 1, 1], expected, rtol=1e-4, atol=1e-5)


def test_images_are_filled_up(random_variables):
    module = PatchEmbed(5, 5, pad=True, norm="layer")
    variables = random_variables(module, X)
    padded = np.pad(X, ((0, 0), (0, 2), (0, 1), (0, 0)))
    np.testing.assert_array_equal(module.apply(variables, X), module.apply(variables, padded))
    message = "must be multiples of those of patches, 5 and 5, got .2, 8, 9, 3.; pad=True fills"
    with pytest.raises(ShapeError, match=message):
        PatchEmbed(5, 5).init(jax.random.key(0), X)
    with pytest.raises(ShapeError, match="images must have shape .B, H, W, C., got .8, 9, 3."):
        PatchEmbed(5, 1).init(jax.random.key(0), X[0])


def test_windows_overlap(random_variables):
    module = OverlapPatchEmbed(5, norm="layer", norm_epsilon=1e-5)
    variables = random_variables(module, X)
    out = module.apply(variables, X)
    assert out.shape == (2, 4, 5, 5)
    proj, norm = (variables["params"][name] for name in ("proj", "norm"))
    # The window of row 1 and column 2 begins before both.
    patch = X[:, 1:4, 3:6].reshape(2, -1)
    y = patch @ proj["kernel"].reshape(-1, 5) + proj["bias"]
    y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(out[:, 1, 2], y * norm["scale"] + norm["bias"], rtol=1e-3, atol=1e-4)
    assert set(OverlapPatchEmbed(5, 7, 4).init(jax.random.key(0), X)["params"]) == {"proj"}


@pytest.mark.parametrize("ordered", [False, True])
def test_patches_are_dropped(ordered):
    tokens = np.broadcast_to(np.arange(11.0)[None, :, None], (30, 11, 2))
    module = PatchDropout(0.35, prefix_tokens=1, ordered=ordered)
    out = module.apply({}, tokens, deterministic=False, rngs={"dropout": jax.random.key(0)})
    # int(10 * 0.65) and the class token.
    assert out.shape == (30, 7, 2)
    numbers = np.asarray(out[..., 0])
    assert (numbers[:, 0] == 0).all()
    assert all(len(set(row)) == 7 for row in numbers)
    assert len({tuple(row) for row in numbers}) > 20
    assert (np.diff(numbers) > 0).all() == ordered
    counts = np.bincount(numbers[:, 1:].astype(int).ravel(), minlength=11)[1:]
    assert counts.min() > 8
    assert module.apply({}, tokens, deterministic=True) is tokens
    assert isinstance(module, nn.Dropout)


def test_at_least_one_patch_stays():
    tokens = np.ones((2, 3, 1), np.float32)
    module = PatchDropout(0.9, prefix_tokens=0)
    out = module.apply({}, tokens, deterministic=False, rngs={"dropout": jax.random.key(0)})
    assert out.shape == (2, 1, 1)


@pytest.mark.parametrize("method", ["bicubic", "bilinear"])
def test_an_enlarged_patch_gives_the_token_that_it_gave(method):
    rng = np.random.default_rng(0)
    patch, kernel = rng.standard_normal((4, 3, 3)), rng.standard_normal((4, 3, 3, 5))
    kernel = kernel.astype(np.float32)
    down, right = resize_weights(method)(4, 9), resize_weights(method)(3, 6)
    large = np.einsum("yh,xw,hwi->yxi", down, right, patch)
    resampled = resample_kernel(kernel, (9, 6), method=method)
    assert resampled.shape == (9, 6, 3, 5)
    assert resampled.dtype == np.float32
    token = np.einsum("yxi,yxio->o", large, resampled)
    np.testing.assert_allclose(token, np.einsum("hwi,hwio->o", patch, kernel), atol=1e-4)
    assert resample_kernel(kernel, (4, 3), method=method) is kernel


def test_another_way_of_resampling():
    with pytest.raises(ValueError, match="method must be one of 'bicubic', 'bilinear', 'aligned'"):
        resample_kernel(np.zeros((2, 2, 3, 4)), (4, 4), method="nearest")
