import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.errors import ShapeError, UnknownNameError
from flaxzoo.models import CNN, LSTM, MLP, AutoEncoder, Classifier, ConvAutoEncoder, Head, ResNet
from flaxzoo.models.heads import Identity
from flaxzoo.models.resnest import ResNeStBlock
from flaxzoo.models.stages import Layers, groups_of, position, stage_paths, stages_of
from flaxzoo.transfer.slicing import Slice

RESNET = {"layers": (2, 1), "widths": (8, 12), "stem_width": 4}
IMAGES = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)


def shapes(module, x=IMAGES):
    return jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros(x.shape, x.dtype)))


# What the backbones say about themselves.


@pytest.mark.parametrize(
    ("module", "names"),
    [
        (ResNet(**RESNET), ["stem", "layer1_0", "layer1_1", "layer2_0"]),
        (ResNet(**RESNET, block=ResNeStBlock), ["stem", "layer1_0", "layer1_1", "layer2_0"]),
        (CNN(), ["conv_0", "conv_1", "dense_0", "fc"]),
        (CNN(num_classes=0, features=(4,), hidden=()), ["conv_0"]),
        (MLP((3, 4, 5)), ["dense_0", "dense_1", "dense_2"]),
        (LSTM(num_layers=2), ["l0", "l1"]),
        (LSTM(vocab_size=5, num_classes=2), ["embedding", "l0", "head"]),
        (AutoEncoder((6,), (5, 2)), ["encoder_0", "encoder_1", "decoder_0", "decoder_1"]),
        (AutoEncoder((6,), (2,), ()), ["encoder_0", "decoder_0"]),
        (ConvAutoEncoder((8, 8, 1), (4,)), ["encoder_0", "decoder_0"]),
        (
            ConvAutoEncoder((8, 8, 1), (4, 5), latent_dim=3),
            [
                "encoder_0",
                "encoder_1",
                "encoder_latent",
                "decoder_latent",
                "decoder_0",
                "decoder_1",
            ],
        ),
    ],
)
def test_names_of_the_stages(module, names):
    assert list(stages_of(module)) == names


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"stem": "deep", "stem_pool": "conv"},
        {"stem": "tiered", "stem_pool": "conv", "anti_aliasing": "avg"},
        {"block": ResNeStBlock, "stem": "deep", "avg_down": True},
        {"block": "basic", "gate": "se"},
    ],
)
def test_stages_of_a_resnet_hold_all_its_variables(fields):
    module = ResNet(**RESNET, **fields)
    stages, variables = stages_of(module), shapes(module)
    for tree in variables.values():
        paths = stage_paths(module, tree)
        assert list(paths) == list(stages)
        assert sorted(path for group in paths.values() for path in group) == sorted(flatten(tree))
    # No submodule is named that is not there.
    assert sorted(sum(stages.values(), ())) == sorted(variables["params"])


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (CNN(batch_norm=True, features=(4, 5), hidden=(3, 2)), IMAGES),
        (CNN(features=(4,), hidden=(3,)), IMAGES),
        (MLP((4, 3), norm="layer"), jnp.ones((2, 5))),
        (MLP((4, 3), norm="batch", activate_final=True), jnp.ones((2, 5))),
        (LSTM(4, 2, vocab_size=9, bidirectional=True, num_classes=2), jnp.ones((2, 3), int)),
    ],
)
def test_stages_name_the_submodules(module, x):
    params = shapes(module, x)["params"]
    assert sorted(sum(stages_of(module).values(), ())) == sorted(params)
    assert all(stage_paths(module, params).values())


def test_paths_of_an_autoencoder():
    module = ConvAutoEncoder((8, 8, 1), (4,), latent_dim=3)
    params = shapes(module, jnp.ones((1, 8, 8, 1)))["params"]
    paths = stage_paths(module, params)
    assert set(paths["encoder_0"]) == {"encoder/stages_0/bias", "encoder/stages_0/kernel"}
    assert set(paths["decoder_latent"]) == {"decoder/latent/bias", "decoder/latent/kernel"}
    assert sorted(sum(paths.values(), ())) == sorted(flatten(params))


