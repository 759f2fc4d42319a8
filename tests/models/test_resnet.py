import functools
import warnings

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo import model as model_module
from flaxzoo._trees import flatten
from flaxzoo.errors import ShapeError, UnknownArgumentError, UnknownNameError
from flaxzoo.layers.residual import ResidualBlock
from flaxzoo.models import ResNet
from flaxzoo.models.registry import MODELS
from flaxzoo.models.resnest import ResNeStBlock
from flaxzoo.models.resnet import BasicBlock

pytestmark = pytest.mark.family("resnet")

TINY = {"layers": (1, 1, 1, 1), "widths": (8, 8, 8, 8), "stem": "deep", "stem_width": 4}
# Two stages, where the number of stages is no matter: half the time to compile.
SMALL = {**TINY, "layers": (1, 1), "widths": (8, 12)}
TWO = {"layers": (1, 2), "widths": (8, 8), "block": "bottleneck"}
# Of three convolutions of each block of two stages.
CHANNELS = (((3, 5, 7),), ((4, 6, 9), (2, 8, 9)))


def images(height=32, width=32, channels=3, batch=2):
    values = np.random.default_rng(0).standard_normal((batch, height, width, channels))
    return values.astype(np.float32)


def shapes(module, x=None, **kwargs):
    x = images() if x is None else x
    out, variables = jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), x, **kwargs))
    return jax.tree.map(lambda leaf: leaf.shape, (out, variables))


def filled(module, x=None, seed=0):
    """Random variables, with random statistics, made without compiling anything."""
    rng = np.random.default_rng(seed)
    x = images() if x is None else x

    def fill(path, leaf):
        values = rng.standard_normal(leaf.shape)
        if path[-1].key == "kernel":
            values /= np.sqrt(np.prod(leaf.shape[:-1]))
        elif path[-1].key in ("var", "scale"):
            values = 0.5 + np.abs(values)
        return values.astype(leaf.dtype)

    tree = jax.eval_shape(lambda: module.init(jax.random.key(0), x))
    return jax.tree_util.tree_map_with_path(fill, tree)


def tiny_model(num_classes=3, **options):
    model = fz.models.get("resnet18", num_classes=num_classes, **{**SMALL, **options})
    return model.with_variables(filled(model.module))


# Stages.


