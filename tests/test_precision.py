"""In which precision each module computes, and what stays float32."""

from __future__ import annotations

import copy
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _operations import operations

import flaxzoo as fz
from flaxzoo.errors import ArgumentError, UnknownNameError
from flaxzoo.precision import apply_in, as_policy

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 16, 16, 3)).astype(np.float32)
Y = np.array([0, 1, 2, 0])


class Own(nn.Module):
    """A reader's module: layers with and without a dtype, and one that is to stay float32."""

    @nn.compact
    def __call__(self, x):
        w = self.param("w", nn.initializers.normal(1.0), (x.shape[-1], 8))
        x = nn.LayerNorm(name="norm")(nn.Dense(8, name="first")(x @ w))
        x = nn.MultiHeadDotProductAttention(2, name="attention")(x[:, None], x[:, None])[:, 0]
        return nn.Dense(3, dtype=jnp.float32, name="last")(nn.relu(x))


@pytest.fixture(scope="module")
def own():
    return fz.Model(Own()).init(0, jnp.ones((2, 5)))


@pytest.fixture(scope="module")
def cnn():
    return fz.models.get("cnn", num_classes=3, input_shape=(16, 16, 3)).init(0)


@pytest.fixture(scope="module")
def vit():
    fields = {"width": 24, "depth": 2, "heads": 3, "patch_size": 8}
    return fz.models.get("vit_tiny_patch16_224", num_classes=3, input_shape=X[0].shape, **fields)


def within(precision, model, inputs):
    policy = as_policy(precision)
    return operations(lambda v, x: apply_in(policy, model.module, v, x), model.shapes(), inputs)


def test_products_are_in_low_precision_and_norms_and_softmax_in_float32(vit):
    done = within("bfloat16", vit, X)
    products = {key for key in done if key[0] in ("dot_general", "flaxzoo_conv")}
    assert {key[1:] for key in products} == {("bfloat16", "bfloat16")}
    for name in ("exp", "rsqrt", "reduce_sum", "reduce_max"):
        assert all(set(key[1:]) == {"float32"} for key in done if key[0] == name), name
    assert {"exp", "rsqrt"} <= {key[0] for key in done}


def test_no_precision_is_the_computation_that_it_was(vit, cnn):
    for model in (vit, cnn):
        plain = operations(lambda v, x, m=model: m.module.apply(v, x), model.shapes(), X)
        assert within(None, model, X) == plain
        assert "bfloat16" not in str(plain)


def test_modules_of_one_s_own(own):
    x = jnp.ones((2, 5))
    done = within("bfloat16", own, x)
    products = {key[1:]: n for key, n in done.items() if key[0] == "dot_general"}
    # The last layer has a dtype of its own; Flax's attention leaves its weights in that of the
    # softmax. The others are w, first, query, key, value, their product and out.
    assert products[("bfloat16", "bfloat16")] == 7
    assert products[("float32", "float32")] == 1
    assert {key[1:] for key in done if key[0] == "exp"} == {("float32",)}
    low, high = own.with_precision("bfloat16")(x), own(x)
    assert low.dtype == jnp.float32
    assert 0 < abs(low - high).max() < 0.05 * abs(high).max()


def test_a_default_of_float32_is_no_wish():
    """Flax's own examples write ``dtype: Any = jnp.float32``."""

    class Net(nn.Module):
        dtype: object = jnp.float32

        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, dtype=self.dtype)(nn.Dense(3, dtype=self.dtype)(x))

    model = fz.Model(Net()).init(0, jnp.ones((2, 5)))
    done = within("bfloat16", model, jnp.ones((2, 5)))
    assert {k[1:] for k in done if k[0] == "dot_general"} == {("bfloat16", "bfloat16")}
    assert model.module.dtype == jnp.float32


def test_a_rule_holds_for_its_modules_and_nothing_behind_them(vit):
    rules = {"*": "bfloat16", "backbone/blocks_0": "float32"}
    one, all_low = within(rules, vit, X), within("bfloat16", vit, X)

    def products(done):
        return {k[1:]: n for k, n in done.items() if k[0] == "flaxzoo_conv"}

    block = {"qkv", "proj", "fc1", "fc2"}
    assert products(one)[("float32", "float32")] == len(block)
    low = ("bfloat16", "bfloat16")
    assert products(all_low)[low] - products(one)[low] == len(block)
    # "!" is for all others, and what no rule names is float32.
    assert within({"!backbone/blocks_0": "bfloat16"}, vit, X) == one
    assert within({"head": "float32"}, vit, X) == within("float32", vit, X)


