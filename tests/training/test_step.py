import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxzoo as fz
from flaxzoo.data.batch import Batch
from flaxzoo.errors import DataError, ShapeError
from flaxzoo.layers.auxiliary import COLLECTION, sow_logits
from flaxzoo.training import step as steps

SHAPE = (8, 8, 1)


@pytest.fixture
def batch(rng):
    images = rng.normal(size=(8, *SHAPE)).astype(np.float32)
    return images, rng.integers(0, 3, 8)


def small(name="cnn", **config):
    config = {"num_classes": 3, "input_shape": SHAPE, **config}
    if name == "cnn":
        config = {"features": (4,), "hidden": (8,), **config}
    return fz.models.get(name, **config)


class Halfway(nn.Module):
    """A network with a classifier halfway, of training alone."""

    @nn.compact
    def __call__(self, x, train=False):
        x = jnp.tanh(nn.Dense(6, name="first")(x.reshape(len(x), -1)))
        if train or self.is_initializing():
            sow_logits(self, nn.Dense(3, name="early")(x), 0.3)
        return nn.Dense(3, name="last")(x)


def test_auxiliary_logits_add_their_loss(batch):
    images, labels = batch
    module = Halfway()
    variables = module.init(jax.random.key(0), images)
    assert variables.keys() == {"params"}
    assert module.apply(variables, images).shape == (8, 3)
    model = fz.Model(module, variables)
    state = fz.create_train_state(model, optimizer="sgd", learning_rate=0.1)
    weights = np.array([1, 1, 1, 1, 1, 1, 0, 0], np.float32)

    def loss(params):
        hidden = jnp.tanh(images.reshape(8, -1) @ params["first"]["kernel"])
        total = 0
        for name, share in (("last", 1.0), ("early", 0.3)):
            logits = hidden @ params[name]["kernel"]
            values = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            total += share * (values * weights).sum() / 6
        return total

    value, gradients = jax.value_and_grad(loss)(variables["params"])
    new, metrics = fz.train_step(state, (images, labels, weights))
    assert float(metrics.compute()["loss"]) == pytest.approx(float(value), rel=1e-5)
    assert new.collections is None or COLLECTION not in new.collections
    for name in ("first", "early", "last"):
        before, after = (p[name]["kernel"] for p in (variables["params"], new.params))
        np.testing.assert_allclose(
            before - after, 0.1 * gradients[name]["kernel"], rtol=1e-4, atol=1e-7
        )


def test_one_step_is_the_hand_written_one(batch):
    model = small().init()
    state = fz.create_train_state(model, optimizer="sgd", learning_rate=0.1)
    images, labels = batch

    def loss(params):
        logits = model.module.apply({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    value, grads = jax.value_and_grad(loss)(model.variables["params"])
    new, metrics = fz.train_step(state, batch)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, model.variables["params"], grads)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new.params, expected)
    assert metrics.compute()["loss"] == pytest.approx(float(value), rel=1e-5)
    assert int(new.step) == 1
    # The old state is whole.
    assert int(state.step) == 0
    fz.train_step(state, batch)


def test_the_same_step_serves_every_model(batch, rng):
    images, labels = batch
    ids = rng.integers(1, 20, (8, 5))
    for name, config, data in (
        ("cnn", {"input_shape": SHAPE, "batch_norm": True, "dropout": 0.3}, (images, labels)),
        ("mlp", {"input_shape": SHAPE, "norm": "batch"}, (images, labels)),
        ("autoencoder", {"input_shape": SHAPE}, images),
        ("autoencoder", {"input_shape": SHAPE}, (images, images)),
        ("lstm", {"vocab_size": 20, "embedding_dim": 4, "hidden_size": 6}, (ids, labels % 2)),
    ):
        state = fz.create_train_state(fz.models.get(name, **config), learning_rate=1e-2)
        losses = []
        for _ in range(8):
            state, metrics = fz.train_step(state, data)
            losses.append(metrics.compute()["loss"])
        assert losses[-1] < losses[0], name
        assert "loss" in fz.eval_step(state, data).compute()