@pytest.mark.parametrize("size", [(33, 47), (64, 64), (50, 31)])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_sizes_of_the_stages(size, stride):
    maps, _ = shapes(ResNet(**TINY, output_stride=stride, feature_maps=True), images(*size))
    assert list(maps) == ["stem", "layer1", "layer2", "layer3", "layer4"]
    strides = [2, 4, *(min(s, stride) for s in (8, 16, 32))]
    for (height, width), shape, s in zip([size] * 5, maps.values(), strides, strict=True):
        # Strides of two round up, whatever their number.
        assert shape[1:3] == (-(-height // s), -(-width // s))
    assert [shape[-1] for shape in maps.values()] == [8, 32, 32, 32, 32]


def test_maps_come_out_of_jit_in_their_order():
    net = ResNet(**TINY)
    maps = jax.jit(functools.partial(net.apply, feature_maps=True))(filled(net), images())
    assert list(maps) == ["stem", "layer1", "layer2", "layer3", "layer4"]
    out = jax.jit(net.apply)(filled(net), images())
    np.testing.assert_allclose(maps["layer4"], out, rtol=1e-5, atol=1e-5)


def test_features_of_the_registry_are_the_models_feature_maps():
    model = tiny_model()
    net = fz.models.get("resnet18", features=True, **SMALL)
    assert net.spec.task == "features"
    assert set(shapes(net.module)[1]["params"]) == {"backbone"}
    variables = {name: {"backbone": tree["backbone"]} for name, tree in model.variables.items()}
    maps = net.with_variables(variables)(images())
    same = model.feature_maps(images())
    assert list(maps) == list(same)
    for name, value in maps.items():
        np.testing.assert_allclose(value, same[name], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.features(images()), maps["layer2"], rtol=1e-5, atol=1e-5)


def test_feature_maps_are_for_backbones_with_stages():
    with pytest.raises(TypeError, match="a MLP has no stages to give feature maps of"):
        fz.models.get("mlp", input_shape=(4,)).with_variables({"params": {}}).feature_maps(None)


@pytest.mark.parametrize("fields", [{}, {"layers": (1, 2, 1, 1), "block": "basic"}])
@pytest.mark.parametrize("stride", [8, 16])
def test_dilation_computes_the_same_maps_more_densely(stride, fields):
    fields = {**TINY, "widths": (4, 8, 12, 16), **fields}
    net, dense = ResNet(**fields), ResNet(**fields, output_stride=stride)
    assert flatten(shapes(net)[1]) == flatten(shapes(dense)[1])
    # An atrous network's every other pixel is the strided network's: Chen et al. 2017, fig. 2.
    variables, x = filled(net), images(40, 64)
    both = jax.jit(lambda v, x: (net.apply(v, x), dense.apply(v, x)))(variables, x)
    step = 32 // stride
    np.testing.assert_allclose(both[0], both[1][:, ::step, ::step], rtol=1e-4, atol=1e-4)


# Variants.


@pytest.mark.parametrize(
    ("name", "parameters", "gmacs"),
    # As torchvision publishes them.
    [
        ("resnet18", 11_689_512, 1.81),
        ("resnet50", 25_557_032, 4.09),
        ("resnext50_32x4d", 25_028_904, 4.23),
        ("wide_resnet50_2", 68_883_240, 11.40),
    ],
)
def test_published_sizes(name, parameters, gmacs):
    # The catalogue's usual size may be another; these are for 224.
    summary = fz.models.get(name, input_shape=(224, 224, 3)).summary()
    assert summary.parameters == parameters
    assert abs(summary.flops / 2e9 - gmacs) < 0.02


def test_every_variant_is_one_value():
    """Two of a kind are equal and hash alike, so that they share compiled functions."""
    names = [
        name
        for name in fz.models.list()
        if MODELS.architecture(name).family in ("flaxzoo.models.resnet", "flaxzoo.models.resnest")
    ]
    assert all(isinstance(fz.models.get(name).module.backbone, ResNet) for name in names)
    assert len(names) == 81 + 8
    first = {fz.models.get(name).module: name for name in names}
    assert len(first) == len(names)
    for name in names:
        assert first[fz.models.get(name).module] == name


def test_equal_models_share_compiled_code():
    options = {**SMALL, "widths": (8, 20)}
    models = [
        fz.models.get("resnetrs50", num_classes=3, input_shape=(32, 32, 3), **options)
        for _ in range(2)
    ]
    variables = filled(models[0].module)
    models[0].with_variables(variables)(images())
    compiled = model_module._forward._cache_size()
    models[1].with_variables(variables)(images())
    assert model_module._forward._cache_size() == compiled


def test_an_unknown_variant_names_the_closest():
    with pytest.raises(UnknownNameError, match=r"unknown model 'resnet5'.*resnet50"):
        fz.models.get("resnet5")
    with pytest.raises(UnknownArgumentError, match="timm's 'drop_path_rate' is called 'drop_path'"):
        fz.models.get("resnet18", drop_path_rate=0.1)


@pytest.mark.parametrize(
    ("fields", "first", "names"),
    [
        ({"stem": "conv7"}, (7, 7, 3, 64), ["bn1", "conv1"]),
        (
            {"stem": "deep", "stem_width": 32},
            (3, 3, 3, 32),
            ["bn1", "conv1_0", "conv1_1", "conv1_3", "conv1_4", "conv1_6"],
        ),
        (
            {"stem": "tiered", "stem_width": 32},
            (3, 3, 3, 24),
            ["bn1", "conv1_0", "conv1_1", "conv1_3", "conv1_4", "conv1_6"],
        ),
        (
            {"stem": "conv7", "stem_pool": "conv"},
            (7, 7, 3, 64),
            ["bn1", "conv1", "maxpool_0", "maxpool_1"],
        ),
        (
            {"stem": "conv7", "stem_pool": "conv", "anti_aliasing": "avg"},
            (7, 7, 3, 64),
            ["bn1", "conv1", "maxpool_0", "maxpool_2"],
        ),
    ],
)
def test_stems(fields, first, names):
    maps, variables = shapes(ResNet(**{**TINY, **fields}, feature_maps=True))
    params = variables["params"]
    assert sorted(name for name in params if not name.startswith("layer")) == names
    assert params.get("conv1", params.get("conv1_0"))["kernel"] == first
    assert maps["stem"] == (2, 16, 16, 64)
    assert maps["layer1"][1:3] == (8, 8)


# Training.


def gradients_of(net, variables, x):
    def loss(params, x):
        out, updates = net.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        return jnp.sin(out).sum(), (out, updates)

    return jax.jit(jax.grad(loss, has_aux=True))(variables["params"], x)


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_remat_changes_no_number(block):
    fields = {**SMALL, "layers": (2,), "widths": (4,), "block": block}
    net, saving = ResNet(**fields), ResNet(**fields, remat=True)
    assert shapes(net)[1] == shapes(saving)[1]
    results = [gradients_of(m, filled(net), images()) for m in (net, saving)]
    assert jax.tree.structure(results[0]) == jax.tree.structure(results[1])
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_remat_stores_less_for_the_backward_pass():
    def stored(net):
        variables, x = filled(net), images()
        residuals = jax.eval_shape(lambda v: jax.vjp(lambda v: net.apply(v, x), v)[1], variables)
        return sum(leaf.size for leaf in jax.tree.leaves(residuals))

    fields = {**SMALL, "layers": (3, 3)}
    assert stored(ResNet(**fields, remat=True)) < 0.7 * stored(ResNet(**fields))


@pytest.mark.parametrize("remat", [False, True])
def test_a_frozen_backbone_stays_bitwise(remat, assert_trees_equal):
    model = tiny_model(remat=remat, drop_path=0.5)
    state = fz.create_train_state(model, freeze="backbone", learning_rate=0.1)
    batch = (images(), np.array([0, 2]))
    after, metrics = fz.train_step(state, batch)
    assert_trees_equal(after.batch_stats, model.variables["batch_stats"])
    assert_trees_equal(after.params["backbone"], model.variables["params"]["backbone"])
    changed = (
        after.params["head"]["fc"]["kernel"] != model.variables["params"]["head"]["fc"]["kernel"]
    )
    assert changed.any()
    # No path is dropped either: the loss is the one of inference.
    logits = np.asarray(model(images()), np.float64)
    logged = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -(logged[0, 0] + logged[1, 2]) / 2
    assert abs(metrics.compute()["loss"] - expected) < 1e-5


def test_a_padded_batch_gives_the_numbers_of_the_batch():
    model = tiny_model(layers=(1,), widths=(8,))
    state = fz.create_train_state(model, optimizer="sgd", learning_rate=0.1)
    x, y = images(batch=3), np.array([0, 1, 2])
    plain, _ = fz.train_step(state, {"image": x, "label": y, "weight": np.ones(3, np.float32)})
    batch = {
        "image": np.concatenate([x, np.full_like(x[:2], 9.0)]),
        "label": np.concatenate([y, y[:2]]),
        "weight": np.array([1, 1, 1, 0, 0], np.float32),
    }
    padded, _ = fz.train_step(state, batch)
    for collection in ("batch_stats", "params"):
        ours, theirs = (flatten(getattr(s, collection)) for s in (padded, plain))
        for path, leaf in ours.items():
            np.testing.assert_allclose(leaf, theirs[path], rtol=1e-3, atol=1e-4, err_msg=path)


def test_drop_path_grows_linearly():
    rates = []

    def intercept(run, args, kwargs, context):
        if isinstance(context.module, nn.Dropout):
            rates.append(context.module.rate)
        return run(*args, **kwargs)

    net = ResNet(**{**TINY, "layers": (1, 2, 1, 2)}, drop_path=0.5)
    with nn.intercept_methods(intercept):
        shapes(net)
    # The first block of all keeps every path.
    np.testing.assert_allclose(rates, [0.1, 0.2, 0.3, 0.4, 0.5])


def test_drop_path_is_for_training_only():
    net, dropping = ResNet(**SMALL), ResNet(**SMALL, drop_path=0.9)
    variables, x = filled(net), images(batch=8)
    apply = jax.jit(dropping.apply, static_argnames=("train", "mutable"))
    np.testing.assert_allclose(
        apply(variables, x), jax.jit(net.apply)(variables, x), rtol=1e-6, atol=1e-6
    )
    outs = [
        apply(variables, x, train=True, mutable="batch_stats", rngs={"dropout": jax.random.key(i)})
        for i in range(2)
    ]
    assert not np.allclose(outs[0][0], outs[1][0])


def test_a_fresh_network_adds_nothing_to_its_shortcuts():
    fields = {**SMALL, "layers": (2,), "widths": (12,)}
    variables = jax.jit(ResNet(**fields).init)(jax.random.key(0), images())
    scales = {p: v for p, v in flatten(variables["params"]).items() if p.endswith("scale")}
    zero = {path for path, scale in scales.items() if not np.any(scale)}
    assert zero == {"layer1_0/bn3/scale", "layer1_1/bn3/scale"}
    kernel = np.asarray(variables["params"]["layer1_1"]["conv2"]["kernel"])
    assert abs(kernel.std() / np.sqrt(2 / (9 * 12)) - 1) < 0.15
    usual = ResNet(**fields, zero_init_residual=False)
    assert shapes(usual)[1] == jax.tree.map(jnp.shape, variables)


@pytest.mark.parametrize("fields", [{}, {"block": ResNeStBlock, "avg_down": True}])
def test_bfloat16(fields):
    fields = {**fields, "layers": (1,), "widths": (8,)}
    net, narrow = ResNet(**{**SMALL, **fields}), ResNet(**{**SMALL, **fields}, dtype=jnp.bfloat16)
    variables, x = filled(net), images()
    assert shapes(net)[1] == shapes(narrow)[1]
    out, updates = jax.jit(functools.partial(narrow.apply, train=True, mutable=["batch_stats"]))(
        variables, x
    )
    assert out.dtype == jnp.bfloat16
    types = jax.eval_shape(narrow.init, jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves((updates, types))} == {jnp.dtype("float32")}
    ours, expected = jax.jit(lambda v, x: (narrow.apply(v, x), net.apply(v, x)))(variables, x)
    error = np.abs(np.asarray(ours, np.float32) - expected)
    assert error.max() < 0.05 * np.abs(expected).max()


def test_a_narrow_model_by_the_name_of_its_dtype():
    model = tiny_model(dtype="bfloat16")
    assert model.module.head.dtype == jnp.bfloat16
    assert model(images()).dtype == jnp.bfloat16


# Fields.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": ()}, r"layers must be one or more ints of at least 1, got \(\)"),
        ({"layers": (1, 0, 1, 1)}, r"layers must be .*, got \(1, 0, 1, 1\)"),
        ({"widths": 64}, r"widths must be .*, got 64; for a single one write \(64,\)"),
        ({"layers": (1, 1)}, "layers and widths must be of one length, got 2 and 4"),
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32, got 4"),
        ({"block": "bottlneck"}, "block must be .*, got 'bottlneck'. Did you mean 'bottleneck'"),
        ({"block": ("basic", "basic")}, "block must be one, or one for each of 4 stages, got 2"),
        ({"stem": "conv3"}, "stem must be one of 'conv7', 'deep', 'tiered', got 'conv3'"),
        ({"stem": None}, "stem must be one of 'conv7', 'deep', 'tiered', got None"),
        ({"stem_pool": "avg"}, "stem_pool must be one of 'max', 'conv', got 'avg'"),
        ({"stem_pool": "none"}, "stem_pool must be one of 'max', 'conv', got 'none'"),
        ({"stem_width": 0}, "stem_width must be an int of at least 1, got 0"),
        ({"groups": 1.5}, "groups must be an int of at least 1, got 1.5"),
        ({"base_width": -4}, "base_width must be an int of at least 1, got -4"),
        ({"reduce_first": 0}, "reduce_first must be an int of at least 1, got 0"),
        ({"down_kernel_size": True}, "down_kernel_size must be an int of at least 1, got True"),
        ({"drop_path": 1.0}, r"drop_path must be a number in \[0, 1\), got 1.0"),
        (
            {"norm": "bach"},
            "norm must be one of batch, evo_s0, .* or a module, got 'bach'.*'batch'",
        ),
        ({"gate": "eac"}, "gate must be one of se, eca, ese, gc, None or a module, got 'eac'"),
        ({"anti_aliasing": "blurr"}, "anti_aliasing must be .*, got 'blurr'. Did you mean 'blur'"),
        ({"block": "basic", "groups": 2}, "a basic block takes groups=1 and base_width=64"),
        ({"gate": ("se", None)}, "gate must be one, or one for each of 4 stages, got 2"),
        (
            {**TWO, "block": "basic", "channels": CHANNELS},
            "channels are those of bottlenecks",
        ),
        (
            {**TWO, "layers": (1, 3), "channels": CHANNELS},
            "channels must have three numbers for each",
        ),
        (
            {**TWO, "channels": (((4, 4),), ((4, 4),))},
            "channels must have three numbers",
        ),
    ],
)
def test_fields_out_of_range(fields, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**{**TINY, **fields})
    with pytest.raises(ValueError, match=message):
        fz.models.get("resnet18", **{**TINY, **fields})


