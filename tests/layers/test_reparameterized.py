"""Branches as one convolution: the arithmetic, whole networks, and what can't be folded."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.gates import SqueezeExcite
from flaxzoo.layers.norm import BatchNorm
from flaxzoo.layers.reparameterized import Affine, FoldingConvNorm, MobileOneBlock, fold

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 6, 5, 4)).astype(np.float32)


def with_random_variables(module, x=X):
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)
    return jax.tree.map(lambda leaf: RNG.uniform(0.5, 1.5, leaf.shape).astype(np.float32), shapes)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_the_identity_returns_what_it_gets(groups):
    same = Affine.identity(4, groups).variables(np.float32)
    conv = Conv(4, 1, groups=groups, use_bias=True)
    np.testing.assert_array_equal(conv.apply({"params": same}, X), X)


def test_a_small_kernel_lies_in_the_middle_of_a_large_one():
    small, large = (Affine(RNG.standard_normal((size, size, 4, 3)), np.ones(3)) for size in (1, 5))
    whole = (small + large).variables(np.float32)
    parts = [
        Conv(3, size, use_bias=True).apply({"params": affine.variables(np.float32)}, X)
        for size, affine in ((1, small), (5, large))
    ]
    y = Conv(3, 5, use_bias=True).apply({"params": whole}, X)
    np.testing.assert_allclose(y, sum(parts), atol=1e-4)


@pytest.mark.parametrize(
    "fields",
    [
        {"kernel_size": 3, "branches": 3},
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": 1, "gate": SqueezeExcite},
        {"kernel_size": 5, "depthwise": True, "activation": None},
        {"norm": functools.partial(BatchNorm, epsilon=0.5)},
    ],
)
def test_a_block_computes_the_same(fields):
    block = MobileOneBlock(4, **fields)
    variables = with_random_variables(block)
    fused = block.clone(fused=True)
    folded = block.folded(variables)
    shapes = jax.eval_shape(fused.init, jax.random.key(0), X)
    assert jax.tree.map(np.shape, folded) == jax.tree.map(np.shape, shapes)
    expected = block.apply(variables, X)
    np.testing.assert_allclose(fused.apply(folded, X), expected, rtol=1e-5, atol=1e-5)


def test_drop_path_leaves_the_input():
    block = MobileOneBlock(4, activation=None, drop_path=1 - 1e-7)
    variables = with_random_variables(block)
    dropped, _ = block.apply(
        variables, X, True, rngs={"dropout": jax.random.key(0)}, mutable=["batch_stats"]
    )
    norm = {kind: tree["identity"] for kind, tree in variables.items()}
    expected, _ = BatchNorm().apply(norm, X, use_running_average=False, mutable=["batch_stats"])
    np.testing.assert_allclose(dropped, expected, atol=1e-6)


def test_modules_are_found_wherever_they_are():
    class Network(nn.Module):
        fused: bool = False

        @nn.compact
        def __call__(self, x, train=False):
            conv = Conv if self.fused else FoldingConvNorm
            options = {"use_bias": True} if self.fused else {}
            x = conv(4, 3, name="conv", **options)(x)
            block = nn.remat(MobileOneBlock, static_argnums=(2,))
            x = block(4, fused=self.fused, name="block")(x, train)
            return nn.Dense(2, name="fc")(x)

    module = Network()
    variables = with_random_variables(module)
    folded = fold(module, variables, jax.ShapeDtypeStruct(X.shape, X.dtype))
    assert folded.keys() == {"params"}
    assert folded["params"].keys() == {"conv", "block", "fc"}
    y = Network(fused=True).apply(folded, X)
    np.testing.assert_allclose(y, module.apply(variables, X), rtol=1e-5)


def test_other_norms_are_refused():
    block = MobileOneBlock(4, norm="group1")
    with pytest.raises(ArgumentError, match="only a BatchNorm can become .* not norm='group1'"):
        block.folded(with_random_variables(block))


def test_models_without_branches_are_refused():
    model = fz.models.get("cnn", num_classes=2, input_shape=(8, 8, 3)).init(rng=0)
    with pytest.raises(TypeError, match="has no branches that are one convolution in inference"):
        model.reparameterize()
    with pytest.raises(fz.errors.UninitializedError):
        fz.models.get("cnn", num_classes=2, input_shape=(8, 8, 3)).reparameterize()