def test_lengths_reach_the_lstm_through_a_mapping(rng):
    ids = rng.integers(1, 20, (6, 7))
    lengths = np.array([7, 3, 1, 5, 2, 6])
    model = fz.models.get("lstm", vocab_size=20, embedding_dim=4, hidden_size=6).init()
    state = fz.create_train_state(model)
    batch = {"text": ids, "lengths": lengths, "label": np.array([0, 1, 0, 1, 0, 1])}
    garbled = {**batch, "text": np.where(np.arange(7) < lengths[:, None], ids, 0)}
    a, b = fz.eval_step(state, batch).compute(), fz.eval_step(state, garbled).compute()
    assert a == b
    state, _ = fz.train_step(state, batch)


def test_compiles_once_per_shape(batch):
    images, labels = batch
    before = steps._train_step._cache_size()
    state = fz.create_train_state(small(hidden=(5,)).init(), learning_rate=1e-3)
    for _ in range(4):
        state, _ = fz.train_step(state, batch)
    assert steps._train_step._cache_size() - before == 1
    state, _ = fz.train_step(state, (images[:4], labels[:4]))
    assert steps._train_step._cache_size() - before == 2
    # An equal model with an equal optimizer shares the compiled step.
    other = fz.create_train_state(small(hidden=(5,)).init(rng=1), learning_rate=1e-3, rng=1)
    fz.train_step(other, batch)
    assert steps._train_step._cache_size() - before == 2