def test_an_unknown_activation():
    with pytest.raises(UnknownNameError, match="unknown activation 'rellu'. Did you mean 'relu'"):
        shapes(ResNet(**TINY, activation="rellu"))


def test_images_of_the_wrong_rank():
    with pytest.raises(
        ShapeError, match=r"images must have shape \[B, H, W, C\], got \[32, 32, 3\]"
    ):
        shapes(ResNet(**TINY), images()[0])


def test_fields_may_be_lists():
    net = ResNet(layers=[1, 1], widths=[8, 16], block=["basic", "bottleneck"])
    assert shapes(net)[0] == (2, 4, 4, 64)
    model = fz.models.get("resnet18", layers=[1, 1], widths=[8, 16])
    assert hash(model.module) == hash(
        fz.models.get("resnet18", layers=(1, 1), widths=(8, 16)).module
    )


def test_channels_of_each_convolution():
    net = ResNet(**{**TINY, **TWO, "channels": CHANNELS})
    params = jax.eval_shape(net.init, jax.random.key(0), images())["params"]
    for name, widths in (("layer1_0", (3, 5, 7)), ("layer2_0", (4, 6, 9)), ("layer2_1", (2, 8, 9))):
        kernels = [params[name][f"conv{i}"]["kernel"].shape for i in (1, 2, 3)]
        assert tuple(shape[-1] for shape in kernels) == widths
    assert params["layer2_0"]["downsample_0"]["kernel"].shape == (1, 1, 7, 9)


