"""A trainer that others look at while it trains."""

import threading

import jax
import numpy as np
import pytest

import flaxzoo as fz

X = np.random.default_rng(0).random((16, 4), np.float32)
Y = np.arange(16) % 3


def mlp(**config):
    return fz.models.get("mlp", num_classes=3, input_shape=(4,), features=(8,), **config)


class WhileFitting:
    """Runs a function in another thread, again and again, for as long as ``fit`` takes."""

    def __init__(self, function):
        self.results, self.errors = [], []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(function,))

    def _run(self, function):
        while not self._stop.is_set():
            try:
                self.results.append(function())
            except Exception as error:
                self.errors.append(error)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.mark.parametrize("steps_per_call", [1, 3])
def test_what_another_thread_reads_is_a_whole_step(steps_per_call):
    trainer = fz.Trainer(mlp().init(0), optimizer="sgd", steps_per_call=steps_per_call)
    params = {0: jax.tree.map(np.array, trainer.state.params)}
    note = fz.callbacks.LambdaCallback(
        on_step_end=lambda trainer, step, metrics: params.update(
            {step: jax.tree.map(np.array, trainer.state.params)}
        )
    )

    def read():
        state = trainer.state
        return int(state.step), jax.tree.map(np.array, state.params)

    with WhileFitting(read) as other:
        trainer.fit((X, Y), epochs=8, batch_size=4, callbacks=[note], progress=False)
    assert not other.errors
    for step, seen in other.results:
        jax.tree.map(np.testing.assert_array_equal, seen, params[step])


@pytest.mark.parametrize(
    "use",
    [
        lambda trainer, _: trainer.model(X),
        lambda trainer, _: trainer.evaluate((X, Y)),
        lambda trainer, _: trainer.predict(X),
        lambda trainer, _: (trainer.summary(), trainer.learning_rate, trainer.position()),
    ],
    ids=["model", "evaluate", "predict", "summary"],
)
def test_a_trainer_is_used_while_it_trains(use, tmp_path):
    trainer = fz.Trainer(mlp().init(0))
    use(trainer, tmp_path)
    with WhileFitting(lambda: use(trainer, tmp_path)) as other:
        history = trainer.fit((X, Y), epochs=10, batch_size=4, progress=False)
    assert not other.errors
    alone = fz.Trainer(mlp().init(0)).fit((X, Y), epochs=10, batch_size=4, progress=False)
    assert history.to_json() == alone.to_json()


def test_a_run_saved_by_another_thread_is_of_one_step(tmp_path):
    trainer = fz.Trainer(mlp().init(0))
    saved = []

    def save(trainer, step, metrics):
        if step == 6:
            thread = threading.Thread(target=lambda: saved.append(trainer.save(tmp_path)))
            thread.start()
            thread.join(60)

    callback = fz.callbacks.LambdaCallback(on_step_end=save)
    trainer.fit((X, Y), epochs=3, batch_size=4, callbacks=[callback], progress=False)
    assert len(saved) == 1
    again = fz.Trainer.load(tmp_path)
    assert again.step == int(again.state.step) == 6


def test_one_thread_trains_at_a_time():
    trainer = fz.Trainer(mlp().init(0))
    errors = []

    def fit_too(trainer, step, metrics):
        def fit():
            try:
                trainer.fit((X, Y), batch_size=16, progress=False)
            except RuntimeError as error:
                errors.append(str(error))

        thread = threading.Thread(target=fit)
        thread.start()
        thread.join(60)

    callback = fz.callbacks.LambdaCallback(on_step_end=fit_too)
    trainer.fit((X, Y), batch_size=16, callbacks=[callback], progress=False)
    assert len(errors) == 1
    assert "runs in another thread" in errors[0]
    # And afterwards any thread may.
    fit_too(trainer, 0, None)
    assert len(errors) == 1
    assert trainer.step == 2
