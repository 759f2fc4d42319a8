import os
import subprocess
import sys
import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.layers import lowering
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.norm import BatchNorm
from flaxzoo.layers.pool import avg_pool, max_pool
from flaxzoo.models.lstm import LSTMLayer


class Net(nn.Module):
    """Every layer that is lowered in a way of its own."""

    @nn.compact
    def __call__(self, x, train=True):
        x = Conv(32, 3, name="conv")(x)
        x = nn.relu(BatchNorm(name="norm")(x, use_running_average=not train))
        x = Conv(32, 5, groups=32, name="depthwise")(max_pool(x))
        x = Conv(16, 3, groups=4, name="groups")(x)
        x = Conv(48, 1, stride=2, name="pointwise")(avg_pool(x, 2, 2))
        return Dense(5, name="dense")(x)


X = np.random.default_rng(0).standard_normal((2, 17, 16, 3)).astype(np.float32)


def loss(variables, x):
    params, statistics = variables
    y, updates = Net().apply(
        {"params": params, "batch_stats": statistics}, x, mutable=["batch_stats"]
    )
    return jnp.sin(y).sum(), updates


step = jax.jit(jax.value_and_grad(loss, has_aux=True))


def test_numbers_are_equal_to_rounding(random_variables):
    variables = random_variables(Net(), X)
    variables = variables["params"], variables["batch_stats"]
    ours = step(variables, X)
    with lowering.use("xla"):
        theirs = step(variables, X)
    # The function was traced twice, and neither is the other's program.
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * np.abs(b).max())


def primitives(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn.primitive.name
        for value in eqn.params.values():
            if hasattr(value, "jaxpr"):
                yield from primitives(value.jaxpr)


def test_xla_means_nothing_of_ours():
    variables = jax.eval_shape(Net().init, jax.random.key(0), X)

    def names():
        trace = jax.make_jaxpr(lambda v, x: Net().apply(v, x, train=False))(variables, X)
        return set(primitives(trace.jaxpr))

    assert {"flaxzoo_conv", "platform_index"} <= names()
    with lowering.use("xla"):
        plain = names()
    # ``platform_index`` chooses the max-pool by platform.
    assert not [name for name in plain if "flaxzoo" in name or "platform" in name]
    assert {"conv_general_dilated", "dot_general", "reduce_window_max"} <= plain
    assert "flaxzoo_conv" in names()


def test_the_recurrence_is_differentiated_by_jax():
    layer = LSTMLayer(4)
    x = X[:, :, 0]
    variables = layer.init(jax.random.key(0), x)
    loss = lambda v: jnp.sin(layer.apply(v, x)[0]).sum()  # noqa: E731
    ours = jax.grad(loss)(variables)
    with lowering.use("xla"):
        theirs = jax.grad(loss)(variables)
        # Our own reverse pass would refuse forward mode.
        jax.jvp(loss, (variables,), (variables,))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, theirs)


def test_compiled_functions_are_traced_again():
    traced = []

    @jax.jit
    def run(x):
        traced.append(lowering.current())
        return x + 1

    for name in ("auto", "xla", "auto", "xla"):
        with lowering.use(name):
            assert lowering.current() == name
            run(1.0)
    assert traced == ["auto", "xla"]


def test_it_holds_for_a_thread_and_ends_with_an_error():
    seen = []
    with lowering.use("xla"):
        thread = threading.Thread(target=lambda: seen.append(lowering.current()))
        thread.start()
        thread.join()
        with lowering.use("auto"):
            seen.append(lowering.current())
        seen.append(lowering.current())
    with pytest.raises(KeyError), lowering.use("xla"):
        raise KeyError
    assert [*seen, lowering.current()] == ["auto", "auto", "xla", "auto"]


def test_fresh_variables_are_linens():
    model = fz.models.get("test_resnet", num_classes=3, input_shape=(16, 16, 3))
    key = jax.random.key(0)
    with lowering.use("xla"):
        ours = model.init(key).variables
    linens = jax.jit(model.module.init)(key, jnp.zeros((1, 16, 16, 3)))
    jax.tree.map(np.testing.assert_array_equal, ours, linens)
    assert jax.tree.structure(model.init(key).variables) == jax.tree.structure(linens)


def test_names():
    with pytest.raises(ValueError, match="lowering must be 'auto' or 'xla', got 'XLA'"):
        lowering.use("XLA")


@pytest.mark.parametrize(("value", "expected"), [("xla", "xla"), ("", "auto"), ("cpu", "error")])
def test_the_environment_sets_it_for_the_process(value, expected):
    code = "from flaxzoo.layers import lowering; print(lowering.current())"
    environment = {**os.environ, "FLAXZOO_LOWERING": value}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    if expected == "error":
        assert "FLAXZOO_LOWERING must be 'auto' or 'xla', got 'cpu'" in done.stderr
    else:
        assert done.stdout.strip() == expected, done.stderr
