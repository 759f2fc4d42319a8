"""Masks of weight decay by patterns, and what a backbone takes out of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.optimizers.decay_masks import PatternMask, as_decay_mask

PARAMS = {
    "backbone": {"pos_embed": jnp.ones((1, 4, 3)), "block": {"kernel": jnp.ones((3, 3))}},
    "head": {"fc": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}},
}


def test_patterns_change_the_default_in_their_order():
    mask = PatternMask(("!backbone/*", "backbone/block/*", "head/fc/bias"))(PARAMS)
    assert mask == {
        "backbone": {"pos_embed": False, "block": {"kernel": True}},
        "head": {"fc": {"kernel": True, "bias": True}},
    }
    assert as_decay_mask(None) is fz.optimizers.decay_mask
    assert as_decay_mask(["!a"]) == as_decay_mask(("!a",)) == as_decay_mask("!a")


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion", "lamb"])
def test_every_optimizer_takes_patterns(name):
    """With gradients of zero only what decays moves."""
    tx = fz.optimizers.get(
        name, learning_rate=0.1, weight_decay=0.5, weight_decay_mask=("!backbone/pos_embed",)
    )
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = tx.update(zeros, tx.init(PARAMS), PARAMS)
    assert np.all(np.asarray(updates["backbone"]["pos_embed"]) == 0)
    assert np.all(np.asarray(updates["head"]["fc"]["bias"]) == 0)
    assert np.all(np.asarray(updates["backbone"]["block"]["kernel"]) < 0)


class Placed(Backbone):
    """Adds a table of positions, and says that it does not decay."""

    def parts(self):
        yield Part("embed", self._embed, ("pos_embed",), takes=None)

    def _embed(self, x, train):
        return x + self.param("pos_embed", lambda key, shape: jnp.ones(shape), (1, *x.shape[1:]))

    def no_weight_decay(self):
        return ("pos_embed",)


@pytest.mark.parametrize("options", [{}, {"layer_decay": 0.5}, {"freeze": "head"}])
def test_what_a_backbone_says_does_not_decay(options):
    net = fz.models.Classifier(backbone=Placed(), head=fz.models.Head(2))
    model = fz.Model(net).init(rng=0, inputs=jnp.zeros((1, 4, 3)))
    state = fz.create_train_state(
        model, optimizer="adamw", learning_rate=0.1, weight_decay=0.9, **options
    )
    zeros = jax.tree.map(jnp.zeros_like, state.params)
    updates, _ = state.tx.update(zeros, state.opt_state, state.params)
    assert np.all(np.asarray(updates["backbone"]["pos_embed"]) == 0)
    kernel = np.asarray(updates["head"]["fc"]["kernel"])
    assert np.all(kernel == 0) == (options.get("freeze") == "head")