def test_outputs_are_float32_and_near(cnn):
    low = cnn.with_precision("bfloat16")
    assert jax.tree.map(lambda x: x.dtype, low.variables) == jax.tree.map(
        lambda x: x.dtype, cnn.variables
    )
    for kind in ("features", "__call__"):
        a, b = getattr(low, kind)(X), getattr(cnn, kind)(X)
        assert a.dtype == jnp.float32
        assert 0 < np.linalg.norm(a - b) < 0.02 * np.linalg.norm(b)
    rows = fz.transfer.extract_features(low, (X, Y)).inputs
    np.testing.assert_array_equal(rows, np.asarray(low.features(X)))


def test_attention_s_weights_are_those_of_the_precision(vit):
    model = vit.init(0)
    maps = model.with_precision("bfloat16").feature_maps(X)
    assert {leaf.dtype.name for leaf in maps.values()} == {"float32"}
    for path, high in model.attention_weights(X).items():
        low = model.with_precision("bfloat16").attention_weights(X)[path]
        assert low.dtype == jnp.float32
        assert 0 < abs(low - high).max() < 0.02


def test_a_model_keeps_it(cnn):
    rules = {"*": "bfloat16", "head": "float32"}
    model = cnn.with_precision(rules)
    assert "bfloat16" in repr(model)
    assert model.with_precision(None).precision is None
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        assert other.precision == model.precision == fz.PrecisionPolicy(rules)
    assert model.replace_head(fz.models.Head(2)).precision == model.precision
    part = fz.transfer.slice_model(model, stop="head")
    assert part.precision == fz.PrecisionPolicy({"*": "bfloat16"})
    named = fz.models.get("cnn", num_classes=3, input_shape=(16, 16, 3), precision="bfloat16")
    assert named.init(0).precision == fz.PrecisionPolicy("bfloat16")
    # A state has the model's, unless it is told another.
    assert fz.create_train_state(model).precision == model.precision
    assert fz.create_train_state(model, precision="float32").precision.rules == (("*", "float32"),)


def test_a_part_of_a_model_has_the_rules_for_it():
    policy = fz.PrecisionPolicy({"a": "bfloat16", "a/b": "float32", "!c": "float16"})
    leaf = jnp.zeros(())
    assert policy.within({"d": {"kernel": leaf}}).rules == (("*", "float16"),)
    policy = fz.PrecisionPolicy({"a": "bfloat16", "a/b": "float32", "e": "float16"})
    part = policy.within({"a": {"b": {"kernel": leaf}}})
    assert part.rules == (("*", "float32"), ("a/b", "float32"))
    part.check({"a": {"b": {"kernel": leaf}}})


def test_a_step_keeps_float32_and_is_near_the_float32_step(cnn):
    states = {word: fz.create_train_state(cnn, precision=word) for word in (None, "bfloat16")}
    after = {word: fz.train_step(state, (X, Y)) for word, state in states.items()}
    low, metrics = after["bfloat16"]
    kept = jax.tree.leaves((low.params, low.opt_state, low.batch_stats))
    assert {leaf.dtype.name for leaf in kept} <= {"float32", "int32"}
    high, expected = after[None]
    assert metrics.compute()["loss"] == pytest.approx(expected.compute()["loss"], rel=5e-3)
    assert metrics.compute()["loss"] != expected.compute()["loss"]
    leaves = (jax.tree.leaves(state.batch_stats) for state in (low, high))
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-2 * abs(b).max())
    assert fz.predict_step(low, X).dtype == jnp.float32
    assert fz.eval_step(low, (X, Y)).compute().keys() == expected.compute().keys()


def test_a_loss_of_one_s_own_sees_float32(cnn):
    seen = []

    def loss(logits, labels):
        seen.append(logits.dtype)
        return -jax.nn.log_softmax(logits)[jnp.arange(len(labels)), labels]

    fz.train_step(fz.create_train_state(cnn, loss=loss, precision="bfloat16"), (X, Y))
    assert set(map(str, seen)) == {"float32"}


