import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flaxzoo as fz
from flaxzoo.errors import UnknownNameError
from flaxzoo.transfer import freeze, label_params, matching_paths, zero_grads

PARAMS = {
    "backbone": {"conv_0": {"kernel": jnp.ones(2)}, "conv_1": {"kernel": jnp.ones(2)}},
    "head": {"fc": {"kernel": jnp.ones(2), "bias": jnp.ones(1)}},
}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (None, set()),
        ("backbone", {"backbone/conv_0/kernel", "backbone/conv_1/kernel"}),
        ("backbone/conv_[0]*", {"backbone/conv_0/kernel"}),
        (["backbone/conv_1", "*/bias"], {"backbone/conv_1/kernel", "head/fc/bias"}),
        ("!head", {"backbone/conv_0/kernel", "backbone/conv_1/kernel"}),
        (lambda path: path.endswith("bias"), {"head/fc/bias"}),
    ],
)
def test_matching_paths(spec, expected):
    assert matching_paths(PARAMS, spec) == expected


def test_nothing_matches():
    with pytest.raises(UnknownNameError, match=r"'backbon' matches no parameter.*'backbone'"):
        matching_paths(PARAMS, "backbon")
    with pytest.raises(TypeError, match="freeze must be a pattern"):
        matching_paths(PARAMS, 3)
    with pytest.raises(TypeError, match="a freeze pattern must be text"):
        matching_paths(PARAMS, [3])


def test_label_params():
    labels = label_params(PARAMS, "backbone")
    assert labels["backbone"]["conv_0"]["kernel"] == "freeze"
    assert labels["head"]["fc"] == {"kernel": "train", "bias": "train"}


def test_frozen_parameters_hold_no_optimizer_state():
    tx = freeze(optax.adam(0.1), PARAMS, "backbone")
    state = tx.init(PARAMS)
    assert len(jax.tree.leaves(state)) == 1 + 2 * 2
    updates, _ = tx.update(PARAMS, state, PARAMS)
    assert not np.any(updates["backbone"]["conv_0"]["kernel"])
    assert np.all(updates["head"]["fc"]["kernel"] != 0)
    zeros, _ = zero_grads().update(PARAMS, zero_grads().init(PARAMS))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(zeros))


class Frozen(nn.Module):
    """BatchNorm and Dropout as users write them: flags in the constructor or in the call."""

    flags_in_call: bool

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dense(4, name="dense")(x)
        if self.flags_in_call:
            x = nn.BatchNorm(name="norm")(x, not train)
            return nn.Dropout(0.5)(x, not train)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dropout(0.5, deterministic=not train)(x)


@pytest.mark.parametrize("flags_in_call", [True, False])
@pytest.mark.parametrize("optimizer", ["adamw", "lamb", "sgd"])
def test_frozen_means_bitwise_unchanged(flags_in_call, optimizer, assert_trees_equal, rng):
    net = fz.Classifier(backbone=Frozen(flags_in_call), head=fz.models.Head(3, dropout=0.5))
    x = rng.normal(size=(6, 5)).astype(np.float32)
    y = np.array([0, 1, 2, 0, 1, 2])
    model = fz.Model(net).init(inputs=x)
    # -0.0 + 0.0 is 0.0: a frozen leaf must not even be added to.
    model.variables["params"]["backbone"]["dense"]["bias"] = jnp.full((4,), -0.0)
    state = fz.create_train_state(
        model,
        optimizer=optimizer,
        learning_rate=0.1,
        weight_decay=0.1,
        clip_norm=1.0,
        accumulate_steps=2,
        freeze="backbone",
    )
    before = jax.tree.map(np.asarray, (state.params["backbone"], state.batch_stats))
    head = np.asarray(state.params["head"]["fc"]["kernel"])
    for _ in range(4):
        state, _ = fz.train_step(state, (x, y))
    after = jax.tree.map(np.asarray, (state.params["backbone"], state.batch_stats))
    assert_trees_equal(before, after)
    assert np.signbit(after[0]["dense"]["bias"]).all()
    assert not np.array_equal(head, state.params["head"]["fc"]["kernel"])


def test_no_gradients_are_computed_for_what_is_frozen():
    model = fz.models.get("mlp", input_shape=(256,), features=(256, 256), num_classes=2).init()
    x, y = np.ones((8, 256), np.float32), np.zeros(8, np.int32)

    def flops(freeze_spec):
        state = fz.create_train_state(model, optimizer="sgd", freeze=freeze_spec)
        from flaxzoo.training import steps

        lowered = steps._train_step.lower(state, steps.prepare(state, (x, y)))
        return lowered.compile().cost_analysis()["flops"]

    # Forward is a third of a full step.
    assert flops("backbone") < 0.45 * flops(None)


def test_everything_frozen_is_refused():
    model = fz.models.get("mlp", input_shape=(4,), features=(3,)).init()
    state = fz.create_train_state(model, freeze="*")
    with pytest.raises(ValueError, match="every parameter is frozen"):
        fz.train_step(state, (np.ones((2, 4), np.float32), np.zeros(2, np.int32)))
