import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models import MLP
from flaxzoo.models.mlp import mlp

pytestmark = pytest.mark.family("mlp")


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
    with pytest.raises(ValueError, match="norm must be one of 'batch', 'layer', 'rms' or None"):
        MLP(features=(2, 2), norm="group").init(jax.random.key(0), jnp.ones((1, 2)))
    with pytest.raises(ValueError, match="at least one layer"):
        MLP(features=()).init(jax.random.key(0), jnp.ones((1, 2)))
    for ndim, message in (
        (3, r"inputs must be \[\.\.\., H, W, C\], with 3 axes in each example, got shape \[2\]"),
        (4, r"inputs must be \[\.\.\., D0, D1, D2, D3\], with 4 axes in each example"),
    ):
        with pytest.raises(ShapeError, match=message):
            MLP(input_ndim=ndim).init(jax.random.key(0), jnp.ones((2,)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": 32}, r"features must be .* ints of at least 1, got 32.*\(32,\)"),
        ({"features": (4, -1)}, r"features must be .*, got \(4, -1\)"),
        ({"dropout": 1.5}, r"dropout must be a number in \[0, 1\), got 1.5"),
        ({"dropout": -0.5}, "dropout must be .*, got -0.5"),
        ({"dropout": "a"}, "dropout must be .*, got 'a'"),
        ({"input_ndim": 0}, "input_ndim must be an int of at least 1, got 0"),
        # Also where no layer is normalised.
        ({"features": (2,), "norm": "layr"}, "got 'layr'. Did you mean 'layer'"),
    ],
)
def test_fields_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        MLP(**fields).init(jax.random.key(0), jnp.ones((1, 2)))


@pytest.mark.parametrize("shape", [8, (), (8, 0), (8, "a")])
def test_input_shape_is_checked(shape):
    with pytest.raises(ValueError, match="input_shape must be one or more ints of at least 1, got"):
        mlp(input_shape=shape)


def test_wrong_rank_of_the_registered_model_names_no_field_it_lacks():
    model = fz.models.get("mlp", input_shape=(4, 4, 1), features=(3,)).init()
    with pytest.raises(ShapeError, match="H, W, C") as caught:
        model(jnp.ones((2, 16)))
    assert "input_ndim" not in str(caught.value)


def test_none_by_name_is_no_norm():
    shapes = jax.eval_shape(MLP((4, 2), norm="none").init, jax.random.key(0), jnp.ones((1, 3)))
    assert set(shapes["params"]) == {"dense_0", "dense_1"}


def test_registered_model_takes_any_input_shape():
    model = fz.models.get("mlp", input_shape=(8, 8, 1), features=[16, 8], num_classes=3).init()
    assert model(jnp.ones((2, 8, 8, 1))).shape == (2, 3)
    assert set(model.variables["params"]) == {"backbone", "head"}
