"""What every family has from its parts alone, on a family of tokens that uses all of it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.layers.checked import Checked
from flaxzoo.models import Classifier, Head
from flaxzoo.models.backbone import Backbone, Part, tokens_to_map

IMAGES = np.random.default_rng(0).standard_normal((2, 8, 12, 3)).astype(np.float32)
CHECKS = []


class Block(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x, train=False):
        assert isinstance(train, bool)
        y = nn.Dropout(0.5)(nn.Dense(self.width, name="fc")(x), deterministic=not train)
        return x + jnp.tanh(y)


class Tokens(Backbone):
    """Patches with a token before them, blocks and a norm that has the head's depth."""

    width: int
    depth: int = 2
    remat: bool = False

    @nn.nowrap
    def check_fields(self):
        CHECKS.append(self.depth)
        if self.depth < 1:
            raise ValueError(f"depth must be an int of at least 1, got {self.depth!r}")

    @nn.nowrap
    def parts(self):
        embed = functools.partial(nn.Conv, self.width, (4, 4), strides=4)
        yield Part("patch_embed", embed, takes="images", map="patches", reduction=4)
        yield Part("patch_embed", self._add_token, owns=("token",))
        for i in range(self.depth):
            yield Part(
                f"blocks_{i}",
                functools.partial(Block, self.width),
                map=f"blocks_{i}",
                reduction=4,
                view=self._map,
                takes="tokens",
                remat=self.remat,
            )
        yield Part("norm", nn.LayerNorm, takes="tokens", depth="head")

    def _add_token(self, x, train):
        token = self.param("token", nn.initializers.ones, (1, 1, self.width))
        x = x.reshape(x.shape[0], -1, self.width)
        return jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], 1)

    @nn.nowrap
    def _map(self, x):
        return tokens_to_map(x, 2, 3, prefix=1)


NET = Tokens(5)


@pytest.fixture(scope="module")
def variables():
    return NET.init(jax.random.key(0), IMAGES)


def test_stages_come_from_the_parts(variables):
    assert NET.stages() == {
        "patch_embed": ("patch_embed", "token"),
        "blocks_0": ("blocks_0",),
        "blocks_1": ("blocks_1",),
        "norm": ("norm",),
    }
    assert sorted(sum(NET.stages().values(), ())) == sorted(variables["params"])
    assert NET.depths() == {
        "patch_embed": "patch_embed",
        "blocks_0": "blocks_0",
        "blocks_1": "blocks_1",
        "norm": "head",
    }


def test_maps_are_taken_behind_their_parts(variables):
    maps = NET.apply(variables, IMAGES, feature_maps=True)
    assert {name: leaf.shape for name, leaf in maps.items()} == dict.fromkeys(
        ("patches", "blocks_0", "blocks_1"), (2, 2, 3, 5)
    )
    assert NET.reductions() == {"patches": 4, "blocks_0": 4, "blocks_1": 4}
    tokens = NET.apply(variables, IMAGES, 0, 2, method="run_stages")
    np.testing.assert_array_equal(maps["blocks_0"], tokens[:, 1:].reshape(2, 2, 3, 5))
    mapped = NET.clone(feature_maps=True)
    assert list(jax.jit(mapped.apply)(variables, IMAGES)) == list(maps)
    assert NET.apply(variables, IMAGES).shape == (2, 7, 5)
    assert mapped.apply(variables, IMAGES, feature_maps=False).shape == (2, 7, 5)


def test_ranges_join(variables):
    whole = NET.apply(variables, IMAGES)
    for cut in range(1, 4):
        first = NET.apply(variables, IMAGES, 0, cut, method="run_stages")
        rest = NET.apply(variables, first, cut, method="run_stages")
        np.testing.assert_allclose(rest, whole, rtol=1e-6)


