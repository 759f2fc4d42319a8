import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flaxzoo as fz
from flaxzoo._calls import apply_module
from flaxzoo._trees import flatten
from flaxzoo.errors import CheckpointError, UninitializedError, UnknownNameError
from flaxzoo.models import Classifier, Head
from flaxzoo.models.heads import Identity
from flaxzoo.models.stages import stages_of
from flaxzoo.transfer import merge_variables, slice_model
from flaxzoo.transfer.slicing import Slice

RNG = np.random.default_rng(0)


def images(size, channels=3, batch=4):
    return RNG.standard_normal((batch, size, size, channels)).astype(np.float32)


TINY = {"layers": (1, 1), "widths": (8, 12), "stem": "deep", "stem_width": 4}
IDS = RNG.integers(1, 20, (4, 6)).astype(np.int32)
IDS[1, 4:] = IDS[3, 2:] = 0
# Name, fields, inputs: one of every family, with what draws and what averages over the batch.
FAMILIES = {
    "cnn": (
        "cnn",
        {"features": (4, 5), "hidden": (6, 7), "batch_norm": True, "dropout": 0.3},
        images(8),
    ),
    "mlp": (
        "mlp",
        {"features": (6, 6, 5), "norm": "batch", "dropout": 0.3, "residual": True},
        images(3, 1),
    ),
    "lstm": (
        "lstm",
        {
            "hidden_size": 4,
            "num_layers": 3,
            "bidirectional": True,
            "vocab_size": 20,
            "pad_id": 0,
            "pooling": "mean",
            "dropout": 0.3,
        },
        IDS,
    ),
    "autoencoder": ("autoencoder", {"encoder_features": (6, 3)}, images(4, 1)),
    "conv_autoencoder": ("conv_autoencoder", {"features": (3, 4), "latent_dim": 5}, images(5, 1)),
    "resnet": (
        "resnet18",
        {**TINY, "drop_path": 0.5, "gate": "se", "dropout": 0.3, "stem_pool": "conv"},
        images(16),
    ),
    "resnest": ("resnest14d", {"layers": (1,), "widths": (8,), "stem_width": 4}, images(16)),
}