def test_the_model_is_traced_once_for_a_step(batch):
    calls = []

    class Counting(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            calls.append(train)
            return nn.Dense(10)(x.reshape(len(x), -1))

    state = fz.create_train_state(Counting(), inputs=batch[0])
    calls.clear()
    with pytest.raises(DataError, match="10"):
        fz.train_step(state, (batch[0], batch[1] + 10))
    fz.train_step(state, batch)
    assert calls == [True]
    # What is known of the outputs serves the metrics of a trainer as well.
    steps.empty_totals(state, Batch(*batch))
    fz.train_steps(state, jax.tree.map(lambda x: x[None], batch))
    assert calls == [True, True]
    # The augmented inputs have another shape than those that are looked at.
    larger = state.replace(augment=lambda key, b: b._replace(inputs=b.inputs[:, :-1]))
    with pytest.raises(ShapeError):
        fz.train_step(larger, batch)


def test_tracing_leaves_nothing_behind(batch):
    state = fz.create_train_state(small(features=(7,)))
    known = dict(steps._known_shapes)
    new, metrics = jax.eval_shape(steps.update, state, Batch(*batch))
    assert steps._known_shapes == known
    assert new.step.shape == ()
    assert set(jax.tree.map(jnp.zeros_like, metrics).compute()) == {"loss", "accuracy"}


def test_batch_norm_statistics_move_in_training_alone(batch):
    state = fz.create_train_state(small(batch_norm=True))
    new, _ = fz.train_step(state, batch)
    before = state.batch_stats["backbone"]["norm_0"]["mean"]
    after = new.batch_stats["backbone"]["norm_0"]["mean"]
    conv = state.params["backbone"]["conv_0"]["kernel"]
    out = jax.lax.conv_general_dilated(
        batch[0], conv, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(after, 0.99 * before + 0.01 * out.mean((0, 1, 2)), atol=1e-6)
    fz.eval_step(new, batch)
    np.testing.assert_array_equal(new.batch_stats["backbone"]["norm_0"]["mean"], after)


def test_dropout_is_a_function_of_seed_and_step(batch, assert_trees_equal):
    def run(seed):
        model = small(dropout=0.5).init(rng=0)
        state = fz.create_train_state(model, rng=seed)
        for _ in range(3):
            state, _ = fz.train_step(state, batch)
        return state.params

    assert_trees_equal(run(0), run(0))
    a, b = run(0), run(1)
    assert not np.array_equal(a["head"]["fc"]["kernel"], b["head"]["fc"]["kernel"])


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_padding_changes_nothing(name, batch):
    """A batch filled up with rows of weight 0 steps as the batch without them does."""
    config = {"batch_norm": True} if name == "cnn" else {"norm": "batch"}
    images, labels = batch
    state = fz.create_train_state(small(name, **config), optimizer="sgd", learning_rate=0.1)
    plain, plain_metrics = fz.train_step(state, (images[:5], labels[:5]))
    garbage = images.copy()
    garbage[5:] = 1e6
    weights = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)
    padded, padded_metrics = fz.train_step(state, (garbage, labels, weights))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(padded), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    assert padded_metrics.compute() == pytest.approx(plain_metrics.compute(), rel=1e-5)


def test_weights_weigh(batch):
    images, labels = batch
    state = fz.create_train_state(small(), optimizer="sgd", learning_rate=0.1)
    weights = np.array([2, 1, 1, 0, 0, 0, 0, 0], np.float32)
    weighted, _ = fz.train_step(state, {"image": images, "label": labels, "weight": weights})
    index = [0, 0, 1, 2]
    repeated, _ = fz.train_step(state, (images[index], labels[index]))
    for a, b in zip(jax.tree.leaves(weighted), jax.tree.leaves(repeated), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_other_collections_and_streams(batch):
    class Counting(nn.Module):
        @nn.compact
        def __call__(self, x, *, train=False):
            calls = self.variable("counters", "calls", lambda: jnp.zeros((), jnp.int32))
            if train:
                calls.value += 1
                x = x + 0.01 * jax.random.normal(self.make_rng("noise"), x.shape)
            return nn.Dense(3)(x.reshape(x.shape[0], -1))

    model = fz.Model(Counting()).init(inputs=batch[0])
    state = fz.create_train_state(model, loss="crossentropy")
    for _ in range(3):
        state, _ = fz.train_step(state, batch)
    assert int(state.collections["counters"]["calls"]) == 3
    fz.eval_step(state, batch)
    assert int(state.collections["counters"]["calls"]) == 3


def test_pytree_inputs_and_a_loss_of_your_own(batch):
    class TwoInputs(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            image = inputs["image"]
            return nn.Dense(1)(image.reshape(image.shape[0], -1))[:, 0] + inputs["bias"]

    inputs = {"image": batch[0], "bias": np.ones(8, np.float32)}

    def absolute(predictions, targets):
        return abs(predictions - targets)

    state = fz.create_train_state(
        TwoInputs(), inputs=inputs, loss=absolute, metrics=["mae", absolute]
    )
    targets = np.zeros(8, np.float32)
    state, metrics = fz.train_step(state, (inputs, targets))
    values = metrics.compute()
    assert values["loss"] == pytest.approx(values["mae"])
    assert values["absolute"] == pytest.approx(values["mae"])
    assert fz.predict_step(state, inputs).shape == (8,)


def test_regularisers_are_added(batch):
    model = small().init()
    plain = fz.create_train_state(model, loss="crossentropy")
    loss = fz.losses.get("crossentropy") + fz.losses.l2(0.5)
    penalised = fz.create_train_state(model, loss=loss)
    weights = [x for x in jax.tree.leaves(model.variables["params"]) if x.ndim > 1]
    penalty = 0.5 * sum(float((w**2).sum()) for w in weights)
    _, a = fz.train_step(plain, batch)
    _, b = fz.train_step(penalised, batch)
    assert b.compute()["loss"] == pytest.approx(a.compute()["loss"] + penalty, rel=1e-5)


def test_line_searches_and_per_example_gradients(batch):
    lbfgs = fz.create_train_state(small(), optimizer="lbfgs")
    losses = []
    for _ in range(5):
        lbfgs, metrics = fz.train_step(lbfgs, batch)
        losses.append(metrics.compute()["loss"])
    assert losses[-1] < 0.5 * losses[0]
    private = fz.create_train_state(
        small(),
        optimizer="dpsgd",
        learning_rate=0.1,
        l2_norm_clip=1.0,
        noise_multiplier=0.0,
        seed=0,
    )
    new, metrics = fz.train_step(private, batch)
    assert int(new.step) == 1
    assert metrics.compute()["loss"] > 0
    with_stats = fz.create_train_state(
        small(batch_norm=True),
        optimizer="dpsgd",
        l2_norm_clip=1.0,
        noise_multiplier=0.0,
        seed=0,
    )
    with pytest.raises(ValueError, match="needs one gradient per example"):
        fz.train_step(with_stats, batch)


def test_schedule_free_evaluates_the_average(batch):
    state = fz.create_train_state(small(), optimizer="schedule_free_sgd", learning_rate=0.5)
    for _ in range(3):
        state, _ = fz.train_step(state, batch)
    averaged = state.eval_variables["params"]["head"]["fc"]["kernel"]
    assert not np.allclose(averaged, state.params["head"]["fc"]["kernel"])
    logits = fz.predict_step(state, batch[0])
    expected = state.module.apply(state.eval_variables, batch[0])
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_steps_run_under_scan(batch):
    state = fz.create_train_state(small())

    @jax.jit
    def several(state, batches):
        return jax.lax.scan(fz.train_step, state, batches)

    stacked = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 3), batch)
    new, _ = several(state, stacked)
    assert int(new.step) == 3
    one_by_one = state
    for _ in range(3):
        one_by_one, _ = fz.train_step(one_by_one, batch)
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(one_by_one), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda x, y: (x, y + 3), DataError, r"labels?.*(3|4|5)"),
        (lambda x, y: (x, -y - 1), DataError, r"-1|-2|-3"),
        (lambda x, y: (x, y.astype(np.float32)), (ShapeError, DataError), r"integer"),
        (lambda x, y: (np.where(x > 1, np.nan, x), y), DataError, "inputs.*nan"),
        (lambda x, y: (x, y[:5]), ShapeError, "leading axes of a batch must agree.*8.*5"),
        (lambda x, y: (x, np.eye(3)[y]), (ShapeError, DataError), "softmax_cross_entropy"),
        (lambda x, y: (x[:0], y[:0]), DataError, "empty"),
        (lambda x, y: (x[..., 0], y), ShapeError, r"\[B, H, W, C\]"),
        (lambda x, y: (np.repeat(x, 3, -1), y), ShapeError, r"\[8, 8, 8, 3\] do not fit"),
        (lambda x, y: x, DataError, "no targets"),
        (lambda x, y: {"pixels": x, "label": y}, DataError, "needs one of inputs, image"),
        (lambda x, y: (x, y, np.ones((8, 1))), ShapeError, r"weight must have shape \[B\]"),
    ],
)
def test_bad_batches(batch, change, error, match):
    state = fz.create_train_state(small())
    with pytest.raises(error, match=match):
        fz.train_step(state, change(*batch))