def test_bad_fields_are_told():
    with pytest.raises(ValueError, match="layers must be"):
        stages_of(ResNet(layers=3))
    with pytest.raises(ValueError, match="hidden must be"):
        stages_of(CNN(hidden=3))
    with pytest.raises(ValueError, match="unknown pooling"):
        stages_of(LSTM(pooling="lats"))
    with pytest.raises(ValueError, match="encoder_features must be"):
        stages_of(AutoEncoder((3,), 2))


# Classifiers and modules of one's own.


class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="dense")(x)


def test_a_classifier_has_its_backbones_stages_and_the_head():
    module = Classifier(MLP((3,)), Head(2))
    assert stages_of(module) == {"dense_0": ("backbone/dense_0",), "head": ("head",)}
    params = shapes(module, jnp.ones((1, 4)))["params"]
    assert set(stage_paths(module, params)["head"]) == {"head/fc/bias", "head/fc/kernel"}
    assert stages_of(Classifier(MLP((3,)), Identity())) == {"dense_0": ("backbone/dense_0",)}
    assert stages_of(Classifier(Identity(), Head(2))) == {"head": ("head",)}


def test_a_backbone_without_stages_is_one():
    module = Classifier(Plain(), Head(2))
    params = shapes(module, jnp.ones((1, 4)))["params"]
    paths = stage_paths(module, params)
    assert list(paths) == ["backbone", "head"]
    assert set(paths["backbone"]) == {"backbone/dense/bias", "backbone/dense/kernel"}
    empty = Classifier(CNN(num_classes=0, features=(), hidden=()), Head(2))
    assert list(stages_of(empty)) == ["backbone", "head"]
    with pytest.raises(TypeError, match=r"a Plain has no stages: give it the method stages\(\)"):
        stage_paths(Plain(), params)


def test_the_linear_layer_of_an_lstm_is_not_the_classifiers_head():
    names = list(stages_of(Classifier(LSTM(num_classes=2), Head(2))))
    assert names == ["l0", "backbone/head", "head"]


class Wrong(nn.Module):
    answer: object

    def stages(self):
        return self.answer


def test_wrong_answers_of_stages():
    with pytest.raises(TypeError, match=r"Wrong.stages\(\) must return a dictionary"):
        stages_of(Wrong(("a", "b")))
    with pytest.raises(TypeError, match="must give a tuple of submodules for the stage 'a'"):
        stages_of(Wrong({"a": "conv"}))
    with pytest.raises(ValueError, match=r"do not say where these belong: b/kernel. Stages: a"):
        stage_paths(Wrong({"a": ("conv",)}), {"conv": {"bias": 0}, "b": {"kernel": 0}})


def test_layers_of_a_sequential():
    module = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(2)])
    params = shapes(module, jnp.ones((1, 3)))["params"]
    assert {name: set(paths) for name, paths in stage_paths(module, params).items()} == {
        "layers_0": {"layers_0/kernel", "layers_0/bias"},
        "layers_1": set(),
        "layers_2": {"layers_2/kernel", "layers_2/bias"},
    }
    layers = Layers(tuple(module.layers))
    variables = module.init(jax.random.key(0), jnp.ones((1, 3)))
    x = jnp.arange(6.0).reshape(2, 3)
    assert np.array_equal(module.apply(variables, x), layers.apply(variables, x))


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x, scale=1.0):
        return x, scale * nn.Dense(3, name="dense")(x)


def test_layers_spread_what_they_return_as_sequential_does():
    named = nn.Sequential([Pair(), lambda a, b: {"a": a, "b": b}, lambda a, b: a.sum() + b.sum()])
    variables = named.init(jax.random.key(0), jnp.ones((1, 3)))
    layers, x = Layers(tuple(named.layers)), jnp.arange(6.0).reshape(2, 3)
    for options in ({}, {"scale": 2.0}):
        expected = named.apply(variables, x, **options)
        assert np.array_equal(layers.apply(variables, x, **options), expected)
    rest = Slice(layers, 1, 3)
    pair = Slice(layers, 0, 1).apply(variables, x)
    assert np.array_equal(rest.apply(variables, pair), named.apply(variables, x))


