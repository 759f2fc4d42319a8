"""Models that end in what their loss does itself."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._endings import ending
from flaxzoo.losses.endings import _SIGMOID, _SOFTMAX, twice

X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
Y = np.arange(8) % 3


class Net(nn.Module):
    last: str = "softmax"
    features: int = 3

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.features)(x)
        return getattr(nn, self.last)(x) if self.last else x


def of(function):
    return ending(jax.make_jaxpr(function)(jnp.asarray(X)))


def shared(x):
    exponentials = jnp.exp(x)
    return exponentials / exponentials.sum(-1, keepdims=True)


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (nn.softmax, "softmax"),
        (nn.log_softmax, "log_softmax"),
        (nn.sigmoid, "sigmoid"),
        (shared, "softmax"),
        (jax.jit(jax.checkpoint(nn.softmax)), "softmax"),
        (lambda x: nn.softmax(x.reshape(2, 4, 4)).astype(jnp.bfloat16).reshape(8, 4), "softmax"),
        (lambda x: x, None),
        (nn.relu, None),
        (lambda x: nn.softmax(x, axis=0), None),
        (lambda x: nn.softmax(x) @ jnp.ones((4, 3)), None),
        (lambda x: (nn.softmax(x) + nn.softmax(2 * x)) / 2, None),
        (lambda x: 10 * nn.softmax(x), None),
        (lambda x: x / jnp.linalg.norm(x, axis=-1, keepdims=True), None),
        (lambda x: x / jnp.exp(x).sum(-1, keepdims=True), None),
        (lambda x: x - x.mean(-1, keepdims=True), None),
        (lambda x: (nn.softmax(x), x), None),
    ],
)
def test_what_a_computation_ends_in(function, name):
    assert of(function) == name


@pytest.mark.parametrize("last", ["softmax", "log_softmax"])
def test_fit_and_steps_say_so(last):
    trainer = fz.Trainer(Net(last))
    with pytest.warns(
        UserWarning, match=rf"ends in {last}, .* takes logits.*from_logits=False"
    ) as told:
        trainer.fit((X, Y), batch_size=4, progress=False)
    assert {one.filename for one in told} == {__file__}
    with pytest.warns(UserWarning, match=f"ends in {last}"):
        trainer.evaluate((X, Y))
    with pytest.warns(UserWarning, match=f"ends in {last}"):
        fz.create_train_state(Net(last), inputs=X)


@pytest.mark.parametrize(
    ("net", "loss"),
    [
        (Net(""), None),
        (Net("softmax"), fz.losses.get("crossentropy", from_logits=False)),
        (Net("relu"), None),
    ],
)
def test_nothing_is_said_of_others(net, loss):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fz.Trainer(net, loss=loss).evaluate((X, Y))


def test_each_loss_on_logits_names_its_way_out():
    for name, (option, other) in {**_SOFTMAX, **_SIGMOID}.items():
        kind = "softmax" if name in _SOFTMAX else "sigmoid"
        said = twice(fz.losses.get(name), kind)
        assert f"losses.get('{other}', {option or 'from_logits'}=False)" in said
        assert not twice(fz.losses.get(other, **{option or "from_logits": False}), kind)
    assert not twice(fz.losses.get("mse"), "softmax")
    assert not twice(fz.losses.get("crossentropy"), "sigmoid")