def filled(model, seed=0):
    """The model with random variables and statistics, made without compiling anything."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        values = rng.standard_normal(leaf.shape)
        if path[-1].key.startswith("kernel"):
            values /= np.sqrt(np.prod(leaf.shape[:-1]))
        elif path[-1].key in ("var", "scale"):
            values = 0.5 + np.abs(values)
        return jnp.asarray(values.astype(leaf.dtype))

    return model.with_variables(jax.tree_util.tree_map_with_path(fill, model.shapes()))


def build(family):
    name, fields, x = FAMILIES[family]
    shape = {} if name == "lstm" else {"input_shape": x.shape[1:]}
    if "autoencoder" not in name:
        shape["num_classes"] = 3
    return filled(fz.models.get(name, **shape, **fields))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param, build(request.param), FAMILIES[request.param][2]


def structure(tree):
    return {path: (leaf.shape, leaf.dtype) for path, leaf in flatten(tree).items()}


def trained(model, variables, x, key):
    """Outputs and new statistics in training mode."""
    return apply_module(
        model.module, variables, x, train=True, rngs={"dropout": key}, mutable=["batch_stats"]
    )


# Running slices.


def test_stage_by_stage_equals_the_whole(family):
    """In inference, each stage compiled by itself: fusion differs, so not quite bit by bit."""
    _, model, x = family
    names = list(stages_of(model.module))
    parts = [slice_model(model, i, i + 1) for i in range(len(names))]
    y = x
    for part in parts:
        y = part(y)
    np.testing.assert_allclose(y, model(x), rtol=2e-5, atol=2e-6)
    assert structure(merge_variables(*parts)) == structure(model.variables)
    joined, whole = flatten(merge_variables(*parts)), flatten(model.variables)
    assert all(joined[path] is whole[path] for path in whole)
    # What the cut gives is what the slice's own initialisation would.
    for part in parts[:-1]:
        if part.spec.input_shape is not None:
            assert structure(fz.Model(part.module, None, part.spec).shapes()) == structure(
                part.variables
            )


def test_in_training_too(family):
    """The same draws, statistics and gradients, bit by bit where one program computes both."""
    name, model, x = family
    cut = len(stages_of(model.module)) // 2
    first, second = slice_model(model, stop=cut), slice_model(model, start=cut)
    key = jax.random.key(1)

    def loss(variables, x):
        y, new = trained(model, variables, x, key)
        return jnp.sum(y**2), (y, new)

    def loss_in_parts(variables, x):
        y, new = trained(first, variables[0], x, key)
        y, newer = trained(second, variables[1], y, key)
        return jnp.sum(y**2), (y, merge_variables(new, newer))

    @jax.jit
    def both(variables, parts, x):
        gradient = jax.grad(loss, has_aux=True)(variables, x)
        return gradient, jax.grad(loss_in_parts, has_aux=True)(parts, x)

    (expected, (y, new)), (found, (y_parts, new_parts)) = both(
        model.variables, (first.variables, second.variables), x
    )
    assert structure(new) == structure(new_parts)
    if name in ("cnn", "mlp", "lstm", "resnet"):
        # It drops: without the same draws nothing below would hold.
        assert not np.allclose(y, model(x), rtol=1e-3)
    for a, b in zip(
        jax.tree.leaves((y, new, expected)),
        jax.tree.leaves((y_parts, new_parts, merge_variables(*found))),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_cuts(data):
    family = data.draw(st.sampled_from(["cnn", "mlp"]))
    model, x = CHEAP[family]
    names = list(stages_of(model.module))
    cuts = data.draw(st.sets(st.sampled_from(range(1, len(names)))))
    bounds = [0, *sorted(cuts), len(names)]
    rest, y, parts = model, x, []
    for start, stop in itertools.pairwise(bounds):
        # Of a slice of a slice, the first stages.
        part, by_name = slice_model(rest, stop=stop - start), names[start]
        y, parts = part(y), [*parts, part]
        assert part.module == slice_model(model, by_name, stop).module
        assert structure(part.variables) == structure(slice_model(model, by_name, stop).variables)
        rest = rest if stop == len(names) else slice_model(rest, start=stop - start)
    np.testing.assert_allclose(y, model(x), rtol=2e-5, atol=2e-6)
    assert structure(merge_variables(*parts)) == structure(model.variables)


CHEAP = {family: (build(family), FAMILIES[family][2]) for family in ("cnn", "mlp")}


@pytest.mark.parametrize(
    ("fields", "cut", "shape"),
    [
        ({"layers": (1, 2), "widths": (4, 8), "remat": True}, "layer2_1", (2, 2, 8)),
        # The first block of a dilated stage differs from the others, too.
        ({"layers": (1, 1, 2), "widths": (4, 4, 8), "output_stride": 8}, "layer3_1", (2, 2, 8)),
    ],
)
def test_fields_of_a_resnet_keep_their_meaning(fields, cut, shape):
    model = filled(fz.models.get("resnet18", input_shape=(16, 16, 3), **{**TINY, **fields}))
    x = images(16, batch=2)
    first, second = slice_model(model, stop=cut), slice_model(model, start=cut)
    assert second.spec.input_shape == shape

    @jax.jit
    def both(variables, parts, x):
        def whole(variables):
            return apply_module(model.module, variables, x)

        def in_parts(parts):
            y = apply_module(first.module, parts[0], x)
            return apply_module(second.module, parts[1], y)

        if not model.module.backbone.remat:
            return whole(variables), in_parts(parts)
        rows = [jnp.ones((2, 1000))]
        (y, pull), (y_parts, pull_parts) = jax.vjp(whole, variables), jax.vjp(in_parts, parts)
        return (y, *pull(*rows)), (y_parts, merge_variables(*pull_parts(*rows)[0]))

    expected, found = both(model.variables, (first.variables, second.variables), x)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


def test_a_network_of_maps_gives_those_within_the_range():
    model = filled(fz.models.get("resnet18", features=True, **TINY))
    x = images(16, batch=2)
    first, second = slice_model(model, stop="layer2"), slice_model(model, start="layer2")
    maps = first(x)
    rest, whole = second(maps["layer1"]), model(x)
    assert [*maps, *rest] == list(whole)
    for name, value in {**maps, **rest}.items():
        np.testing.assert_allclose(value, whole[name], rtol=2e-5, atol=2e-6)


def test_bare_backbones_and_plain_linen():
    model = filled(fz.Model(fz.models.MLP((5, 4, 3)), None, fz.ModelSpec("mlp", input_shape=(6,))))
    x = RNG.standard_normal((2, 6)).astype(np.float32)
    first, second = slice_model(model, stop=-1), slice_model(model, start=-1)
    assert isinstance(first.module, Slice)
    module, variables = second
    assert list(variables["params"]) == ["dense_2"]
    np.testing.assert_allclose(module.apply(variables, first(x)), model(x), rtol=1e-6)
    assert second.spec.input_shape == (4,)
    # A module without variables is sliced as well.
    bare = slice_model(fz.models.MLP((5, 4, 3)), start=1)
    assert bare.variables is None
    assert sorted(bare.init(0, jnp.ones((1, 5))).variables["params"]) == ["dense_1", "dense_2"]


# What the slice knows.


def test_spec_of_a_slice():
    model = build("resnet")
    assert model.spec.preprocess is not None
    trunk = slice_model(model, stop="head")
    assert (trunk.spec.task, trunk.spec.config) == ("features", None)
    assert trunk.spec.preprocess == model.spec.preprocess
    assert trunk.spec.input_shape == (16, 16, 3)
    rest = slice_model(model, start="layer2")
    assert rest.spec.input_shape == (4, 4, 8)
    assert rest.spec.preprocess is None
    assert rest.spec.task == "classification"
    named = fz.models.get("resnet18", classes=("a", "b"), **TINY)
    assert slice_model(named, start="layer2").spec.classes == ("a", "b")
    assert slice_model(named, stop="layer2").spec.classes is None
    # Without variables, too; the shape is that of the images usually used.
    assert slice_model(named, start="layer2").spec.input_shape == (56, 56, 8)
    head = slice_model(model, start="head")
    assert isinstance(head.module.backbone, Identity)
    assert head.spec.input_shape == (2, 2, 12)
    lstm = slice_model(build("lstm"), start="l1")
    # What comes in there is a sequence with its mask.
    assert lstm.spec.input_shape is None
    half = slice_model(fz.models.get("cnn", dtype="bfloat16"), start="dense")
    assert half.spec.input_dtype == "bfloat16"


def test_everything_is_the_model_itself():
    model = build("mlp")
    assert slice_model(model) is model
    assert slice_model(model, "dense_0", 4) is model


def test_slices_of_slices():
    model = build("cnn")
    middle = slice_model(slice_model(model, start="conv_1"), stop="dense_1")
    assert middle.module.backbone == Slice(model.module.backbone, 1, 3)
    assert sorted(middle.variables["params"]["backbone"]) == ["conv_1", "dense_0", "norm_1"]
    assert list(middle.variables["batch_stats"]["backbone"]) == ["norm_1"]
    assert "batch_stats" not in slice_model(middle, start="dense").variables
    again = slice_model(slice_model(model, stop="head"), start=1, stop=-1)
    assert again.module == middle.module


def test_feature_maps_of_a_slice():
    model = build("resnet")
    x = FAMILIES["resnet"][2]
    whole, maps = model.feature_maps(x), slice_model(model, stop="layer2").feature_maps(x)
    assert list(maps) == ["stem", "layer1"]
    np.testing.assert_allclose(maps["layer1"], whole["layer1"], rtol=2e-5, atol=2e-6)
    rest = slice_model(model, start="layer2").feature_maps(maps["layer1"])
    np.testing.assert_allclose(rest["layer2"], whole["layer2"], rtol=2e-5, atol=2e-5)
    with pytest.raises(TypeError, match="a CNN has no stages to give feature maps of"):
        slice_model(build("cnn"), stop=1).feature_maps(FAMILIES["cnn"][2])


def test_slices_are_saved_for_whoever_has_the_module(tmp_path):
    part = slice_model(build("mlp"), start="dense_1")
    part.save(tmp_path)
    back = fz.Model.load(tmp_path, module=part.module)
    y = RNG.standard_normal((2, 6)).astype(np.float32)
    assert np.array_equal(back(y), part(y))
    assert back.spec.input_shape == (6,)
    with pytest.raises(CheckpointError, match=r"not from the registry; pass the module"):
        fz.Model.load(tmp_path)


# Composing.


def test_replaced_heads_and_composed_classifiers():
    model = build("resnet")
    x = FAMILIES["resnet"][2]
    trunk = slice_model(model, stop="layer2")
    new = trunk.replace_head(Head(2), rng=1)
    assert new(x).shape == (4, 2)
    for path, leaf in flatten(trunk.variables).items():
        assert flatten(new.variables)[path] is leaf
    composed = fz.Model(Classifier(trunk.module.backbone, Head(2)), new.variables)
    assert np.array_equal(composed(x), new(x))
    fresh = slice_model(build("cnn"), start="dense").replace_head(Head(5))
    assert fresh(np.ones((2, 2, 2, 5), np.float32)).shape == (2, 5)


def test_a_slice_trains_and_goes_back():
    model = build("cnn")
    x, y = FAMILIES["cnn"][2], np.array([0, 1, 2, 0])
    head = slice_model(model, start="dense_1")
    inputs = slice_model(model, stop="dense_1")(x)
    state = fz.create_train_state(head, optimizer="sgd", learning_rate=0.1, freeze="backbone")
    state, _ = fz.train_step(state, (inputs, y))
    with pytest.raises(ValueError, match=r"two parts hold params/head/fc/.* with different values"):
        merge_variables(model, state.variables)
    joined = merge_variables(slice_model(model, stop="dense_1"), state.variables)
    assert structure(joined) == structure(model.variables)
    changed = {
        path
        for path, leaf in flatten(joined).items()
        if not np.array_equal(leaf, flatten(model.variables)[path])
    }
    assert changed == {"params/head/fc/bias", "params/head/fc/kernel"}
    # The same step as through the whole network, whose backbone is frozen; the head drops alike.
    whole = fz.create_train_state(model, optimizer="sgd", learning_rate=0.1, freeze="backbone")
    whole, _ = fz.train_step(whole, (x, y))
    for name, leaf in whole.params["head"]["fc"].items():
        np.testing.assert_allclose(joined["params"]["head"]["fc"][name], leaf, rtol=1e-6)


def test_frozen_stages_of_a_slice_keep_their_statistics():
    part = slice_model(build("mlp"), start="dense_1")
    x = RNG.standard_normal((5, 6)).astype(np.float32)
    frozen = ("backbone/dense_1", "backbone/norm_1")
    trainer = fz.Trainer(part, optimizer="sgd", learning_rate=0.1, freeze=frozen, seed=1)
    # A padded batch: BatchNorm finds its place in the slice, too.
    trainer.fit((x, np.array([0, 1, 2, 0, 1])), epochs=1, batch_size=4, progress=False)
    before, after = flatten(part.variables), flatten(trainer.model.variables)
    for path, leaf in before.items():
        if path == "params/backbone/dense_2/bias":
            # The norm behind it takes it away: its gradient is zero but for rounding.
            continue
        same = np.array_equal(leaf, after[path])
        assert same == ("dense_1" in path or "norm_1" in path), path


class Pyramid(nn.Module):
    """All maps of a backbone, brought to one width and one size, and added."""

    backbone: nn.Module
    width: int

    @nn.compact
    def __call__(self, x, *, train=False):
        maps = self.backbone(x, train=train)
        names = [name for name in maps if name != "stem"]
        size = maps[names[0]].shape
        total = 0.0
        for name in names:
            y = nn.Conv(self.width, (1, 1), name=f"lateral_{name}")(maps[name])
            total += jax.image.resize(y, (*size[:3], self.width), "nearest")
        return total.mean((1, 2))


def test_a_pyramid_keeps_the_pretrained_backbone():
    model = build("resnet")
    x = FAMILIES["resnet"][2]
    backbone = model.module.backbone.clone(feature_maps=True)
    spec = fz.ModelSpec("pyramid", input_shape=x.shape[1:])
    fresh = filled(fz.Model(Pyramid(backbone, 3), None, spec), seed=1)
    pretrained = slice_model(model, stop="head").variables
    own = {"params": {k: v for k, v in fresh.variables["params"].items() if k != "backbone"}}
    net = fresh.with_variables(merge_variables(pretrained, own))
    assert structure(net.variables) == structure(fresh.variables)
    before = net.variables["params"]
    state = fz.create_train_state(
        net, loss="softmax_cross_entropy_with_integer_labels", freeze="backbone", optimizer="sgd"
    )
    state, _ = fz.train_step(state, (x, np.array([0, 1, 2, 0])))
    for path, leaf in flatten(before["backbone"]).items():
        assert np.array_equal(leaf, flatten(state.params["backbone"])[path])
    assert not np.array_equal(
        before["lateral_layer1"]["kernel"], state.params["lateral_layer1"]["kernel"]
    )


# Modules of one's own.


class Own(nn.Module):
    """Two layers, written with setup, that can run by themselves."""

    def setup(self):
        self.one, self.two = nn.Dense(4), nn.Dense(3)

    def stages(self):
        return {"one": ("one",), "two": ("two",)}

    def __call__(self, x):
        return self.run_stages(x)

    def run_stages(self, x, start=0, stop=None, *, train=False):
        for layer in [self.one, self.two][start:stop]:
            x = jnp.tanh(layer(x))
        return x


class Named(nn.Module):
    def stages(self):
        return {"one": ("dense",), "two": ()}

    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(4, name="dense")(x))


def test_modules_with_the_two_methods():
    x = jnp.ones((2, 5))
    model = fz.Model(Classifier(Own(), Head(2))).init(0, x)
    first, second = slice_model(model, stop="two"), slice_model(model, start="two")
    np.testing.assert_allclose(second(first(x)), model(x), rtol=1e-6)
    assert list(second.variables["params"]["backbone"]) == ["two"]


def test_modules_without():
    x = jnp.ones((2, 5))
    model = fz.Model(Classifier(nn.Dense(4), Head(2))).init(0, x)
    trunk, head = slice_model(model, stop="head"), slice_model(model, start="head")
    np.testing.assert_allclose(head(trunk(x)), model(x), rtol=1e-6)
    assert trunk.module.backbone == nn.Dense(4)
    with pytest.raises(UnknownNameError, match="no stage 'layer3'.* Stages: backbone, head"):
        slice_model(model, stop="layer3")
    with pytest.raises(TypeError, match="a Dense has no stages"):
        slice_model(nn.Dense(4), stop=1)
    named = fz.Model(Classifier(Named(), Head(2))).init(0, x)
    assert slice_model(named, stop="head")(x).shape == (2, 4)
    with pytest.raises(TypeError, match="a Named has stages, but cannot run some of them"):
        slice_model(named, stop="two")


def test_sequentials():
    net = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
    x = jnp.ones((2, 5))
    model = fz.Model(net).init(0, x)
    first, second = slice_model(model, stop=-1), slice_model(model, start="layers_2")
    assert list(second.variables["params"]) == ["layers_2"]
    np.testing.assert_allclose(second(first(x)), model(x), rtol=1e-6)


@pytest.fixture(scope="module")
def jax_resnet_model():
    import jax_resnet
    from jax_resnet.resnet import ResNetBlock

    module = jax_resnet.ResNet(ResNetBlock, stage_sizes=[1, 1], hidden_sizes=(4, 8), n_classes=3)
    x = images(16, batch=2)
    return filled(fz.Model(module, None, fz.ModelSpec("mine", input_shape=x.shape[1:]))), x


@pytest.mark.parametrize(("start", "stop"), [(0, -2), (0, 3), (2, 4), (3, None), (4, None)])
def test_jax_resnets_idiom(jax_resnet_model, start, stop):
    from jax_resnet.common import Sequential, slice_variables

    model, x = jax_resnet_model
    layers = model.module.layers
    part = slice_model(model, start, stop)
    y = slice_model(model, stop=start)(x) if start else x
    theirs = Sequential(layers[start:stop])
    sliced = slice_variables(model.variables, start, len(layers) if stop is None else stop)
    assert np.array_equal(part(y), jax.jit(theirs.apply)(sliced, y))
    # And what they made goes into the rest of flaxzoo.
    assert np.array_equal(fz.Model(theirs, sliced)(y), part(y))
    new, stats = apply_module(part.module, part.variables, y, train=True, mutable=["batch_stats"])
    expected, _ = theirs.apply(sliced, y, mutable=["batch_stats"])
    np.testing.assert_allclose(new, expected, rtol=1e-6)
    assert set(flatten(stats)) == {
        path for path in flatten(part.variables) if path.startswith("batch_stats/")
    }


def test_jax_resnets_parts_join(jax_resnet_model):
    model, x = jax_resnet_model
    first, second = slice_model(model, stop=3), slice_model(model, start=3)
    assert structure(merge_variables(first, second)) == structure(model.variables)
    np.testing.assert_allclose(second(first(x)), model(x), rtol=2e-5, atol=2e-6)
    net = Classifier(slice_model(model, stop=-2).module, Head(2))
    tuned = filled(fz.Model(net, None, model.spec), seed=1)
    backbone = {k: {"backbone": v} for k, v in slice_model(model, stop=-2).variables.items()}
    own = {"params": {"head": tuned.variables["params"]["head"]}}
    tuned = tuned.with_variables(merge_variables(backbone, own))
    state = fz.create_train_state(tuned, freeze="backbone", optimizer="sgd", learning_rate=0.1)
    after, _ = fz.train_step(state, (x, np.array([0, 1])))
    assert np.array_equal(
        after.params["backbone"]["layers_0"]["ConvBlock_0"]["Conv_0"]["kernel"],
        state.params["backbone"]["layers_0"]["ConvBlock_0"]["Conv_0"]["kernel"],
    )


# Errors.


def test_ranges_that_hold_nothing():
    model = build("mlp")
    with pytest.raises(ValueError, match=r"from 'dense_1' to 1 is empty: it starts at stage 1 and"):
        slice_model(model, "dense_1", 1)
    with pytest.raises(ValueError, match="from 'head' to 'dense_1' is reversed"):
        slice_model(model, "head", "dense_1")
    with pytest.raises(ValueError, match="from 4 to None is empty"):
        slice_model(model, 4)
    with pytest.raises(UnknownNameError, match="no stage 'dens_1'. Did you mean 'dense_1'"):
        slice_model(model, "dens_1")
    with pytest.raises(UnknownNameError, match="no stage 9: the 4 stages are 0 to 3"):
        slice_model(model, 0, 9)
    with pytest.raises(TypeError, match="by its name or number, got 1.5"):
        slice_model(model, 1.5)
    with pytest.raises(TypeError, match="module must be a flax.linen.Module"):
        slice_model(model.variables, 1)


def test_variables_that_cannot_be_joined():
    one = {"params": {"a": {"kernel": jnp.ones(2)}}}
    with pytest.raises(ValueError, match="params/a/kernel with different values"):
        merge_variables(one, {"params": {"a": {"kernel": jnp.zeros(2)}}})
    with pytest.raises(ValueError, match=r"with float32 \[2\] and float32 \[3\]"):
        merge_variables(one, {"params": {"a": {"kernel": jnp.ones(3)}}})
    with pytest.raises(ValueError, match=r"float32 \[2\] and bfloat16 \[2\]"):
        merge_variables(one, {"params": {"a": {"kernel": jnp.ones(2, jnp.bfloat16)}}})
    with pytest.raises(ValueError, match="params/a is a group in one part and an array in another"):
        merge_variables(one, {"params": {"a": jnp.ones(2)}})
    with pytest.raises(ValueError, match="params/a is a group in one part and an array in another"):
        merge_variables({"params": {"a": jnp.ones(2)}}, one)
    with pytest.raises(ValueError, match="takes one or more models"):
        merge_variables()
    with pytest.raises(TypeError, match="got list as argument 1"):
        merge_variables(one, [1])
    with pytest.raises(UninitializedError, match="'mlp' has no variables yet"):
        merge_variables(fz.models.get("mlp"))
    with pytest.raises(ValueError, match="cannot be compared while they are traced"):
        jax.jit(merge_variables)(one, one)


def test_joining_leaves_its_arguments_alone():
    nan = jnp.array([jnp.nan, 1.0])
    one, two = {"params": {"a": {"x": nan}}}, {"params": {"a": {"x": nan + 0, "y": nan}}}
    merged = merge_variables(one, two)
    assert set(merged["params"]["a"]) == {"x", "y"}
    assert set(one["params"]["a"]) == {"x"}
    merged["params"]["a"]["z"] = 1
    assert "z" not in two["params"]["a"]
    shapes = fz.models.get("mlp").shapes()
    assert structure(merge_variables(shapes, shapes)) == structure(shapes)


def test_a_head_by_itself_takes_pooled_features_too(rng):
    """ResNets average their maps in the head; the cached features may be averaged already."""
    model = fz.models.get("test_resnet", num_classes=2, input_shape=(32, 32, 3)).init(0)
    images = rng.random((4, 32, 32, 3), np.float32)
    head = slice_model(model, start="head")
    maps = model.features(images)
    np.testing.assert_array_equal(head(maps), head(np.asarray(maps).mean((1, 2))))
    np.testing.assert_allclose(head(maps), model(images), rtol=1e-5, atol=1e-6)


def test_a_head_by_itself_averages_tokens(rng):
    """Those of a transformer's patches, which have as many axes as a batch of vectors may have."""
    fields = {"width": 8, "depth": 2, "heads": 2, "patch_size": 8, "input_shape": (16, 24, 3)}
    model = fz.models.get("test_vit2", num_classes=2, **fields).init(0)
    images = rng.random((4, 16, 24, 3), np.float32)
    for sliced in (model, slice_model(model, start="blocks_1")):
        head = slice_model(sliced, start="head")
        np.testing.assert_allclose(head(model.features(images)), model(images), rtol=1e-5)