# Positions.

NAMES = ("stem", "layer1_0", "layer1_1", "layer2_0", "head")


@given(st.integers(-len(NAMES), len(NAMES)))
def test_numbers_are_pythons(number):
    assert NAMES[: position(NAMES, number)] == NAMES[: (number if number else 0)]
    assert position(NAMES, np.int32(number)) == position(NAMES, number)


@pytest.mark.parametrize(
    ("where", "index"), [("stem", 0), ("layer1", 1), ("layer1_1", 2), ("layer2", 3), ("head", 4)]
)
def test_names_and_groups(where, index):
    assert position(NAMES, where) == index


def test_position_of_a_group_that_the_backbone_names():
    """A VGG's stages are its layers; its groups are what others call stages."""
    groups = groups_of(fz.models.get("vgg11_bn").module)
    first = next(name for name, group in groups.items() if group == "stage2")
    assert position(groups, "stage2") == list(groups).index(first) > 0
    with pytest.raises(UnknownNameError, match="no stage 'stage9'. Did you mean 'stage"):
        position(groups, "stage9")


def test_unknown_positions():
    with pytest.raises(UnknownNameError, match="no stage 'layer3'. Did you mean 'layer2'.*stem, "):
        position(NAMES, "layer3")
    with pytest.raises(UnknownNameError, match="no stage 6: the 5 stages are 0 to 4, or -5 to -1"):
        position(NAMES, 6)
    with pytest.raises(UnknownNameError, match="no stage -6"):
        position(NAMES, -6)
    with pytest.raises(UnknownNameError, match="no stage 'lay'"):
        position(NAMES, "lay")
    for where in (True, 1.0, None):
        with pytest.raises(TypeError, match="by its name or number"):
            position(NAMES, where)
    many = [f"block_{i}" for i in range(50)]
    with pytest.raises(UnknownNameError, match=r"block_9, \.\.\., block_40"):
        position(many, "x")


# Running some.


def test_a_slice_takes_its_modules_place_among_the_parameters():
    module = Slice(MLP((4, 3, 2)), 1, 3)
    params = shapes(module, jnp.ones((1, 4)))["params"]
    assert sorted(params) == ["dense_1", "dense_2"]
    assert list(module.stages()) == ["dense_1", "dense_2"]
    both = shapes(Classifier(module, Head(2)), jnp.ones((1, 4)))["params"]
    assert sorted(both["backbone"]) == ["dense_1", "dense_2"]


def test_shapes_in_the_middle_are_checked():
    net = ResNet(**RESNET)
    with pytest.raises(ShapeError, match=r"maps must have shape \[B, H, W, C\]"):
        shapes(Slice(net, 1, 2), jnp.ones((2, 3)))
    with pytest.raises(ShapeError, match="maps must be at least 2 x 2 for 1 poolings"):
        shapes(Slice(CNN(), 1, 2), jnp.ones((2, 1, 1, 3)))
    with pytest.raises(ShapeError, match="maps must have shape"):
        shapes(Slice(CNN(), 1, 3), jnp.ones((2, 5)))
    with pytest.raises(ShapeError, match=r"x must be \[..., 5\], got \[2, 4\]"):
        shapes(Slice(AutoEncoder((6,), (5, 2)), 1, 2), jnp.ones((2, 4)))
    with pytest.raises(ShapeError, match=r"inputs must be floats \[B, T, F\], got int32 \[2, 4\]"):
        shapes(Slice(LSTM(vocab_size=5), 1, 2), jnp.ones((2, 4), int))


def test_maps_of_a_slice():
    net = ResNet(**RESNET)
    maps = jax.eval_shape(
        lambda: Slice(net, 0, 3, feature_maps=True).init_with_output(
            jax.random.key(0), jnp.zeros(IMAGES.shape)
        )
    )[0]
    assert list(maps) == ["stem", "layer1"]
    with pytest.raises(ValueError, match="no map is complete within layer1_0"):
        shapes(Slice(net, 1, 2, feature_maps=True), jnp.ones((2, 8, 8, 64)))
    with pytest.raises(TypeError, match="a MLP has no stages to give feature maps of"):
        shapes(Slice(MLP((3, 3)), 1, 2, feature_maps=True), jnp.ones((2, 3)))


