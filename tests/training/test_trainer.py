import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import CheckpointError, DataError, ShapeError, UnknownNameError
from flaxzoo.training import compiled
from flaxzoo.training.feed import Feed
from flaxzoo.training.history import History

SHAPE = (8, 8, 1)


def mlp(**config):
    config = {"num_classes": 10, "input_shape": SHAPE, "features": (16,), **config}
    return fz.models.get("mlp", **config)


def batches(data, size):
    images, labels = data
    return [(images[i : i + size], labels[i : i + size]) for i in range(0, len(images), size)]


def test_fit_learns_and_records(digits):
    train, test = digits
    trainer = fz.Trainer(mlp(features=(64,)), learning_rate=3e-3)
    history = trainer.fit(train, epochs=12, batch_size=32, validation_data=test, progress=False)
    assert history.epochs == list(range(12))
    assert set(history) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert history["val_accuracy"][-1] > 0.8
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert trainer.evaluate(test)["accuracy"] == pytest.approx(history["val_accuracy"][-1])
    logits = trainer.predict(test[0], batch_size=33)
    assert np.mean(logits.argmax(-1) == test[1]) == pytest.approx(history["val_accuracy"][-1])
    assert trainer.step == 12 * 8
    assert "val_accuracy" in str(history)


def test_fit_is_the_steps_by_hand(digits, assert_trees_equal):
    """With a short last batch, the loop equals train_step on the batches as they are."""
    train, _ = digits
    data = (train[0][:70], train[1][:70])
    model = mlp(norm="batch").init(rng=0)
    trainer = fz.Trainer(model, optimizer="sgd", learning_rate=0.1, seed=3)
    trainer.fit(data, epochs=2, batch_size=32, shuffle=False, progress=False)
    state = fz.create_train_state(model, optimizer="sgd", learning_rate=0.1, rng=3)
    for _ in range(2):
        for batch in batches(data, 32):
            state, _ = fz.train_step(state, batch)
    for a, b in zip(jax.tree.leaves(trainer.state), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_the_last_batch_is_exact_and_nothing_recompiles(digits):
    train, test = digits
    trainer = fz.Trainer(mlp(features=(7,)))
    before = compiled.fit_step._cache_size(), compiled.evaluate_and_total._cache_size()
    data = (train[0][:100], train[1][:100])
    trainer.fit(data, epochs=2, batch_size=32, validation_data=test, progress=False)
    assert compiled.fit_step._cache_size() - before[0] == 1
    assert compiled.evaluate_and_total._cache_size() - before[1] == 1
    whole = trainer.evaluate(test, batch_size=100)
    parts = trainer.evaluate(test, batch_size=33)
    assert parts["accuracy"] == whole["accuracy"]
    assert parts["loss"] == pytest.approx(whole["loss"], rel=1e-6)


def test_data_in_every_form_gives_the_same_run(digits):
    train, _ = digits
    data = (train[0][:64], train[1][:64])
    model = mlp().init(rng=0)

    class Loader:
        """What a torch DataLoader looks like from outside."""

        def __len__(self):
            return 2

        def __iter__(self):
            return iter(batches(data, 32))

    def run(train_data, **options):
        trainer = fz.Trainer(model, seed=0)
        trainer.fit(train_data, epochs=2, batch_size=32, shuffle=False, progress=False, **options)
        return trainer.state.params["head"]["fc"]["kernel"]

    expected = run(data)
    endless = (batch for _ in iter(int, 1) for batch in batches(data, 32))
    for form, options in (
        ({"image": data[0], "label": data[1]}, {}),
        (batches(data, 32), {}),
        (Loader(), {}),
        (lambda: iter(batches(data, 32)), {}),
        ([{"image": x, "label": y} for x, y in batches(data, 32)], {}),
        (endless, {"steps_per_epoch": 2}),
        (fz.data.ArrayDataset(data, 32, shuffle=False), {}),
        (jax.tree.map(jnp.asarray, data), {}),
    ):
        np.testing.assert_allclose(run(form, **options), expected, atol=1e-6)


def test_sources_may_reuse_their_buffer(digits):
    train, _ = digits
    # A product over many rows keeps the step busy while the source goes on.
    images = np.repeat(train[0], 4, axis=0)
    labels = np.repeat(train[1], 4)

    def source():
        # Aligned, as what jax takes over without a copy.
        raw = np.zeros(480 * 64 + 16, np.float32)
        offset = (-raw.ctypes.data // 4) % 16
        buffer = raw[offset : offset + 480 * 64].reshape(480, 8, 8, 1)
        for start in range(0, 960, 480):
            buffer[:] = images[start : start + 480]
            yield buffer, labels[start : start + 480]
            buffer[:] = np.nan

    model = mlp(features=(512, 512)).init(rng=0)
    reused = fz.Trainer(model)
    reused.fit(source, epochs=2, progress=False)
    plain = fz.Trainer(model)
    plain.fit((images, labels), epochs=2, batch_size=480, shuffle=False, progress=False)
    np.testing.assert_allclose(reused.history["loss"], plain.history["loss"], rtol=1e-5)


def test_grain(digits):
    import grain

    train, _ = digits
    images, labels = train[0][:64], train[1][:64]
    examples = grain.MapDataset.source(range(64)).map(
        lambda i: {"image": images[i], "label": labels[i]}
    )
    trainer = fz.Trainer(mlp().init(rng=0))
    trainer.fit(examples.batch(32).to_iter_dataset(), epochs=2, progress=False)
    arrays = fz.Trainer(mlp().init(rng=0))
    arrays.fit((images, labels), epochs=2, batch_size=32, shuffle=False, progress=False)
    np.testing.assert_allclose(trainer.history["loss"], arrays.history["loss"], rtol=1e-5)


def test_an_iterator_can_be_read_once(digits):
    train, _ = digits
    trainer = fz.Trainer(mlp())
    with pytest.raises(DataError, match="gave no batch in epoch 2: an iterator can be read once"):
        trainer.fit(iter(batches(train, 32)), epochs=2, progress=False)


def test_epochs_of_arrays_may_have_any_length(digits):
    train, _ = digits
    feed = Feed(train, batch_size=100, steps_per_epoch=2)
    images = [batch.inputs for epoch in range(3) for batch in feed.epoch(epoch)]
    assert len(images) == 6
    # Batches of 100, 100 and 40 (filled up), twice over: the data's own epochs go on.
    np.testing.assert_array_equal(images[0], train[0][:100])
    np.testing.assert_array_equal(images[2][:40], train[0][200:])
    np.testing.assert_array_equal(images[3], train[0][:100])


def test_a_second_fit_goes_on(digits):
    train, _ = digits
    a = fz.Trainer(mlp().init(rng=0))
    a.fit(train, epochs=1, progress=False)
    a.fit(train, epochs=2, progress=False)
    b = fz.Trainer(mlp().init(rng=0))
    b.fit(train, epochs=3, progress=False)
    assert a.history.epochs == [0, 1, 2]
    np.testing.assert_array_equal(a.history["loss"], b.history["loss"])


def test_the_users_arrays_are_left_alone(digits):
    train, _ = digits
    model = mlp().init(rng=0)
    kept = jax.tree.map(np.asarray, model.variables)
    trainer = fz.Trainer(model)
    trainer.fit(train, epochs=1, progress=False)
    mine = trainer.model
    trainer.fit(train, epochs=1, progress=False)
    jax.tree.map(np.testing.assert_array_equal, kept, model.variables)
    assert np.isfinite(mine(train[0][:2])).all()


def test_schedules_by_name_span_the_fit(digits):
    train, _ = digits
    trainer = fz.Trainer(
        mlp(), learning_rate="cosine", schedule_options={"peak_value": 0.01, "warmup_steps": 2}
    )
    rates = []
    record = fz.callbacks.LambdaCallback(
        on_step_end=lambda trainer, step, metrics: rates.append(trainer.learning_rate)
    )
    trainer.fit(train, epochs=2, batch_size=60, callbacks=[record], progress=False)
    assert max(rates) == pytest.approx(0.01)
    assert rates[-1] < 1e-3
    with pytest.raises(DataError, match="pass steps_per_epoch"):
        fz.Trainer(mlp(), learning_rate="cosine").fit(
            lambda: iter(batches(train, 32)), progress=False
        )


def test_early_stopping_and_lambda_callbacks(digits):
    train, test = digits
    trainer = fz.Trainer(mlp(), learning_rate=0.0)
    seen = []
    callbacks = [
        fz.callbacks.EarlyStopping(patience=1),
        fz.callbacks.LambdaCallback(on_epoch_end=lambda t, epoch, logs: seen.append(epoch)),
        fz.callbacks.LearningRateMonitor(),
    ]
    trainer.fit(train, epochs=20, validation_data=test, callbacks=callbacks, progress=False)
    assert seen == [0, 1, 2]
    assert trainer.history["learning_rate"] == [0.0] * 3


def test_terminate_on_nan_says_where(digits):
    train, _ = digits
    trainer = fz.Trainer(mlp(), optimizer="sgd", learning_rate=1e38)
    stop = fz.callbacks.TerminateOnNaN()
    with pytest.warns(Warning, match=r"not finite|non-finite|NaN|inf"):
        trainer.fit(train, epochs=5, callbacks=[stop], progress=False)
    assert trainer.step < 5 * 8
    assert stop.report is not None
    assert "loss" in str(stop.report)


def test_losses_over_a_whole_batch_are_not_padded(digits):
    train, _ = digits
    data = (train[0][:70], train[1][:70])
    sizes = []

    def whole(predictions, targets):
        sizes.append(len(targets))
        return -jnp.mean(jax.nn.log_softmax(predictions)[jnp.arange(len(targets)), targets])

    model = mlp().init(rng=0)
    a = fz.Trainer(model, loss=whole, metrics=[])
    a.fit(data, epochs=1, batch_size=32, shuffle=False, progress=False)
    assert 6 in sizes
    b = fz.Trainer(model, metrics=[])
    b.fit(data, epochs=1, batch_size=32, shuffle=False, progress=False)
    for x, y in zip(jax.tree.leaves(a.state.params), jax.tree.leaves(b.state.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_per_example_gradients_in_the_loop(digits):
    train, _ = digits
    trainer = fz.Trainer(
        mlp(), optimizer="dpsgd", learning_rate=0.1, l2_norm_clip=1.0, noise_multiplier=0.1, seed=0
    )
    history = trainer.fit((train[0][:70], train[1][:70]), epochs=3, progress=False)
    assert history["loss"][-1] < history["loss"][0]


def test_summary_marks_what_trains():
    trainer = fz.Trainer(mlp().init(), freeze="backbone")
    summary = trainer.summary()
    assert summary.trainable == 16 * 10 + 10
    assert "MLP (frozen)" in str(summary)
    assert "(170 trainable)" in str(summary)


def test_hyperparameters_are_flat():
    values = fz.Trainer(mlp(), optimizer="adamw", metrics=["accuracy"], weight_decay=0.1)
    assert values.hyperparameters() == {
        "model": "mlp",
        "seed": 0,
        "optimizer": "adamw",
        "learning_rate": 1e-3,
        "metrics": "accuracy",
        "weight_decay": 0.1,
    }


@pytest.mark.parametrize(
    ("data", "options", "match"),
    [
        ((np.zeros((0, 8, 8, 1)), np.zeros(0, int)), {}, "no examples|empty"),
        ((np.zeros((4, 8, 8, 1)), np.zeros(4, int)), {}, "32 is larger than the data: 4"),
        ([], {}, "train_data is empty"),
        (3, {}, "train_data must be arrays"),
        ((np.full((32, 8, 8, 1), np.nan), np.zeros(32, int)), {}, "inputs.*nan"),
        ((np.zeros((32, 8, 8, 1)), np.full(32, 10)), {}, "10"),
        ((np.zeros((32, 8, 8, 1)), np.zeros(31, int)), {}, "must agree"),
    ],
)
def test_bad_data(data, options, match):
    with pytest.raises((DataError, ShapeError), match=match):
        fz.Trainer(mlp()).fit(data, progress=False, **options)


def test_bad_arguments(digits, tmp_path):
    train, _ = digits
    with pytest.raises(ValueError, match="epochs must be an int of at least 1"):
        fz.Trainer(mlp()).fit(train, epochs=0)
    with pytest.raises(TypeError, match="callbacks must hold"):
        fz.Trainer(mlp()).fit(train, callbacks=[print])
    with pytest.raises(UnknownNameError, match=r"history has no metric 'acc'.*'accuracy'"):
        History([0], {"accuracy": [1.0]})["acc"]
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write to .*file/run"):
        fz.Trainer(mlp(), run_dir=tmp_path / "file" / "run").fit(train)
    with pytest.raises(ValueError, match="resume=True needs"):
        fz.Trainer(mlp()).fit(train, resume=True, progress=False)
    with pytest.raises(KeyError, match="monitors|watches 'val_accuracy'"):
        fz.Trainer(mlp(), run_dir=tmp_path / "run").fit(
            train,
            callbacks=[fz.callbacks.ModelCheckpoint(monitor="val_accuracy")],
            progress=False,
        )


def test_save_and_load(digits, tmp_path):
    train, test = digits
    trainer = fz.Trainer(mlp(), optimizer="adamw", metrics=["accuracy", "top5_accuracy"])
    with pytest.raises(RuntimeError, match="nothing to save"):
        trainer.save(tmp_path / "early")
    trainer.fit(train, epochs=2, progress=False)
    trainer.save(tmp_path / "run")
    loaded = fz.Trainer.load(tmp_path / "run")
    assert loaded.history == trainer.history
    assert loaded.evaluate(test) == trainer.evaluate(test)
    trainer.fit(train, epochs=1, progress=False)
    loaded.fit(train, epochs=1, progress=False)
    np.testing.assert_array_equal(loaded.history["loss"], trainer.history["loss"])


def test_objects_must_be_given_again(digits, tmp_path):
    train, _ = digits

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(10)(x.reshape(x.shape[0], -1))

    def mine(predictions, targets):
        return -jax.nn.log_softmax(predictions)[jnp.arange(len(targets)), targets]

    trainer = fz.Trainer(Net(), loss=mine, metrics=[], freeze=lambda path: path.endswith("bias"))
    trainer.fit(train, progress=False)
    trainer.save(tmp_path)
    with pytest.raises(CheckpointError, match="the model is not from the registry"):
        fz.Trainer.load(tmp_path)
    with pytest.raises(CheckpointError, match="loss, freeze was given as an object"):
        fz.Trainer.load(tmp_path, model=Net())
    again = fz.Trainer.load(
        tmp_path, model=Net(), loss=mine, freeze=lambda path: path.endswith("bias")
    )
    assert again.evaluate(train) == trainer.evaluate(train)


def test_loss_objects_are_saved_by_their_settings(digits, tmp_path):
    train, test = digits
    loss = fz.losses.get("crossentropy", label_smoothing=0.1)
    schedule = fz.schedules.get("cosine", peak_value=0.01, total_steps=100)
    trainer = fz.Trainer(
        mlp(),
        loss=loss,
        metrics=[fz.metrics.get("top_k_accuracy", k=3)],
        optimizer=fz.optimizers.get("lion", learning_rate=schedule),
    )
    trainer.fit(train, progress=False)
    trainer.save(tmp_path)
    assert fz.Trainer.load(tmp_path).evaluate(test) == trainer.evaluate(test)
    by_schedule = fz.Trainer(mlp(), learning_rate=schedule)
    by_schedule.fit(train, progress=False)
    by_schedule.save(tmp_path / "other")
    assert fz.Trainer.load(tmp_path / "other").learning_rate == by_schedule.learning_rate


def test_load_what_is_no_run(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not a run: it has no trainer.json"):
        fz.Trainer.load(tmp_path)
    (tmp_path / "trainer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not the settings of a flaxzoo run"):
        fz.Trainer.load(tmp_path)


def test_typing_errors_show_before_any_data():
    for options, error, match in (
        ({"optimizer": "adamm"}, KeyError, "unknown optimizer 'adamm'"),
        ({"loss": "xent"}, KeyError, "unknown loss 'xent'"),
        ({"metrics": ["acuracy"]}, KeyError, "unknown metric 'acuracy'"),
        ({"learning_rate": "cosinee"}, KeyError, "unknown schedule 'cosinee'"),
        ({"learning_rate": -1.0}, ValueError, "learning_rate"),
        ({"weight_decy": 0.1}, TypeError, "'weight_decay'"),
    ):
        with pytest.raises(error, match=match):
            fz.Trainer(mlp(), **options)


def test_data_of_another_shape_than_was_asked_for(digits):
    (images, labels), _ = digits
    with pytest.raises(ShapeError, match=r"shape \[B, 8, 8, 1\], for which the model 'mlp'"):
        fz.Trainer(mlp()).fit((np.repeat(images, 3, -1), labels), progress=False)
    cnn = fz.Trainer(fz.Model(fz.models.CNN(10)).init(inputs=images[:1]))
    with pytest.raises(ShapeError, match="conv_0 takes 1 channels, got 3"):
        cnn.fit((np.repeat(images, 3, -1), labels), progress=False)


def test_models_follow_the_shape_of_their_data(digits):
    (images, labels), _ = digits
    trainer = fz.Trainer(fz.models.get("mlp", features=(8,)))
    trainer.fit((images, labels), progress=False)
    assert trainer.model.predict(images[:3]).indices.shape[0] == 3
    assert trainer.model.predict((images[:3] * 255).astype(np.uint8)[..., 0]).labels


def test_predict_takes_what_fit_takes(digits):
    train, _ = digits
    trainer = fz.Trainer(mlp())
    expected = trainer.predict(train[0], batch_size=100)
    for data in (
        fz.data.ArrayDataset(train, 100, shuffle=False),
        batches(train, 100),
        lambda: iter(batches(train, 100)),
        {"image": train[0]},
        train,
    ):
        np.testing.assert_allclose(trainer.predict(data, batch_size=100), expected, atol=1e-6)
    with pytest.raises(DataError, match="empty"):
        trainer.predict(train[0][:0])
    with pytest.raises(DataError, match="inputs.*nan"):
        trainer.predict(np.full((2, 8, 8, 1), np.nan, np.float32))


def test_evaluating_first_does_not_fix_the_schedule(digits):
    train, _ = digits
    trainer = fz.Trainer(mlp(), learning_rate="cosine")
    trainer.evaluate(train)
    trainer.predict(train[0][:2])
    trainer.fit(train, epochs=2, progress=False)
    straight = fz.Trainer(mlp(), learning_rate="cosine")
    straight.fit(train, epochs=2, progress=False)
    rate = trainer.state.optimizer.learning_rate
    assert rate(8) == straight.state.optimizer.learning_rate(8) > 0
    np.testing.assert_array_equal(trainer.history["loss"], straight.history["loss"])


def test_linen_modules_as_they_come(digits):
    (images, labels), _ = digits
    flat = images.reshape(len(images), -1)

    class Training(nn.Module):
        @nn.compact
        def __call__(self, x, training=False):
            x = nn.BatchNorm(use_running_average=not training)(nn.Dense(8)(x))
            return nn.Dense(10)(x)

    class Deterministic(nn.Module):
        @nn.compact
        def __call__(self, x, *, deterministic=True):
            x = nn.BatchNorm(use_running_average=deterministic)(nn.Dense(8)(x))
            return nn.Dense(10)(x)

    class Noisy(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(10)(x + 0.1 * jax.random.normal(self.make_rng("noise"), x.shape))

    for net in (
        nn.Sequential([nn.Dense(8), nn.relu, nn.Dense(10)]),
        Training(),
        Deterministic(),
        Noisy(),
    ):
        trainer = fz.Trainer(net, loss="crossentropy", metrics=["accuracy"])
        history = trainer.fit((flat, labels), epochs=2, progress=False)
        assert history["loss"][1] < history["loss"][0]
        stats = jax.tree.leaves(trainer.state.batch_stats)
        assert not any(np.all(leaf == 0) or np.all(leaf == 1) for leaf in stats)


def test_inputs_of_several_arrays_can_be_loaded(digits, tmp_path):
    (images, labels), _ = digits

    class Two(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            x = inputs["image"].reshape(len(inputs["image"]), -1)
            return nn.Dense(10)(x) + inputs["bias"][:, None]

    data = {"image": images, "bias": np.zeros(len(labels), np.float32), "label": labels}
    trainer = fz.Trainer(Two(), loss="crossentropy", metrics=["accuracy"])
    trainer.fit(data, progress=False)
    trainer.save(tmp_path)
    assert fz.Trainer.load(tmp_path, model=Two()).evaluate(data) == trainer.evaluate(data)


def test_a_fit_after_an_unfinished_epoch_starts_anew(digits):
    train, _ = digits
    trainer = fz.Trainer(mlp())
    stop = fz.callbacks.LambdaCallback(
        on_step_end=lambda t, step, metrics: setattr(t, "stop_training", step == 5)
    )
    trainer.fit(train, epochs=2, callbacks=[stop], progress=False)
    assert len(trainer.history) == 0
    trainer.fit((train[0][:64], train[1][:64]), batch_size=32, progress=False)
    assert trainer.step == 7


def test_repr_and_a_run_of_a_list_of_losses(tmp_path):
    module = nn.Sequential([nn.Dense(2)])
    settings = {"loss": ["crossentropy", fz.losses.L2(1e-3)], "metrics": {"right": "acc"}}
    trainer = fz.Trainer(module, optimizer="Adam", **settings)
    assert repr(trainer) == "Trainer(Sequential, Adam, epoch 0, step 0)"
    data = np.ones((6, 3), np.float32), np.arange(6) % 2
    history = trainer.fit(data, epochs=2, batch_size=3, progress=False, validation_data=data)
    assert list(history.keys()) == ["loss", "right", "val_loss", "val_right"]
    assert repr(trainer) == "Trainer(Sequential, Adam, epoch 2, step 4)"
    trainer.save(tmp_path)
    again = fz.Trainer.load(tmp_path, model=module)
    assert again.state.loss == fz.losses.get("crossentropy") + fz.losses.l2(1e-3)
    assert again.state.metrics == trainer.state.metrics
