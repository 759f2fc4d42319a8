import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo import Classifier
from flaxzoo.errors import ShapeError
from flaxzoo.layers.initializers import plain_bias
from flaxzoo.models import CNN, Head, Identity
from flaxzoo.models.heads import global_pool


def test_default_head_is_one_linear_layer():
    x = jax.random.normal(jax.random.key(0), (4, 5))
    out, variables = Head(3).init_with_output(jax.random.key(1), x)
    fc = variables["params"]["fc"]
    np.testing.assert_allclose(out, x @ fc["kernel"] + fc["bias"], atol=1e-6)
    assert set(variables["params"]) == {"fc"}


def test_two_layer_head_of_the_tutorials():
    head = Head(2, pooling="avg", hidden=(8,), batch_norm=True, dropout=0.5)
    x = jax.random.normal(jax.random.key(0), (4, 7, 7, 16))
    variables = head.init(jax.random.key(1), x)
    assert set(variables["params"]) == {"dense_0", "norm_0", "fc"}
    assert head.apply(variables, x).shape == (4, 2)
    _, updates = head.apply(
        variables, x, train=True, rngs={"dropout": jax.random.key(2)}, mutable=["batch_stats"]
    )
    before, after = variables["batch_stats"]["norm_0"], updates["batch_stats"]["norm_0"]
    assert not np.array_equal(before["mean"], after["mean"])


def test_each_pixel_may_be_classified():
    x = jax.random.normal(jax.random.key(0), (4, 5, 7, 6))
    head = Head(3, pooling="avg", pixelwise=True)
    out, variables = head.init_with_output(jax.random.key(1), x)
    fc = variables["params"]["fc"]
    expected = nn.relu(x @ fc["kernel"] + fc["bias"]).mean((1, 2))
    np.testing.assert_allclose(out, expected, atol=1e-6)
    features = head.clone(num_classes=0).apply({}, x)
    np.testing.assert_allclose(features, x.mean((1, 2)), atol=1e-6)
    dropping = head.clone(dropout=0.5)
    drop = lambda key: dropping.apply(  # noqa: E731
        variables, x, train=True, rngs={"dropout": jax.random.key(key)}
    )
    assert not np.array_equal(drop(0), drop(1))
    with pytest.raises(ShapeError, match="pixelwise=True takes maps"):
        head.apply(variables, x[:, 0, 0])
    with pytest.raises(ValueError, match="one classifier, no hidden layers"):
        Head(3, pixelwise=True, hidden=(4,))


def test_first_biases_of_hidden_layers():
    head = Head(2, hidden=(400,), hidden_bias_init=plain_bias, pooling="avg")
    params = head.init(jax.random.key(0), np.zeros((1, 2, 2, 300), np.float32))["params"]
    assert params["dense_0"]["bias"].std() == pytest.approx(1 / np.sqrt(3 * 300), rel=0.2)
    assert not params["fc"]["bias"].any()


def test_hidden_layers_of_the_classifier():
    fields = {"hidden": (8,), "hidden_norm": "layer", "activation": "squared_relu"}
    x = jax.random.normal(jax.random.key(0), (4, 5))
    head = Head(3, hidden_features=False, **fields)
    variables = head.init(jax.random.key(1), x)
    dense, norm, fc = (variables["params"][name] for name in ("dense_0", "norm_0", "fc"))
    y = np.maximum(x @ dense["kernel"] + dense["bias"], 0) ** 2
    y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-6)
    y = (y * norm["scale"] + norm["bias"]) @ fc["kernel"] + fc["bias"]
    np.testing.assert_allclose(head.apply(variables, x), y, atol=1e-5)
    np.testing.assert_array_equal(head.clone(num_classes=0).apply(variables, x), x)
    assert jax.eval_shape(Head(0, **fields).init_with_output, jax.random.key(0), x)[0].shape == (
        4,
        8,
    )


def test_a_layer_before_the_pooling_and_norms_before_activations():
    fields = {"hidden": (8,), "hidden_norm": "layer", "hidden_norm_first": True}
    fields |= {"hidden_norm_epsilon": 0.1, "hidden_bias": False, "pooling": "avg"}
    x = jax.random.normal(jax.random.key(0), (4, 2, 3, 5))
    head = Head(0, map_width=6, **fields)
    variables = head.init(jax.random.key(1), x)
    params = variables["params"]
    assert set(params) == {"in_conv", "dense_0", "norm_0"}
    assert set(params["dense_0"]) == {"kernel"}
    y = np.maximum(x @ params["in_conv"]["conv"]["kernel"][0, 0] / np.sqrt(1 + 1e-5), 0)
    y = y.mean((1, 2)) @ params["dense_0"]["kernel"]
    y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 0.1)
    np.testing.assert_allclose(head.apply(variables, x), np.maximum(y, 0), atol=1e-5)
    with pytest.raises(ShapeError, match=r"map_width=6 takes maps .* got \[4, 5\]; use map_width="):
        head.apply(variables, x[:, 0, 0])


