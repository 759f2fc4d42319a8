"""Which values the backward pass of a block finds stored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ArgumentError, UnknownNameError
from flaxzoo.layers.remat import as_remat_policy

FIELDS = {"patch_size": 8, "width": 8, "depth": 1, "heads": 2, "input_shape": (16, 24, 3)}
IMAGES = np.random.default_rng(0).random((2, 16, 24, 3)).astype(np.float32)


def loss_of(remat):
    """The tiny transformer's, and parameters that all of them share."""
    model = fz.models.get("vit_tiny_patch16_224", num_classes=3, remat=remat, **FIELDS).init(rng=0)

    def loss(params):
        return jnp.square(model.module.apply({"params": params}, IMAGES, train=True)).sum()

    return loss, model.variables["params"]


@pytest.mark.parametrize("remat", [True, "dots_saveable", "nothing_saveable"])
def test_gradients_are_the_same(remat):
    expected = jax.grad(loss_of(False)[0])(loss_of(False)[1])
    loss, params = loss_of(remat)
    gradients = jax.grad(loss)(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-5, 1e-6), gradients, expected)


def recomputed(remat):
    """How many dense layers the whole step computes, forwards and again."""
    loss, params = loss_of(remat)
    return str(jax.make_jaxpr(jax.grad(loss))(params)).count("flaxzoo_conv[")


def test_products_are_kept_or_computed_again():
    plain = recomputed(False)
    # qkv, proj, fc1 and fc2; what the last one computes is asked for by no gradient.
    assert recomputed(True) == plain + 3
    assert recomputed("dots_saveable") == plain
    assert recomputed("nothing_saveable") == recomputed(True)


def test_what_remat_does_not_take():
    get = fz.models.get
    with pytest.raises(UnknownNameError, match="unknown remat policy 'dots_savable'.*Did you mean"):
        get("vit_tiny_patch16_224", remat="dots_savable")
    with pytest.raises(ArgumentError, match="remat must be True or False, got 3"):
        get("vit_tiny_patch16_224", remat=3)
    policy = jax.checkpoint_policies.save_only_these_names("x")
    assert as_remat_policy(policy) is policy
