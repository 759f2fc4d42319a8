import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models import MLP


def test_computes_dense_layers_with_activations_between():
    module = MLP(features=(4, 3), activation="tanh")
    x = jax.random.normal(jax.random.key(0), (5, 6))
    params = module.init(jax.random.key(1), x)["params"]
    first, second = params["dense_0"], params["dense_1"]
    hidden = np.tanh(x @ first["kernel"] + first["bias"])
    np.testing.assert_allclose(
        module.apply({"params": params}, x), hidden @ second["kernel"] + second["bias"], atol=1e-6
    )


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_any_leading_axes(batch):
    x = jnp.ones((*batch, 6))
    out, _ = MLP(features=(4, 3)).init_with_output(jax.random.key(0), x)
    assert out.shape == (*batch, 3)


def test_images_are_flattened():
    x = jax.random.normal(jax.random.key(0), (2, 5, 4, 3, 2))
    out, variables = MLP(features=(7,), input_ndim=3).init_with_output(jax.random.key(0), x)
    assert out.shape == (2, 5, 7)
    assert variables["params"]["dense_0"]["kernel"].shape == (24, 7)


def test_residual_adds_the_input_where_widths_agree():
    module = MLP(features=(6, 6, 2), residual=True, activation="relu")
    x = jax.random.normal(jax.random.key(0), (3, 6))
    params = jax.tree.map(jnp.zeros_like, module.init(jax.random.key(0), x)["params"])
    params["dense_2"]["kernel"] = jnp.eye(6)[:, :2]
    np.testing.assert_allclose(module.apply({"params": params}, x), x[:, :2], atol=1e-6)


@pytest.mark.parametrize("norm", ["batch", "layer", "rms", None])
def test_norms(norm):
    module = MLP(features=(5, 2), norm=norm)
    x = jax.random.normal(jax.random.key(0), (8, 3))
    variables = module.init(jax.random.key(1), x)
    assert ("norm_0" in variables["params"]) == (norm is not None)
    assert ("batch_stats" in variables) == (norm == "batch")
    # The output layer is neither normalised nor activated.
    assert "norm_1" not in variables["params"]
    assert module.apply(variables, x).shape == (8, 2)


def test_dropout_only_in_training():
    module = MLP(features=(64, 2), dropout=0.5)
    x = jnp.ones((2, 3))
    variables = module.init(jax.random.key(0), x)
    quiet = module.apply(variables, x)
    np.testing.assert_array_equal(quiet, module.apply(variables, x))
    noisy = module.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})
    assert not np.allclose(noisy, quiet)


def test_bad_arguments():
    with pytest.raises(ValueError, match="norm must be 'batch', 'layer', 'rms' or None"):
        MLP(features=(2, 2), norm="group").init(jax.random.key(0), jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="at least one layer"):
        MLP(features=()).init(jax.random.key(0), jnp.ones((1, 2)))
    with pytest.raises(ShapeError, match=r"at least input_ndim=3 axes .* got shape \[2\]"):
        MLP(input_ndim=3).init(jax.random.key(0), jnp.ones((2,)))


def test_registered_model_takes_any_input_shape():
    model = fz.models.get("mlp", input_shape=(8, 8, 1), features=[16, 8], num_classes=3).init()
    assert model(jnp.ones((2, 8, 8, 1))).shape == (2, 3)
    assert set(model.variables["params"]) == {"backbone", "head"}