def test_a_gate_for_each_stage():
    net = ResNet(**{**TINY, **TWO, "gate": ("se", None)})
    params = jax.eval_shape(net.init, jax.random.key(0), images())["params"]
    assert "fc1" in params["layer1_0"]["se"]
    assert "se" not in params["layer2_0"]


# What a user puts in.


class Scale(nn.Module):
    """A norm of one's own that knows of no statistics."""

    dtype: object = None
    param_dtype: object = jnp.float32
    scale_init: object = nn.initializers.ones

    @nn.compact
    def __call__(self, x):
        return x * self.param("scale", self.scale_init, x.shape[-1:], self.param_dtype)


class Gate(nn.Module):
    """A gate of one's own."""

    strength: float = 1.0
    dtype: object = None
    param_dtype: object = jnp.float32

    @nn.compact
    def __call__(self, x):
        return (
            x
            * nn.sigmoid(self.strength * nn.Dense(x.shape[-1], name="gate")(x.mean((1, 2))))[
                :, None, None
            ]
        )


class PreActivation(ResidualBlock):
    """A block of one's own, by the shared parts."""

    @nn.compact
    def __call__(self, x, train=False):
        y = nn.relu(self.normalise(x, "bn1", train))
        y = self.conv(self.features, 3, "conv1", stride=self.stride)(y)
        return y + self.shortcut(x, train)


