"""``augment=``: what the training step does to a batch before anything else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError, UnknownNameError
from flaxzoo.losses.soft import with_soft_targets


def shift(key, batch):
    """Adds one random number per step to all inputs."""
    return batch._replace(inputs=batch.inputs + jax.random.uniform(key))


def mix(key, batch):
    """Half of each example and half of the next one, with soft targets."""
    hot = jax.nn.one_hot(batch.targets, 10)
    mixed = [0.6 * x + 0.4 * jnp.roll(x, 1, axis=0) for x in (batch.inputs, hot)]
    return batch._replace(inputs=mixed[0], targets=mixed[1])


def model(**fields):
    return fz.models.get("mlp", input_shape=(8, 8, 1), features=(5,), **fields).init(0)


def state_of(augment, **options):
    return fz.create_train_state(model(), optimizer="sgd", augment=augment, **options)


def test_the_step_sees_the_augmented_batch(digits, assert_trees_equal):
    (images, labels), _ = digits
    batch = images[:16], labels[:16]
    state, plain = state_of(shift), state_of(None)
    moved = []
    for _ in range(2):
        key = jax.random.fold_in(jax.random.fold_in(state.rng, state.step), 2)
        amount = float(jax.random.uniform(key))
        moved.append(amount)
        state, metrics = fz.train_step(state, batch)
        plain, expected = fz.train_step(plain, (batch[0] + np.float32(amount), batch[1]))
        assert metrics.compute() == pytest.approx(expected.compute(), rel=1e-6)
    assert moved[0] != moved[1]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        state.params,
        plain.params,
    )


def test_evaluation_does_not_augment(digits):
    _, test = digits
    assert (
        fz.eval_step(state_of(shift), test).compute()
        == fz.eval_step(state_of(None), test).compute()
    )


def test_the_draws_depend_on_seed_and_step_alone(digits, assert_trees_equal):
    (images, labels), _ = digits
    batch = images[:16], labels[:16]
    first, second = (fz.train_step(state_of(shift, rng=3), batch)[0] for _ in range(2))
    assert_trees_equal(first, second)


def test_soft_targets_change_the_loss_and_keep_the_metrics(digits):
    (images, labels), _ = digits
    images, labels = images[:16], labels[:16]
    state = state_of(mix)
    _, metrics = fz.train_step(state, (images, labels))
    key = jax.random.key(0)
    mixed = mix(key, fz.data.Batch(jnp.asarray(images), jnp.asarray(labels)))
    logits = state.module.apply(state.variables, mixed.inputs)
    expected = -(mixed.targets * jax.nn.log_softmax(logits)).sum(-1).mean()
    found = metrics.compute()
    assert found["loss"] == pytest.approx(float(expected), rel=1e-5)
    # The larger share is the example's own label.
    assert found["accuracy"] == pytest.approx(float((logits.argmax(-1) == labels).mean()))


def test_label_smoothing_goes_along(digits):
    labels = digits[0][1]
    loss = fz.losses.get("softmax_cross_entropy_with_integer_labels", label_smoothing=0.1)
    soft = with_soft_targets(loss)
    assert soft == fz.losses.get("softmax_cross_entropy", label_smoothing=0.1)
    logits = np.random.default_rng(0).normal(size=(4, 10)).astype(np.float32)
    hot = np.eye(10, dtype=np.float32)[labels[:4]]
    np.testing.assert_allclose(soft(logits, hot), loss(logits, labels[:4]), rtol=1e-5)


def test_losses_without_a_soft_form_say_so(digits):
    (images, labels), _ = digits
    state = state_of(mix, loss="multiclass_sparsemax_loss")
    with pytest.raises(ShapeError, match="takes class indices, but the targets are shares"):
        fz.train_step(state, (images[:16], labels[:16]))


def test_names_and_functions(digits, assert_trees_equal):
    with pytest.raises(UnknownNameError, match="flip"):
        state_of("flipp")
    with pytest.raises(UnknownNameError, match="flip"):
        fz.Trainer(model(), augment="flipp")
    with pytest.raises(TypeError, match="augmentation is a name"):
        state_of(3)


def test_mixup_by_name_knows_the_number_of_classes(digits):
    train, test = digits
    trainer = fz.Trainer(model(), learning_rate=3e-3, augment="mixup", metrics=["accuracy"])
    history = trainer.fit(train, epochs=3, validation_data=test, progress=False)
    assert history["val_loss"][-1] < history["val_loss"][0]


def test_resumed_in_mid_epoch(tmp_path, digits, assert_trees_equal):
    train, _ = digits

    def trainer(name):
        return fz.Trainer(model(), augment="shift", run_dir=tmp_path / name)

    class Stop(fz.callbacks.Callback):
        def on_step_end(self, trainer, step, metrics):
            trainer.stop_training = step == 10

    whole = trainer("whole")
    whole.fit(train, epochs=2, progress=False)
    part = trainer("part")
    part.fit(train, epochs=2, progress=False, callbacks=[Stop()])
    part.save(tmp_path / "part")
    rest = fz.Trainer.load(tmp_path / "part")
    rest.fit(train, epochs=2, progress=False, resume=True)
    assert_trees_equal(whole.state, rest.state)


def test_a_reconstruction_is_compared_with_what_was_augmented(digits):
    images = digits[0][0][:16]
    autoencoder = fz.models.get("autoencoder", input_shape=(8, 8, 1)).init(0)
    state = fz.create_train_state(autoencoder, augment=shift)
    _, metrics = fz.train_step(state, images)
    amount = jax.random.uniform(jax.random.fold_in(jax.random.fold_in(state.rng, 0), 2))
    moved = images + np.asarray(amount)
    expected = fz.eval_step(state, (moved, moved)).compute()
    assert metrics.compute()["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    trainer = fz.Trainer(autoencoder, augment=shift)
    trainer.fit(images, epochs=1, batch_size=12, progress=False)
    # Targets that were given stay.
    _, metrics = fz.train_step(state, (images, images))
    outputs = state.module.apply(state.variables, moved)
    assert metrics.compute()["loss"] == pytest.approx(
        float(((outputs - images) ** 2).mean()), rel=1e-4
    )


def test_one_output_is_mixed_as_it_is(rng):
    network = fz.models.get("mlp", input_shape=(8, 8, 1), features=(5,), num_classes=1)
    state = fz.create_train_state(network, augment="mixup", loss="mean_squared_error")
    batch = rng.random((8, 8, 8, 1), np.float32), rng.random((8, 1), np.float32)
    _, metrics = fz.train_step(state, batch)
    assert 0 < metrics.compute()["loss"] < 10


def test_what_is_no_batch_is_refused(digits):
    (images, labels), _ = digits
    state = state_of(lambda key, batch: batch.inputs)
    with pytest.raises(TypeError, match="augment must return a Batch"):
        fz.train_step(state, (images[:16], labels[:16]))


def test_an_empty_list_is_nothing():
    assert state_of([]).augment is None


def test_fields_that_equality_does_not_know_are_refused():
    class Add(fz.augment.Augmentation):
        def __init__(self, amount):
            object.__setattr__(self, "amount", amount)

        def images(self, key, images):
            return images + self.amount

    with pytest.raises(TypeError, match=r"Add holds amount, .*dataclass\(frozen=True\)"):
        state_of(Add(1.0))
