"""Under JAX's stricter settings: float64 where asked for, no promoted ranks, explicit meshes."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import flaxzoo as fz
from flaxzoo._meshes import beside, is_explicit
from flaxzoo.data import Batch
from flaxzoo.layers.pool import shortcut_pool
from flaxzoo.training.step import evaluate, update

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 16)
LOGITS = RNG.normal(size=(16, 3)).astype(np.float32)
IMAGES = RNG.random((4, 8, 8, 3), np.float32)
PREPROCESS = fz.Preprocess((8, 8, 3), mean=(0.1, 0.2, 0.3), std=(0.2, 0.3, 0.4))


def mlp():
    return fz.models.get("mlp", num_classes=3, input_shape=(6,), features=(4,))


# --- what a module sows ----------------------------------------------------------------------


class Sowing(nn.Module):
    @nn.compact
    def __call__(self, x, train=True):
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(8)(x))
        self.sow("losses", "activity", jnp.sum(x**2))
        self.sow("rows", "first", x[:, 0])
        return nn.Dense(3)(x)


def test_what_is_sown_is_no_state():
    state = fz.create_train_state(Sowing(), inputs=X)
    layouts = []
    for _ in range(3):
        state, _ = fz.train_step(state, (X, Y))
        layouts.append(jax.tree.map(jnp.shape, state.variables))
    assert layouts[0] == layouts[1] == layouts[2]
    assert np.abs(state.batch_stats["BatchNorm_0"]["mean"]).max() > 0
    # With a short last batch, and several steps in a call.
    trainer = fz.Trainer(Sowing(), steps_per_call=2)
    trainer.fit((X[:14], Y[:14]), batch_size=4, progress=False)
    assert np.isfinite(trainer.history["loss"][0])


# --- float64 ---------------------------------------------------------------------------------


def dtypes(tree):
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)} - {"int32", "uint32"}


def test_float32_stays_float32_under_x64():
    """Of all families ``make conformance`` says so."""
    with jax.enable_x64(True):
        images = jnp.zeros((1, 5, 5, 2), jnp.float32)
        assert jax.eval_shape(lambda x: shortcut_pool(x, 2), images).dtype == "float32"
        options = {"ema_decay": 0.9, "weight_decay": 0.1, "accumulate_steps": 2}
        state = fz.create_train_state(mlp(), optimizer="adamw", **options)
        batch = Batch(jnp.asarray(X), jnp.asarray(Y), jnp.ones(16, jnp.float32))
        after, metrics = jax.eval_shape(update, state, batch)
        same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), state, after)
        assert all(jax.tree.leaves(same))
        assert dtypes((after, metrics, jax.eval_shape(evaluate, state, batch))) == {"float32"}


@pytest.mark.parametrize("name", ["multiclass_hinge_loss", "multiclass_sparsemax_loss", "mse"])
def test_losses_have_the_dtype_of_the_predictions(name):
    with jax.enable_x64(True):
        loss = fz.losses.get(name)
        targets = jnp.asarray(LOGITS if name == "mse" else Y)
        for dtype, widest in (("bfloat16", "float32"), ("float32",) * 2, ("float64",) * 2):
            values = jax.eval_shape(loss.values, jnp.asarray(LOGITS, dtype), targets)
            assert values.dtype == widest


# --- ranks -----------------------------------------------------------------------------------


@pytest.fixture
def no_promotion():
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.mark.usefixtures("no_promotion")
@pytest.mark.parametrize(
    "name", [n for n in fz.augment.list() if n not in ("affine", "color_jitter")]
)
def test_augmentations_promote_no_rank(name):
    change = fz.augment.as_augmentation(name, preprocess=PREPROCESS, num_classes=3)
    batch = Batch(jnp.asarray(IMAGES), jnp.asarray(Y[:4]), jnp.ones(4))
    jax.eval_shape(change, jax.random.PRNGKey(0), batch)


@pytest.mark.usefixtures("no_promotion")
@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        ("crossentropy", Y),
        ("softmax_cross_entropy", np.eye(3)[Y]),
        ("dice_loss", Y),
    ],
)
def test_class_weights_promote_no_rank(loss, targets):
    loss = fz.losses.get(loss, class_weights=[1.0, 2.0, 3.0])
    tokens = LOGITS.reshape(4, 4, 3), np.reshape(targets, (4, 4, *np.shape(targets)[1:]))
    for batch in ((LOGITS, targets), tokens):
        assert jax.eval_shape(loss.values, *batch).shape == batch[0].shape[:1]


@pytest.mark.usefixtures("no_promotion")
def test_batch_losses_and_metrics_promote_no_rank():
    jax.eval_shape(fz.losses.get("generalized_dice"), LOGITS, Y)
    for name, targets in (("top2_accuracy", Y), ("r2", LOGITS + 1), ("perplexity", Y)):
        state = jax.eval_shape(fz.metrics.get(name).update, LOGITS, targets)
        jax.eval_shape(lambda a: a.merge(a).compute(), state)


@pytest.mark.usefixtures("no_promotion")
def test_steps_of_recurrent_models_promote_no_rank():
    model = fz.models.get("lstm", num_classes=3, vocab_size=9, hidden_size=4, input_shape=(5,))
    state = fz.create_train_state(model, augment=None)
    batch = Batch(jnp.zeros((4, 5), jnp.int32), jnp.zeros(4, jnp.int32), jnp.ones(4))
    jax.eval_shape(update, state, batch)
    pixels = fz.create_train_state(
        fz.models.get("cnn", num_classes=3, input_shape=(8, 8, 3), features=(4,))
    )
    batch = Batch(jnp.zeros((4, 8, 8, 3), jnp.uint8), jnp.zeros(4, jnp.int32))
    jax.eval_shape(update, pixels, batch)


# --- meshes ----------------------------------------------------------------------------------


def on_mesh(tree, kind, *spec):
    mesh = jax.make_mesh((1,), ("d",), axis_types=(kind,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(*spec)))


def test_batches_on_explicit_meshes_meet_states_that_are_not():
    batch = on_mesh((X, Y), AxisType.Explicit, "d")
    assert is_explicit(batch)
    assert not is_explicit(beside(batch, jnp.zeros(())))
    assert beside(batch, batch) is batch
    assert beside((X, Y), batch)[0] is X
    model = mlp().init(0)
    state = fz.create_train_state(model)
    expected = fz.train_step(state, (X, Y))[1].compute()
    assert fz.train_step(state, batch)[1].compute() == pytest.approx(expected)
    assert fz.eval_step(state, batch).compute() == pytest.approx(expected)
    np.testing.assert_allclose(fz.predict_step(state, batch[0]), model(X), atol=1e-6)
    # What was placed there by hand stays there.
    placed = on_mesh(state, AxisType.Explicit)
    after, metrics = fz.train_step(placed, batch)
    assert is_explicit(after.params)
    assert metrics.compute() == pytest.approx(expected)


def test_the_loop_takes_batches_on_explicit_meshes():
    model = mlp().init(0)
    batch = on_mesh((X, Y), AxisType.Explicit, "d")
    losses = [
        fz.Trainer(model).fit(data, batch_size=16, shuffle=False, progress=False)["loss"]
        for data in ([batch], batch, (X, Y))
    ]
    assert losses[0] == pytest.approx(losses[2])
    assert losses[1] == pytest.approx(losses[2])
    np.testing.assert_allclose(fz.Trainer(model).predict(batch[0]), model(X), atol=1e-6)
    assert model.predict(batch[0]).indices.shape == (16, 3)
    features = fz.transfer.extract_features(model, [batch], progress=False)
    assert features.inputs.shape == (16, 4)