def test_no_classes_returns_pooled_features():
    x = jax.random.normal(jax.random.key(0), (4, 7, 7, 16))
    out, variables = Head(0, pooling="max").init_with_output(jax.random.key(1), x)
    assert variables == {}
    np.testing.assert_array_equal(out, x.max((1, 2)))


def test_global_pool():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    np.testing.assert_allclose(global_pool(x, "avg"), np.mean(x, (1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        global_pool(x, "avg+max"), (np.mean(x, (1, 2)) + np.max(x, (1, 2))) / 2, rtol=1e-5
    )
    tokens = jax.random.normal(jax.random.key(0), (2, 6, 5))
    np.testing.assert_allclose(global_pool(tokens, "prefix", 2), tokens[:, :2].mean(1), rtol=1e-6)
    with pytest.raises(ValueError, match="pooling='prefix' takes prefix_tokens of at least 1"):
        global_pool(tokens, "prefix")
    with pytest.raises(ShapeError, match="pooling='prefix' takes tokens of shape"):
        global_pool(x, "prefix", 1)
    assert global_pool(x, None) is x
    assert global_pool(x, "none") is x
    with pytest.raises(ShapeError, match=r"takes features of shape \[B, ..., C\], got \[2, 3\]"):
        global_pool(jnp.ones((2, 3)), "avg")
    with pytest.raises(ValueError, match="pooling must be one of 'auto', 'avg'"):
        global_pool(x, "sum")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_classes": -1}, "num_classes must be an int of at least 0, got -1"),
        ({"num_classes": None}, "num_classes must be an int of at least 0, got None"),
        ({"hidden": 8}, r"hidden must be .* ints of at least 1, got 8.*\(8,\)"),
        ({"hidden": (0,)}, r"hidden must be .*, got \(0,\)"),
        ({"dropout": 1.5}, r"dropout must be a number in \[0, 1\), got 1.5"),
        ({"dropout": "a"}, "dropout must be .*, got 'a'"),
        ({"pooling": "avrg"}, "got 'avrg'. Did you mean 'avg'"),
        ({"map_width": 0}, "map_width must be an int of at least 1 or None, got 0"),
        ({"hidden_norm": "layr"}, "norm must be one of .*'layr'. Did you mean 'layer'"),
        ({"hidden_norm": "layer", "batch_norm": True}, "give hidden_norm or batch_norm"),
        ({"distilled": "both"}, "distilled must be one of 'mean', 'pair', got 'both'"),
        ({"distilled": "mean"}, "takes pooling='prefix' and prefix_tokens=2, got 'auto' and 0"),
        ({"token_labels": 1}, "token_labels must be True or False, got 1"),
        (
            {"token_labels": True, "distilled": "mean", "pooling": "avg"},
            "distilled or has token_labels",
        ),
        ({"classifier_norm": "bach"}, "norm must be one of .*Did you mean 'batch'"),
    ],
)
def test_fields_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        Head(**{"num_classes": 2, **fields}).init(jax.random.key(0), jnp.ones((1, 2)))


def test_two_classifiers_of_the_same_features():
    x = jax.random.normal(jax.random.key(0), (4, 3, 3, 5))
    head = Head(2, pooling="avg", distilled="pair", classifier_norm="batch", dropout=0.5)
    mean, variables = head.init_with_output(jax.random.key(1), x)
    assert set(variables["params"]) == {"fc", "fc_norm", "fc_dist", "fc_dist_norm"}
    rngs = {"dropout": jax.random.key(2)}
    pair, updates = head.apply(variables, x, train=True, rngs=rngs, mutable=["batch_stats"])
    assert [leaf.shape for leaf in pair] == [(4, 2), (4, 2)]
    # The norms' means are a tenth of the batch's.
    expected = 0.1 * x.mean((0, 1, 2))
    for name in ("fc_norm", "fc_dist_norm"):
        np.testing.assert_allclose(updates["batch_stats"][name]["mean"], expected, atol=1e-6)
    features = x.mean((1, 2)) / np.sqrt(1 + 1e-5)
    logits = (features @ variables["params"][name]["kernel"] for name in ("fc", "fc_dist"))
    np.testing.assert_allclose(mean, sum(logits) / 2, atol=1e-5)
    # Features are what stands before the classifiers and their norms.
    bare = Head(0, pooling="avg", distilled="pair", classifier_norm="batch")
    np.testing.assert_allclose(bare.apply({}, x), x.mean((1, 2)), atol=1e-6)


