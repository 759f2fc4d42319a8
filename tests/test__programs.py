"""Programs are shared, let go in time, and given back by ``clear_caches``."""

import gc
import os
import signal
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._programs import Jitted
from flaxzoo.training import compiled, step


class Scale(nn.Module):
    by: float = 1.0


def scaled(module, x):
    return x * module.by


def jitted(size=3):
    return Jitted(scaled, lambda module, *_: (module,), size=size, static_argnums=0)


def test_equal_keys_share_a_program():
    f = jitted()
    x = jnp.ones(3)
    for by in (1.0, 2.0, 1.0):
        # Equal modules that are different objects, more of them than an entry remembers.
        for _ in range(20):
            assert f(Scale(by), x)[0] == by
    assert f._cache_size() == 2
    # One key, two shapes.
    f(Scale(1.0), jnp.ones(4))
    assert f._cache_size() == 3
    assert f.lower(Scale(3.0), x).as_text().startswith("module @jit_scaled")


def test_what_was_not_used_lately_is_let_go():
    f = jitted()
    x = jnp.ones(3)
    first = weakref.ref(f.function(Scale(0.0), x).__wrapped__)
    kept = weakref.ref(f.function(Scale(1.0), x).__wrapped__)
    for by in range(2, 8):
        f(Scale(1.0), x)
        f(Scale(float(by)), x)
    gc.collect()
    assert first() is None
    assert kept() is not None
    assert f.size == 3
    # It compiled each once.
    assert f._cache_size() == 7


def test_whoever_goes_round_more_than_fit_makes_room():
    f = jitted()
    x = jnp.ones(3)
    for _ in range(4):
        for by in range(5):
            assert f(Scale(float(by)), x)[0] == by
    assert f.size == 6
    assert f._cache_size() < 10


def test_what_cannot_be_hashed_is_for_jit_to_refuse():
    with pytest.raises(ValueError, match="unhashable|hashable"):
        jitted()(Scale([1.0]), jnp.ones(3))


def test_several_threads():
    f = jitted()
    x = jnp.ones(3)

    def call(i):
        return [float(f(Scale(float((i + k) % 5)), x)[0]) for k in range(30)]

    with ThreadPoolExecutor(4) as pool:
        for i, values in enumerate(pool.map(call, range(4))):
            assert values == [(i + k) % 5 for k in range(30)]


def test_a_loss_that_is_defined_again_and_again_is_let_go():
    model = fz.models.get("mlp", num_classes=3, input_shape=(4,), features=(4,)).init(0)
    x, y = np.ones((2, 4), np.float32), np.zeros((2, 3), np.float32)
    functions = []
    size, step._train_step.size = step._train_step.size, 2
    try:
        for _ in range(4):
            state = fz.create_train_state(model, loss=lambda a, b: (a - b) ** 2, optimizer="sgd")
            fz.train_step(state, (x, y))
            functions.append(weakref.ref(step._train_step.function(state).__wrapped__))
        gc.collect()
        assert [function() is not None for function in functions] == [False, False, True, True]
    finally:
        step._train_step.size = size


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no fork")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("use", ["call", "init", "train_step"])
def test_a_forked_process_says_why_it_cannot_compute(use):
    """It hung, for good: JAX's threads stay with the parent."""
    model = fz.models.get("mlp", num_classes=3, input_shape=(4,), features=(4,)).init(0)
    state, x = fz.create_train_state(model), np.ones((2, 4), np.float32)
    model(x)
    uses = {
        "call": lambda: model(x),
        "init": lambda: model.init(1),
        "train_step": lambda: fz.train_step(state, (x, np.zeros(2, int))),
    }
    child = os.fork()
    if child == 0:
        try:
            uses[use]()
        except RuntimeError as error:
            os._exit(0 if '"spawn"' in str(error) else 2)
        os._exit(1)
    for _ in range(300):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("it hangs")
    assert os.waitstatus_to_exitcode(status) == 0
    # And here all goes on.
    model(x)


def test_clear_caches():
    model = fz.models.get("mlp", num_classes=3, input_shape=(4,), features=(5,)).init(0)
    x, y = np.ones((4, 4), np.float32), np.arange(4) % 3
    trainer = fz.Trainer(model, optimizer="sgd")
    trainer.fit((x, y), batch_size=2, progress=False)
    function = weakref.ref(compiled.fit_step.function(compiled.Flat.of(trainer.state)))
    before = np.asarray(trainer.model(x))
    fz.clear_caches()
    assert function() is None
    # All that was there is usable, and gives the same numbers.
    np.testing.assert_array_equal(trainer.model(x), before)
    trainer.fit((x, y), batch_size=2, progress=False)
    again = fz.Trainer(model, optimizer="sgd")
    again.fit((x, y), batch_size=2, epochs=2, progress=False)
    jax.tree.map(np.testing.assert_array_equal, trainer.state.params, again.state.params)
