import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.layers.lowering.initialise import output_and_variable_shapes


def plain(module, sample):
    """The shapes by a trace of the whole network."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.eval_shape(module.init_with_output, key, sample)


def described(tree):
    return {path: (leaf.shape, leaf.dtype) for path, leaf in flatten(tree).items()}


@pytest.mark.parametrize("name", ["resnet34", "vit_tiny_patch16_224"])
def test_the_shapes_are_those_of_a_whole_trace(name):
    model = fz.models.get(name)
    output, variables = output_and_variable_shapes(model.module, model.spec.sample())
    expected_output, expected = plain(model.module, model.spec.sample())
    assert output.shape == expected_output.shape
    assert described(variables) == described(expected)
    assert list(flatten(variables)) == list(flatten(expected))


def test_equal_blocks_are_traced_once(monkeypatch):
    asked = []
    param = nn.Module.param
    monkeypatch.setattr(
        nn.Module, "param", lambda self, name, *args: asked.append(name) or param(self, name, *args)
    )
    model = fz.models.get("resnet34", num_classes=7, input_shape=(64, 64, 3))
    variables = model.shapes()
    # Of the sixteen blocks seven are of a kind of their own: two in each stage but the first.
    assert 0 < len(asked) < 0.5 * len(flatten(variables["params"]))


class Named(nn.Module):
    """Looks at its own name, as no module of the package does."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(int(self.name.rpartition("_")[2]))(x)


class Two(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Named(name="of_3")(x), Named(name="of_5")(x)


def test_modules_of_a_user_are_all_traced():
    x = jax.ShapeDtypeStruct((1, 2), jnp.float32)
    (three, five), variables = output_and_variable_shapes(Two(), x)
    assert (three.shape, five.shape) == ((1, 3), (1, 5))
    assert variables["params"]["of_5"]["Dense_0"]["kernel"].shape == (2, 5)