def test_remat_computes_the_same(variables):
    saving = Tokens(5, remat=True)
    assert jax.tree.map(jnp.shape, saving.init(jax.random.key(0), IMAGES)) == jax.tree.map(
        jnp.shape, variables
    )
    key = {"dropout": jax.random.key(1)}

    def gradient(net):
        loss = lambda v: (net.apply(v, IMAGES, train=True, rngs=key) ** 2).sum()  # noqa: E731
        return jax.make_jaxpr(jax.grad(loss))(variables), jax.grad(loss)(variables)

    (plain, expected), (text, found) = gradient(NET), gradient(saving)
    assert ("remat" in str(plain), "remat" in str(text)) == (False, True)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), found, expected)


def test_images_that_are_too_small_are_refused(variables):
    class Larger(Tokens):
        smallest = 9

    with pytest.raises(ShapeError, match="images must be at least 9 x 9: .* nothing of 8 x 12"):
        Larger(6).apply(variables, IMAGES)
    tokens = Larger(6).apply(variables, IMAGES[:, :, :8], 0, 0, method="run_stages")
    assert tokens.shape == (2, 8, 8, 3)


def test_ranks_are_checked_where_a_range_starts(variables):
    with pytest.raises(ShapeError, match=r"images must have shape \[B, H, W, C\], got \[8, 12, 3"):
        NET.apply(variables, IMAGES[0])
    with pytest.raises(ShapeError, match=r"tokens must have shape \[B, N, C\], got \[2, 5\]"):
        NET.apply(variables, jnp.ones((2, 5)), 1, 2, method="run_stages")
    with pytest.raises(ShapeError, match=r"\[B, 7, C\] for a grid of 2 x 3 and 1 before it, got"):
        tokens_to_map(jnp.ones((2, 6, 5)), 2, 3, prefix=1)


def test_maps_that_are_not_there(variables):
    with pytest.raises(ValueError, match="no map is complete within norm"):
        NET.apply(variables, jnp.ones((1, 7, 5)), 3, feature_maps=True, method="run_stages")
    with pytest.raises(TypeError, match="lengths"):
        NET.apply(variables, IMAGES, lengths=[1], method="run_stages")


class Vectors(Backbone):
    @nn.nowrap
    def parts(self):
        yield Part("fc", functools.partial(nn.Dense, 3), takes="vectors")


def test_a_family_without_maps():
    net = Vectors()
    variables = net.init(jax.random.key(0), jnp.ones((2, 4)))
    with pytest.raises(TypeError, match="a Vectors has no stages to give feature maps of"):
        net.apply(variables, jnp.ones((2, 4)), feature_maps=True)
    with pytest.raises(ShapeError, match=r"vectors must have shape \[B, C\], got \[4\]"):
        net.apply(variables, jnp.ones(4))
    with pytest.raises(NotImplementedError, match=r"Backbone must define parts\(\)"):
        Backbone().stages()


def test_equal_fields_make_equal_modules():
    assert Tokens(5) == NET
    assert hash(Tokens(5)) == hash(NET)
    assert Tokens(5, feature_maps=True) != NET


def test_fields_are_checked_where_they_are_given(variables):
    with pytest.raises(ValueError, match="depth must be .* got 0"):
        Tokens(5, 0)
    with pytest.raises(ValueError, match="depth must be .* got -1"):
        NET.clone(depth=-1)
    with pytest.raises(ValueError, match="depth must be .* got 0"):
        NET.copy(depth=0)

    class Own(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Tokens(5, depth=0, name="backbone")(x)

    with pytest.raises(ValueError, match="depth must be .* got 0"):
        Own().init(jax.random.key(0), IMAGES)


def test_forward_passes_do_not_check_fields(variables):
    net = Classifier(backbone=NET, head=Head(2))
    del CHECKS[:]
    jax.eval_shape(net.init, jax.random.key(0), IMAGES)
    NET.apply(variables, IMAGES)
    NET.bind(variables)(IMAGES)
    assert not CHECKS


def test_checked_modules_without_checks():
    assert Checked().clone() == Checked()
