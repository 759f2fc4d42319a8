"""Schedules by name span the ``fit`` that they are trained in."""

import warnings

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.training.rates import idle_updates

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 32)
# Two updates an epoch.
FIT = {"batch_size": 16, "progress": False}


def trainer_for(**settings):
    model = fz.models.get("mlp", num_classes=3, input_shape=(6,), features=(4,))
    settings = {"learning_rate": "linear", "schedule_options": {"peak_value": 0.1}, **settings}
    return fz.Trainer(model, **settings)


class Rates(fz.callbacks.Callback):
    """The rate of every update, and an end after some of them."""

    def __init__(self, stop=None):
        self.seen, self.stop = [], stop

    def on_epoch_begin(self, trainer, epoch):
        if not self.seen:
            self.seen.append(trainer.learning_rate)

    def on_step_end(self, trainer, step, metrics):
        self.seen.append(trainer.learning_rate)
        trainer.stop_training = step == self.stop


def fit(trainer, epochs, stop=None, **options):
    rates = Rates(stop)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trainer.fit((X, Y), epochs=epochs, callbacks=[rates], **{**FIT, **options})
    return pytest.approx(rates.seen)


def test_a_new_fit_begins_the_schedule_anew():
    trainer = trainer_for()
    assert fit(trainer, 2) == [0.1, 0.075, 0.05, 0.025, 0.0]
    before = jax.tree.map(np.asarray, trainer.model.variables["params"])
    assert fit(trainer, 1) == [0.1, 0.05, 0.0]
    after = trainer.model.variables["params"]
    assert np.abs(before["head"]["fc"]["kernel"] - after["head"]["fc"]["kernel"]).max() > 0.01


@pytest.mark.parametrize(
    "settings",
    [{"learning_rate": {"*": 1.0, "head": "linear"}}, {"layer_decay": 0.5}, {"freeze": "backbone"}],
    ids=["by_group", "layer_decay", "frozen"],
)
def test_divided_optimizers_begin_it_anew(settings):
    trainer = trainer_for(**settings)
    trainer.build(X, total_steps=4)
    trainer._set_schedule(3, 2)
    rate = trainer.state.optimizer.learning_rate
    assert [float(rate(i)) for i in range(2, 6)] == pytest.approx([0.1, 0.1, 0.05, 0.0])


def test_accumulated_steps_count_as_updates():
    trainer = trainer_for(accumulate_steps=2)
    fit(trainer, 2)
    assert fit(trainer, 2) == [0.1, 0.1, 0.05, 0.05, 0.0]


def test_moments_and_counts_stay():
    trainer = trainer_for(optimizer="adam", ema_decay=0.9)
    fit(trainer, 1)
    before = jax.tree.map(np.asarray, trainer.state.opt_state)
    trainer._set_schedule(2, 5)
    jax.tree.map(np.testing.assert_array_equal, before, trainer.state.opt_state)
    assert trainer.learning_rate == pytest.approx(0.1)


def test_resume_stretches_it_over_the_whole_run(tmp_path):
    other = trainer_for(run_dir=tmp_path)
    fit(other, 1)
    other.save(tmp_path)
    same = trainer_for(run_dir=tmp_path / "none")
    fit(same, 1)
    rates = fit(same, 2, resume=True)
    assert rates == [0.05, 0.025, 0.0]
    assert fit(trainer_for(run_dir=tmp_path), 2, resume=True) == rates.expected
    assert fit(fz.Trainer.load(tmp_path), 2, resume=True) == rates.expected


def test_a_loaded_run_goes_on_until_the_end_of_its_schedule(tmp_path):
    trainer = trainer_for()
    fit(trainer, 3, stop=2)
    trainer.save(tmp_path)
    loaded = fz.Trainer.load(tmp_path)
    assert fit(loaded, 1) == [0.1 * 4 / 6, 0.05, 0.1 * 2 / 6]
    assert fit(loaded, 1) == [0.1 * 2 / 6, 0.1 / 6, 0.0]
    assert fit(loaded, 1) == [0.1, 0.05, 0.0]
    past = fz.Trainer.load(tmp_path)
    with pytest.warns(UserWarning, match=r"is 0 from update 6 on, and this fit goes on to 8"):
        past.fit((X, Y), epochs=3, **FIT)


@pytest.mark.full_compiler
def test_a_resumed_second_fit_is_bitwise_the_same(tmp_path, assert_trees_equal):
    def run(directory, stop=None):
        trainer = trainer_for(run_dir=directory)
        fit(trainer, 1)
        fit(trainer, 2, stop=stop)
        return trainer

    straight, cut = run(tmp_path / "straight"), run(tmp_path / "cut", stop=3)
    cut.save(tmp_path / "cut")
    resumed = trainer_for(run_dir=tmp_path / "cut")
    assert fit(resumed, 3, resume=True) == [0.075, 0.05, 0.025, 0.0]
    assert_trees_equal(resumed.state.params, straight.state.params)
    loaded = fz.Trainer.load(tmp_path / "cut")
    assert loaded.learning_rate == pytest.approx(0.075)


@pytest.mark.parametrize("total", [4, 400])
def test_a_length_of_ones_own_is_kept(total):
    trainer = trainer_for(
        learning_rate=fz.schedules.get("linear", total_steps=total), schedule_options=None
    )
    rates = fit(trainer, 2).expected
    if total == 400:
        assert fit(trainer, 2).expected[0] == rates[-1]
        return
    with pytest.warns(UserWarning, match=r"rate is 0 from update 4 on.*spans each fit"):
        trainer.fit((X, Y), epochs=2, **FIT)


def test_what_is_said_of_idle_updates():
    def said(rate, first, end, **options):
        return idle_updates(fz.optimizers.get("sgd", learning_rate=rate, **options), first, end)

    cosine = fz.schedules.get("cosine", total_steps=100)
    assert "from update 100 on, and this fit goes on to 200" in said(cosine, 0, 200)
    assert "from update 150 on" in said(cosine, 300, 400, accumulate_steps=2)
    for rate in (0.0, cosine, fz.schedules.get("cosine", total_steps=100, end_value=1e-4)):
        assert not said(rate, 0, 102)
    assert not said(fz.schedules.get("cosine", total_steps=100, end_value=1e-4), 0, 900)
    gone = lambda step: max(0.0, 1 - step / 10)  # noqa: E731
    assert "from update 10 on" in said(gone, 10, 20)
    assert not said(gone, 0, 20)