def test_each_token_has_a_label_of_its_own():
    x = jax.random.normal(jax.random.key(0), (4, 6, 5))
    head = Head(3, pooling="token", token_labels=True)
    logits, variables = head.init_with_output(jax.random.key(1), x)
    first, labels = (variables["params"][name]["kernel"] for name in ("fc", "fc_aux"))
    expected = x[:, 0] @ first + 0.5 * (x[:, 1:] @ labels).max(1)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    # Without pooling all tokens are classified by one layer, and the other has no part in it.
    np.testing.assert_allclose(
        head.clone(pooling=None).apply(variables, x), x @ first, rtol=1e-5, atol=1e-6
    )
    assert head.clone(num_classes=0).apply({}, x).shape == (4, 5)
    rngs = {"dropout": jax.random.key(2)}
    dropped = head.clone(dropout=0.5).apply(variables, x, train=True, rngs=rngs)
    assert np.abs(dropped - logits).max() > 1e-3
    with pytest.raises(ShapeError, match="token_labels=True takes tokens .*use token_labels=False"):
        Head(3, token_labels=True).init(jax.random.key(0), x[:, 0])


def test_two_classifiers_of_parts_of_the_features():
    x = np.random.default_rng(0).random((2, 7)).astype(np.float32)
    head = Head(3, pooling=None, split=3)
    logits, variables = head.init_with_output(jax.random.key(0), x)
    layers = variables["params"]
    parts = [
        part @ layers[name]["kernel"] + layers[name]["bias"]
        for name, part in (("fc", x[:, :3]), ("fc_dist", x[:, 3:]))
    ]
    np.testing.assert_allclose(logits, (parts[0] + parts[1]) / 2, rtol=1e-5)
    np.testing.assert_array_equal(head.clone(num_classes=0).apply({}, x), x)
    with pytest.raises(ValueError, match="distilled or has token_labels or split, not two of them"):
        Head(3, pooling=None, split=3, distilled="mean")


def test_none_by_name_is_no_pooling():
    x = jnp.ones((2, 5))
    assert Head(3, pooling="none").init_with_output(jax.random.key(0), x)[0].shape == (2, 3)


class Plain(nn.Module):
    """A user's head that knows nothing of ``train``."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


def test_classifier_takes_any_modules():
    net = Classifier(backbone=CNN(num_classes=0, hidden=(6,)), head=Plain())
    x = jnp.ones((2, 8, 8, 1))
    variables = net.init(jax.random.key(0), x, train=True)
    assert set(variables["params"]) == {"backbone", "head"}
    assert net.apply(variables, x).shape == (2, 3)
    assert net.apply(variables, x, method="features").shape == (2, 6)


def test_auto_pools_maps_and_leaves_vectors():
    maps = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    out = Head(0).apply({}, maps)
    np.testing.assert_allclose(out, maps.mean((1, 2)), rtol=1e-5, atol=1e-6)
    for shape in ((2, 5), (2, 7, 5)):
        # Sequences are not averaged unasked: their last axis but one may be anything.
        assert Head(0).apply({}, np.ones(shape)).shape == shape


def test_auto_and_avg_are_the_same_on_maps():
    maps = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    variables = Head(3).init(jax.random.key(0), maps)
    out = Head(3, pooling="avg").apply(variables, maps)
    np.testing.assert_array_equal(Head(3).apply(variables, maps), out)


def test_a_narrow_head_keeps_wide_parameters():
    head = Head(3, hidden=(4,), batch_norm=True, use_bias=False, dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((2, 3, 3, 5), jnp.bfloat16)
    out, variables = jax.eval_shape(head.init_with_output, jax.random.key(0), x)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert set(variables["params"]["fc"]) == {"kernel"}


def test_the_identity_returns_whatever_it_gets():
    maps = {"stem": jnp.ones(2), "layer1": jnp.zeros(3)}
    assert Identity().apply({}, maps) is maps
    net = Classifier(backbone=CNN(num_classes=0, hidden=(6,)), head=Identity())
    variables = jax.eval_shape(net.init, jax.random.key(0), jnp.ones((2, 8, 8, 1)))
    assert set(variables["params"]) == {"backbone"}