def test_bad_state(batch):
    with pytest.raises(TypeError, match=r"made by flaxzoo.create_train_state, got Model"):
        fz.train_step(small(), batch)
    with pytest.raises(TypeError, match="get one with flaxzoo.models.get"):
        fz.create_train_state("cnn")
    with pytest.raises(KeyError, match="unknown optimizer 'adamm'"):
        fz.create_train_state(small(), optimizer="adamm")
    with pytest.raises(KeyError, match="unknown loss"):
        fz.create_train_state(small(), loss="crossentrpy")
    with pytest.raises(KeyError, match="unknown metric"):
        fz.create_train_state(small(), metrics=["acuracy"])
    with pytest.raises(ShapeError, match="input shape of 'Dense' is not known"):
        fz.create_train_state(nn.Dense(3))
    with pytest.raises(TypeError, match="rng must be an int seed or a key"):
        fz.create_train_state(small(), rng="zero")


def test_a_batch_of_which_nothing_counts_teaches_nothing(batch):
    state = fz.create_train_state(small(batch_norm=True), optimizer="sgd", learning_rate=0.1)
    new, metrics = fz.train_step(state, (*batch, np.zeros(8, np.float32)))
    for a, b in zip(
        jax.tree.leaves((state.params, state.batch_stats)),
        jax.tree.leaves((new.params, new.batch_stats)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    assert metrics.compute()["loss"] == 0


class Masked(nn.Module):
    """A BatchNorm with a mask of its own, or over axes that are not the batch."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, *, train=False):
        x = x.reshape(x.shape[0], -1)
        norm = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name)
        if self.axis_name is None:
            x = norm(x, mask=jnp.ones((x.shape[0], 1), bool))
        else:
            x = norm(jnp.concatenate([x, x]))[: x.shape[0]]
        return nn.Dense(3)(x)


def test_masks_of_ones_own_are_combined(batch):
    images, labels = batch
    model = fz.Model(Masked()).init(inputs=images)
    state = fz.create_train_state(model, loss="crossentropy", optimizer="sgd")
    plain, _ = fz.train_step(state, (images[:5], labels[:5]))
    weights = np.array([1, 1, 1, 1, 1, 0, 0, 0], np.float32)
    padded, _ = fz.train_step(state, (images, labels, weights))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(padded), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_callers_may_reuse_their_batch(batch):
    images = np.repeat(batch[0], 64, axis=0)
    labels = np.repeat(batch[1], 64)
    state = fz.create_train_state(small("mlp", features=(512, 512)))
    expected, _ = fz.train_step(state, (images.copy(), labels.copy()))
    new, _ = fz.train_step(state, (images, labels))
    images[:] = np.nan
    for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


# Its state starts from the very arrays of the parameters.
SCHEDULE_FREE = optax.contrib.schedule_free(optax.sgd(0.1), 0.1)


@pytest.mark.parametrize("options", [{}, {"freeze": "backbone"}, {"optimizer": SCHEDULE_FREE}])
def test_donated_states_train_alike_and_are_gone(batch, options):
    model = small(batch_norm=True).init(0)
    kept = fz.create_train_state(model, **options)
    state = fz.create_train_state(model, donate=True, **options)
    for _ in range(2):
        before, (state, metrics) = state, fz.train_step(state, batch)
        kept, expected = fz.train_step(kept, batch)
    assert state.donate
    assert metrics.compute() == expected.compute()
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(state), jax.tree.leaves(kept))
    # The model's arrays are its own, and so are those that the steps returned.
    assert model(batch[0]).shape == (8, 3)
    assert fz.predict_step(state, batch[0]).shape == (8, 3)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before.params))
    for use in (fz.train_step, fz.eval_step, fz.train_steps):
        with pytest.raises(ValueError, match="arrays are gone: a step has taken them over"):
            use(before, batch)
    with pytest.raises(ValueError, match="use the state that the step returned"):
        fz.predict_step(before, batch[0])


def test_several_donated_steps_and_those_that_are_looked_at_for_nans(batch):
    model = small().init(0)
    batches = jax.tree.map(lambda x: np.stack([x, x]), batch)
    kept, _ = fz.train_steps(fz.create_train_state(model), batches)
    first = fz.create_train_state(model, donate=True)
    state, _ = fz.train_steps(first, batches)
    assert first.step.is_deleted()
    jax.tree.map(np.testing.assert_array_equal, state.params, kept.params)
    with fz.debug.nans():
        # What gives a NaN is run again, on the same arrays.
        new, _ = fz.train_step(state, batch)
    assert not state.step.is_deleted()
    assert int(new.step) == 3


def test_a_donated_state_is_stepped_inside_jit_too(batch):
    state = fz.create_train_state(small().init(0), donate=True)
    batch = jax.tree.map(jnp.asarray, batch)
    new, _ = jax.jit(fz.train_step)(state, batch)
    # The outer jit decides.
    assert not state.step.is_deleted()
    assert int(new.step) == 1