def test_the_state_of_an_lstm_is_that_of_the_range():
    net = LSTM(4, num_layers=3, pooling=None)
    x = jnp.ones((2, 5, 3))
    variables = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.1, leaf.dtype), shapes(net, x))
    carry = tuple(jnp.arange(24.0).reshape(3, 2, 4) / k for k in (24, 48))

    def run(module, x, carry):
        return module.apply(variables, x, carry=carry, return_carry=True)

    whole, last = run(net, x, carry)
    first, low = run(Slice(net, 0, 2), x, tuple(part[:2] for part in carry))
    second, high = run(Slice(net, 2, 3), first, tuple(part[2:] for part in carry))
    np.testing.assert_allclose(second, whole, rtol=1e-6)
    for a, b, c in zip(low, high, last, strict=True):
        np.testing.assert_allclose(jnp.concatenate([a, b]), c, rtol=1e-6)
    with pytest.raises(ShapeError, match=r"= \[2, 2, 4\], got"):
        run(Slice(net, 0, 2), x, carry)
    tokens = LSTM(4, vocab_size=6)
    variables = {"params": {"embedding": {"embedding": jnp.ones((6, 4))}}}
    _, none = Slice(tokens, 0, 1).apply(variables, jnp.ones((2, 3), int), return_carry=True)
    assert none[0].shape == (0, 2, 4)


@pytest.mark.parametrize(
    "net", [AutoEncoder((4, 4, 1), (5, 2)), ConvAutoEncoder((4, 4, 1), (3,), latent_dim=2)]
)
def test_the_halves_of_an_autoencoder_are_its_methods(net):
    # Two axes of examples, as the methods take them.
    x = np.random.default_rng(0).random((2, 3, 4, 4, 1), np.float32)
    variables = jax.tree.map(
        lambda leaf: jnp.full(leaf.shape, 0.1, leaf.dtype), shapes(net, jnp.asarray(x))
    )
    names = list(net.stages())
    half = position(names, "decoder")
    latents = Slice(net, 0, half).apply(variables, x)
    expected = net.apply(variables, x, method="encode")
    np.testing.assert_array_equal(latents, expected)
    assert latents.shape == (2, 3, 2)
    np.testing.assert_array_equal(
        Slice(net, half, len(names)).apply(variables, latents),
        net.apply(variables, latents, method="decode"),
    )


def test_models_of_the_registry_have_stages():
    for name in ("cnn", "mlp", "lstm", "autoencoder", "conv_autoencoder", "resnet50", "resnest50d"):
        names = list(stages_of(fz.models.get(name).module))
        assert len(names) == len(set(names)) > 1
    assert len(stages_of(fz.models.get("resnet50").module)) == 1 + 16 + 1


def test_groups_that_unfreeze_together():
    groups = groups_of(fz.models.get("resnet18").module)
    assert list(dict.fromkeys(groups.values())) == [
        *("stem", "layer1", "layer2", "layer3", "layer4", "head")
    ]
    groups = groups_of(fz.models.get("vgg11_bn").module)
    # A convolution begins to train with its norm.
    assert groups["features_0"] == groups["features_1"] == "stage1"
    assert list(dict.fromkeys(groups.values())) == [
        *(f"stage{n}" for n in range(1, 6)),
        "pre_logits",
        "head",
    ]
    names = ("stem", "stages_0_blocks_0", "stages_0_blocks_1", "stages_1_downsample", "blocks_11")
    groups = groups_of(Named(names))
    assert list(groups.values()) == ["stem", "stages_0", "stages_0", "stages_1", "blocks_11"]


class Named(nn.Module):
    names: tuple[str, ...]

    @nn.nowrap
    def stages(self):
        return {name: (name,) for name in self.names}