def test_the_trainer_computes_in_it_and_its_files_keep_it(cnn, tmp_path):
    rules = {"*": "bfloat16", "head": "float32"}
    trainer = fz.Trainer(cnn, precision=rules, run_dir=tmp_path)
    trainer.fit((X, Y), epochs=1, batch_size=4, progress=False)
    assert trainer.model.precision == fz.PrecisionPolicy(rules)
    np.testing.assert_array_equal(trainer.predict(X), trainer.model(X))
    trainer.save(tmp_path)
    again = fz.Trainer.load(tmp_path)
    assert again.state.precision == trainer.state.precision
    np.testing.assert_array_equal(again.predict(X), trainer.predict(X))
    policy = fz.PrecisionPolicy(rules, growth_interval=7)
    other = fz.Trainer(cnn, precision=policy)
    other.build()
    other.save(tmp_path / "policy")
    assert fz.Trainer.load(tmp_path / "policy").state.precision == policy


@pytest.mark.parametrize(
    ("value", "error", "says"),
    [
        ("bfloat", ArgumentError, "must be one of 'float32', 'bfloat16', 'float16' or a mapping"),
        ("bf16", ArgumentError, "'bf16' is called 'bfloat16' here"),
        ("mixed_float16", ArgumentError, "is called 'float16' here"),
        (16, ArgumentError, "16 is called 'float16' here"),
        (8, ArgumentError, "must be one of"),
        ("float64", ArgumentError, "must be one of"),
        ({}, ArgumentError, "precision has no entries"),
        ({"*": "half"}, ArgumentError, "is called 'float16' here"),
        ({"*": None}, ArgumentError, "must be one of"),
        ({"hed": "float32"}, UnknownNameError, "'hed' matches no module. Did you mean 'head'"),
        ({"*/kernel": "bfloat16"}, UnknownNameError, "matches no module"),
        ({"head/fc": "float32", "head": "bfloat16"}, ValueError, "'head/fc' is for nothing"),
        ({3: "bfloat16"}, TypeError, "a pattern must be text, got 3"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_is_given(cnn, value, error, says):
    for give in (
        cnn.with_precision,
        lambda value: fz.create_train_state(cnn, precision=value),
        lambda value: fz.Trainer(cnn, precision=value),
    ):
        with pytest.raises(error, match=says):
            give(value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"loss_scale": 0.5}, "loss_scale must be a finite number of at least 1 or None, got 0.5"),
        ({"loss_scale": "dynamic"}, "loss_scale must be"),
        ({"growth_interval": 0}, "growth_interval must be an int of at least 1, got 0"),
        ({"growth_interval": 1.5}, "growth_interval must be an int"),
        ({"residual": "bfloat16"}, "residual must be one of 'float32' or None, got 'bfloat16'"),
    ],
)
def test_policies_refuse_senseless_numbers(options, says):
    with pytest.raises(ArgumentError, match=says):
        fz.PrecisionPolicy("float16", **options)


def test_sums_of_shortcuts_may_be_float32():
    """A block that adds little to a large sum is rounded away otherwise."""
    fields = {"width": 24, "depth": 12, "heads": 3, "patch_size": 8}
    options = {"num_classes": 10, "input_shape": X[0].shape, **fields}
    model = fz.models.get("vit_tiny_patch16_224", **options).init(0)
    wide = fz.PrecisionPolicy("bfloat16", residual="float32")
    x, exact = RNG.standard_normal((32, *X[0].shape)).astype(np.float32), {}
    for precision in ("float32", "bfloat16", wide):
        exact[precision] = np.asarray(model.with_precision(precision)(x))
    error = {key: np.linalg.norm(y - exact["float32"]) for key, y in exact.items()}
    assert 0 < error[wide] < 0.8 * error["bfloat16"]
    # Products stay as narrow as they are, and sums are not.
    done = within(wide, model, x)
    products = {key for key in done if key[0] in ("dot_general", "flaxzoo_conv")}
    assert {key[1:] for key in products} == {("bfloat16", "bfloat16")}
    assert ("add", "float32", "float32") in done
    # It trains, and without narrow modules it changes nothing.
    state = fz.create_train_state(model, precision=wide)
    after, _ = fz.train_step(state, (x, np.arange(32) % 10))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after.params))
    alone = fz.PrecisionPolicy("float32", residual="float32")
    np.testing.assert_array_equal(model.with_precision(alone)(x), exact["float32"])
    again = fz.PrecisionPolicy(**wide.config)
    assert again == wide != fz.PrecisionPolicy("bfloat16")
    assert str(wide) == "bfloat16, residual float32"


def test_types_stand_for_words():
    assert fz.PrecisionPolicy(jnp.bfloat16) == fz.PrecisionPolicy("bfloat16")
    assert fz.PrecisionPolicy({"*": np.float32}).dtype_of("") == np.float32
    assert str(fz.PrecisionPolicy("bfloat16")) == "bfloat16"