class NarrowBottleneck(ResidualBlock):
    """A block with a field of its own, to be set by a partial."""

    expansion = 4
    narrow: int = 1

    @nn.compact
    def __call__(self, x, train=False):
        y = self.conv(self.features // self.narrow, 1, "conv1", stride=self.stride)(x)
        y = self.conv(self.features * self.expansion, 1, "conv2")(nn.relu(y))
        return self.add(x, y, train)


@pytest.mark.parametrize(
    "norm", [Scale, nn.LayerNorm, functools.partial(nn.GroupNorm, num_groups=4)]
)
def test_a_norm_of_ones_own(norm):
    net = ResNet(**SMALL, norm=norm)
    x = images()
    variables = filled(net)
    assert set(variables) == {"params"}
    assert variables["params"]["layer1_0"]["bn3"]["scale"].shape == (32,)
    assert np.isfinite(jax.jit(net.apply)(variables, x)).all()
    assert shapes(net, train=True)[0] == (2, 4, 4, 48)


def test_flaxs_own_batch_norm_follows_the_mode():
    net = ResNet(**SMALL, norm=functools.partial(nn.BatchNorm, momentum=0.5))
    variables = filled(net)
    run = jax.jit(functools.partial(net.apply, train=True, mutable=["batch_stats"]))
    _, updates = run(variables, images())
    before = variables["batch_stats"]["bn1"]["mean"]
    assert not np.allclose(updates["batch_stats"]["bn1"]["mean"], before)


def test_gates_were_called_attention(tmp_path):
    small = {"num_classes": 2, "input_shape": (16, 16, 3)}
    with pytest.warns(DeprecationWarning, match="'attention' is called 'gate' now") as caught:
        old = fz.models.get("test_resnet", attention="se", **small)
    assert [warning.filename for warning in caught] == [__file__]
    new = fz.models.get("test_resnet", gate="se", **small)
    assert (old.module, old.spec) == (new.module, new.spec)
    # A file that was written before still loads, and without a warning.
    new.init().save(tmp_path / "new")
    config = tmp_path / "new" / "config.json"
    config.write_text(config.read_text().replace('"gate"', '"attention"'))
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        assert fz.Model.load(tmp_path / "new").module == new.module
        again = fz.models.get("test_resnet", pretrained=str(tmp_path / "new"))
    assert (again.module, again.spec.config) == (new.module, new.spec.config)


@pytest.mark.parametrize("gate", [Gate, functools.partial(Gate, strength=2.0)])
def test_a_gate_of_ones_own(gate):
    out, variables = shapes(ResNet(**TINY, gate=gate))
    assert out == (2, 1, 1, 32)
    assert variables["params"]["layer3_0"]["se"]["gate"]["kernel"] == (32, 32)


@pytest.mark.parametrize("remat", [False, True])
def test_a_block_of_ones_own(remat):
    out, variables = shapes(ResNet(**TINY, block=PreActivation, remat=remat))
    assert out == (2, 1, 1, 8)
    names = {"bn1", "conv1", "downsample_0", "downsample_1"}
    assert set(variables["params"]["layer2_0"]) == names


@pytest.mark.parametrize("remat", [False, True])
def test_a_block_with_fields_of_its_own(remat):
    block = functools.partial(NarrowBottleneck, narrow=2)
    out, variables = shapes(ResNet(**TINY, block=block, remat=remat))
    assert out == (2, 1, 1, 32)
    assert variables["params"]["layer2_0"]["conv1"]["kernel"] == (1, 1, 32, 4)


def test_blocks_of_both_kinds():
    net = ResNet(**TINY, block=("basic", BasicBlock, "bottleneck", "basic"), feature_maps=True)
    maps, _ = shapes(net)
    assert [shape[-1] for shape in maps.values()] == [8, 8, 8, 32, 8]


# As a part of a classifier.


def test_no_classes_leaves_pooled_features():
    model = tiny_model(num_classes=0)
    out = model(images())
    assert out.shape == (2, 12)
    assert set(model.variables["params"]) == {"backbone"}
    maps = np.asarray(model.features(images()))
    np.testing.assert_allclose(out, maps.mean((1, 2)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", ["max", "avg+max"])
def test_poolings(pooling):
    model = tiny_model(num_classes=0, pooling=pooling)
    maps = np.asarray(model.features(images()))
    expected = maps.max((1, 2))
    if pooling == "avg+max":
        expected = (expected + maps.mean((1, 2))) / 2
    np.testing.assert_allclose(model(images()), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 4])
def test_in_channels(channels):
    model = fz.models.get("resnet18", in_channels=channels, **TINY)
    assert model.spec.input_shape == (224, 224, channels)
    assert (model.spec.preprocess is None) == (channels == 4)
    tree = model.shapes()["params"]["backbone"]
    assert tree["conv1_0"]["kernel"].shape == (3, 3, channels, 4)


def test_in_channels_is_for_images():
    with pytest.raises(ValueError, match=r"in_channels is for images \[H, W, C\], 'lstm' takes"):
        fz.models.get("lstm", in_channels=1)
    with pytest.raises(ValueError, match="in_channels must be an int of at least 1 or None, got 0"):
        fz.models.get("resnet18", in_channels=0)


def test_images_of_other_channels_than_the_weights():
    with pytest.raises(ShapeError, match=r"backbone/conv1_0 takes 3 channels, got 1"):
        tiny_model()(images(channels=1))


class MyHead(nn.Module):
    """A user's head in plain Linen."""

    num_classes: int = 2

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Dropout(0.1)(x.mean((1, 2)), deterministic=not train)
        return nn.Dense(self.num_classes)(nn.relu(nn.Dense(8)(x)))


def test_a_head_of_ones_own_trains_on_a_frozen_backbone(assert_trees_equal):
    model = tiny_model()
    net = fz.Classifier(backbone=model.module.backbone, head=MyHead())
    composed = fz.Model(net, None, model.spec).init(1, images())
    variables = {
        name: {**tree, "backbone": model.variables[name]["backbone"]}
        for name, tree in composed.variables.items()
    }
    composed = composed.with_variables(variables)
    replaced = model.replace_head(MyHead(), rng=3)
    assert_trees_equal(
        replaced.variables["params"]["backbone"], composed.variables["params"]["backbone"]
    )
    state = fz.create_train_state(composed, freeze="backbone", learning_rate=1e-2)
    batch = (images(batch=8), np.arange(8) % 2)
    losses = []
    for _ in range(20):
        state, metrics = fz.train_step(state, batch)
        losses.append(float(metrics.compute()["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    assert_trees_equal(state.params["backbone"], model.variables["params"]["backbone"])
    assert_trees_equal(state.batch_stats["backbone"], model.variables["batch_stats"]["backbone"])


# Plain JAX.


def test_exports_for_any_batch():
    model = tiny_model()
    run = jax.jit(lambda v, x: model.module.apply(v, x))
    batch = jax.ShapeDtypeStruct(jax.export.symbolic_shape("b, 32, 32, 3"), jnp.float32)
    exported = jax.export.export(run)(model.variables, batch)
    x = images(batch=3)
    np.testing.assert_allclose(exported.call(model.variables, x), model(x), rtol=1e-5, atol=1e-6)


def test_tables_of_layers():
    model = tiny_model()
    text = str(model.summary(images()))
    assert "layer2_0" in text
    table = nn.tabulate(model.module, jax.random.key(0), depth=2, console_kwargs={"width": 200})
    assert "backbone/layer2_0" in table(images())


def test_an_ensemble_by_vmap():
    net = ResNet(**SMALL)
    variables = [filled(net, seed=i) for i in range(2)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *variables)
    outs = jax.jit(jax.vmap(net.apply, in_axes=(0, None)))(stacked, images())
    apply = jax.jit(net.apply)
    for i in range(2):
        expected = apply(variables[i], images())
        np.testing.assert_allclose(outs[i], expected, rtol=1e-4, atol=1e-4)


def test_saves_and_loads(tmp_path):
    model = fz.models.get("resnet18", num_classes=3, in_channels=1, dtype="bfloat16", **SMALL)
    model = model.with_variables(filled(model.module, images(channels=1)))
    model.save(tmp_path)
    again = fz.Model.load(tmp_path)
    assert again.module == model.module
    assert again.spec.input_shape == (224, 224, 1)
    x = images(channels=1)
    np.testing.assert_array_equal(again(x), model(x))


def test_averages_need_even_maps():
    # JAX would broadcast the 1 x 1 map of a branch over a 2 x 2 shortcut.
    net = ResNet(**SMALL, anti_aliasing="avg")
    for size in (12, 20):
        with pytest.raises(ShapeError, match=r"'layer2_0' cannot add maps of .* must be even"):
            shapes(net, images(size, size))


def test_dilated_stages_of_one_width_keep_their_shortcuts():
    assert shapes(ResNet(**TINY))[1] == shapes(ResNet(**TINY, output_stride=8))[1]


def test_no_layer_is_of_no_width():
    with pytest.raises(ValueError, match="features must be an int of at least 1, got 0"):
        shapes(ResNet(**{**TINY, "stem": "tiered", "stem_width": 3}))


def test_what_no_file_can_hold_names_its_argument():
    model = fz.models.get("resnet18", norm=nn.LayerNorm)
    with pytest.raises(ValueError, match="the argument norm=.*LayerNorm.* cannot be written"):
        model.spec.to_json()
