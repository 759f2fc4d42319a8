"""Weights through jax-resnet and flaxmodels: names, values, numbers and what is refused."""

import functools
import sys

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._trees import flatten, unflatten
from flaxzoo.errors import CheckpointError, MissingExtraError, UnknownNameError
from flaxzoo.models.resnest import FastResNeStBlock
from flaxzoo.weights import sources
from flaxzoo.weights.sources.flaxmodels import from_flaxmodels
from flaxzoo.weights.sources.jax_resnet import from_jax_resnet

jax_resnet = pytest.importorskip("jax_resnet")
flaxmodels = pytest.importorskip("flaxmodels")

NORM = {"params": ("scale", "bias"), "batch_stats": ("mean", "var")}
IMAGES = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)


def shapes_of(module):
    return jax.eval_shape(lambda x: module.init(jax.random.key(0), x), IMAGES)


def filled(module):
    """Random variables of a network that is never initialised."""
    rng = np.random.default_rng(0)

    def leaf(path, shape):
        name, shape = path.rpartition("/")[2], shape.shape
        noise = rng.standard_normal(shape, np.float32)
        if name == "kernel":
            return noise * np.float32(np.sqrt(2 / np.prod(shape[:-1])))
        return 1 + abs(noise) / 2 if name in ("scale", "var") else noise / 10

    return unflatten(
        {path: leaf(path, shape) for path, shape in flatten(shapes_of(module)).items()}
    )


def small(block=jax_resnet.ResNetBottleneckBlock, stem=jax_resnet.ResNetStem, stages=(2, 1)):
    return jax_resnet.ResNet(
        block, stage_sizes=stages, hidden_sizes=(4, 8), n_classes=5, stem_cls=stem
    )


def rule(depths, convs, widths, shortcut=0, deep=False):
    """The leaves of a ResNet by timm's names, with shapes, as design section 3 writes them."""
    leaves, expansion = {}, 4 if convs == 3 else 1

    def conv(name, *shape):
        leaves[f"params/backbone/{name}/kernel"] = shape

    def norm(name, width):
        for collection, names in NORM.items():
            for leaf in names:
                leaves[f"{collection}/backbone/{name}/{leaf}"] = (width,)

    if deep:
        for i, (inputs, width) in enumerate(((3, 32), (32, 32), (32, 64))):
            conv(f"conv1_{3 * i}", 3, 3, inputs, width)
            norm(f"conv1_{3 * i + 1}" if i < 2 else "bn1", width)
    else:
        conv("conv1", 7, 7, 3, 64)
        norm("bn1", 64)
    channels = 64
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
        for i in range(depth):
            block, outputs = f"layer{stage}_{i}", width * expansion
            sizes = ((1, width), (3, width), (1, outputs)) if convs == 3 else ((3, width),) * 2
            inputs = channels
            for j, (size, features) in enumerate(sizes, 1):
                conv(f"{block}/conv{j}", size, size, inputs, features)
                norm(f"{block}/bn{j}", features)
                inputs = features
            if i == 0 and (stage > 1 or channels != outputs):
                conv(f"{block}/downsample_{shortcut}", 1, 1, channels, outputs)
                norm(f"{block}/downsample_{shortcut + 1}", outputs)
            channels = outputs
    leaves["params/head/fc/kernel"], leaves["params/head/fc/bias"] = (channels, 1000), (1000,)
    return leaves


WIDTHS = (64, 128, 256, 512)
RULES = {
    "resnet18": rule((2, 2, 2, 2), 2, WIDTHS),
    "resnet50": rule((3, 4, 6, 3), 3, WIDTHS),
    "resnet18d": rule((2, 2, 2, 2), 2, WIDTHS, shortcut=1, deep=True),
    "resnet50d": rule((3, 4, 6, 3), 3, WIDTHS, shortcut=1, deep=True),
}
THEIRS = {
    "resnet18": jax_resnet.ResNet18,
    "resnet50": jax_resnet.ResNet50,
    "resnet18d": jax_resnet.ResNetD18,
    "resnet50d": jax_resnet.ResNetD50,
    "wide_resnet50_2": jax_resnet.WideResNet50,
    "resnext50_32x4d": jax_resnet.ResNeXt50,
    "resnest50d": jax_resnet.ResNeSt50,
    "fast": jax_resnet.ResNeSt50Fast,
}


@pytest.mark.parametrize("name", RULES)
def test_jax_resnet_has_the_names_and_shapes_of_the_rule(name):
    module = THEIRS[name](n_classes=1000)
    converted = flatten(from_jax_resnet(module, shapes_of(module)))
    assert {path: leaf.shape for path, leaf in converted.items()} == RULES[name]


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_flaxmodels_has_the_names_and_shapes_of_the_rule(name):
    module = getattr(flaxmodels, name.replace("resnet", "ResNet"))(pretrained=None)
    converted = flatten(from_flaxmodels(module, shapes_of(module)))
    assert {path: leaf.shape for path, leaf in converted.items()} == RULES[name]


@pytest.mark.parametrize(
    ("name", "depths"), [("vgg16", (2, 2, 3, 3, 3)), ("vgg19", (2, 2, 4, 4, 4))]
)
def test_flaxmodels_vggs_have_the_names_and_shapes_of_the_rule(name, depths):
    module = getattr(flaxmodels, name.upper())(pretrained=None)
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    # Views of one zero: nothing of their 138 million parameters is stored.
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.float32(0), leaf.shape), shapes)
    fc6 = zeros["params"]["fc6"]["kernel"] = np.zeros((25088, 4096), np.float32)
    # An element of the map's channel 5, row 3 and column 2, which PyTorch flattens in this order.
    fc6[5 * 49 + 3 * 7 + 2, 11] = 1
    converted = flatten(from_flaxmodels(module, zeros))

    expected, place, inputs = {}, 0, 3
    for depth, width in zip(depths, (64, 128, 256, 512, 512), strict=True):
        for _ in range(depth):
            expected[f"backbone/features_{place}"] = (3, 3, inputs, width)
            place, inputs = place + 2, width
        place += 1
    expected["backbone/pre_logits/fc1"] = (7, 7, 512, 4096)
    expected["backbone/pre_logits/fc2"] = (1, 1, 4096, 4096)
    expected["head/fc"] = (4096, 1000)
    kernels = {f"params/{layer}/kernel": shape for layer, shape in expected.items()}
    biases = {f"params/{layer}/bias": shape[-1:] for layer, shape in expected.items()}
    assert {path: leaf.shape for path, leaf in converted.items()} == {**kernels, **biases}
    assert converted["params/backbone/pre_logits/fc1/kernel"][3, 2, 5, 11] == 1

    with pytest.raises(CheckpointError, match=r"of its convolutions, it has (13|16)"):
        from_flaxmodels({"vgg16": "vgg19", "vgg19": "vgg16"}[name], zeros)


def test_the_names_of_split_attention():
    module = small(jax_resnet.ResNeStBottleneckBlock, jax_resnet.ResNetDStem)
    converted = flatten(from_jax_resnet(module, filled(module)))
    expected = set()
    for block, shortcut in (("layer1_0", True), ("layer1_1", False), ("layer2_0", True)):
        convs = ["conv1", "conv2/conv", "conv2/fc1", "conv2/fc2", "conv3"]
        norms = ["bn1", "conv2/bn0", "conv2/bn1", "bn3"]
        convs += ["downsample_1"] * shortcut
        norms += ["downsample_2"] * shortcut
        expected |= {f"params/backbone/{block}/{conv}/kernel" for conv in convs}
        expected |= {f"params/backbone/{block}/conv2/{fc}/bias" for fc in ("fc1", "fc2")}
        for norm in norms:
            for collection, leaves in NORM.items():
                expected |= {f"{collection}/backbone/{block}/{norm}/{leaf}" for leaf in leaves}
    assert {path for path in converted if "/layer" in path} == expected
    # Without match_reference jax-resnet has no bias there; ours then adds nothing.
    assert not converted["params/backbone/layer1_0/conv2/fc1/bias"].any()


def test_split_attention_keeps_the_bias_that_there_is():
    splits = functools.partial(jax_resnet.SplAtConv2d, match_reference=True)
    block = functools.partial(jax_resnet.ResNeStBottleneckBlock, splat_cls=splits)
    module = small(block, jax_resnet.ResNetDStem)
    variables = filled(module)
    theirs = variables["params"]["layers_2"]["SplAtConv2d_0"]["ConvBlock_1"]["Conv_0"]["bias"]
    converted = from_jax_resnet(module, variables)
    assert converted["params"]["backbone"]["layer1_0"]["conv2"]["fc1"]["bias"] is theirs


@pytest.mark.parametrize("source", ["jax_resnet", "flaxmodels"])
def test_every_array_arrives_once_and_as_it_was(source):
    if source == "jax_resnet":
        module = small()
        variables = filled(module)
        converted = from_jax_resnet(module, variables)
        moved = {
            "layers_0/ConvBlock_0/Conv_0/kernel": "conv1/kernel",
            "layers_3/ConvBlock_1/Conv_0/kernel": "layer1_1/conv2/kernel",
            "layers_4/ResNetSkipConnection_0/ConvBlock_0/BatchNorm_0/scale": (
                "layer2_0/downsample_1/scale"
            ),
        }
    else:
        module = flaxmodels.ResNet18(pretrained=None)
        variables = filled(module)
        converted = from_flaxmodels(module, variables)
        moved = {
            "Conv_0/kernel": "conv1/kernel",
            "BasicBlock_1/Conv_1/kernel": "layer1_1/conv2/kernel",
            "BasicBlock_2/BatchNorm_2/scale": "layer2_0/downsample_1/scale",
        }
    theirs, ours = flatten(variables), flatten(converted)
    assert sorted(map(id, ours.values())) == sorted(map(id, theirs.values()))
    for before, after in moved.items():
        assert ours[f"params/backbone/{after}"] is theirs[f"params/{before}"]


def close(ours, theirs):
    assert np.std(theirs) > 0
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("name", THEIRS)
def test_jax_resnet_and_ours_compute_the_same(name, rng):
    # Narrow and shallow; tests/parity has the networks as they are.
    wide = name.startswith("wide")
    widths = (16, 32)
    module = THEIRS[name](
        n_classes=10, stage_sizes=(1, 2), hidden_sizes=[2 * w if wide else w for w in widths]
    )
    options = {"layers": (1, 2), "widths": widths, "num_classes": 10}
    if name == "fast":
        name, options["block"] = "resnest50d", FastResNeStBlock
    variables = filled(module)
    ours = fz.models.get(name, **options).with_variables(from_jax_resnet(module, variables))
    images = rng.standard_normal((2, 64, 64, 3), np.float32)
    theirs = jax.jit(lambda v, x: module.apply(v, x, mutable=False))(variables, images)
    close(ours(images), theirs)


def test_flaxmodels_and_ours_compute_the_same(rng):
    module = flaxmodels.ResNet18(pretrained=None, output="logits")
    variables = filled(module)
    pixels = rng.random((2, 64, 64, 3), np.float32)
    theirs = jax.jit(lambda v, x: module.apply(v, x, train=False))(variables, pixels)
    ours = fz.models.get("resnet18").with_variables(from_flaxmodels(module, variables))
    # Its networks normalise pixels themselves, by the numbers that preprocess gives for ours.
    expects = sources.preprocess("resnet18", "flaxmodels")
    close(ours((pixels - np.float32(expects["mean"])) / np.float32(expects["std"])), theirs)


def test_networks_without_a_head():
    module = small()
    variables = filled(module)
    whole = from_jax_resnet(module, variables)
    for end in (-1, -2):
        sliced = jax_resnet.Sequential(module.layers[:end])
        converted = from_jax_resnet(sliced, jax_resnet.slice_variables(variables, 0, end))
        assert set(converted["params"]) == {"backbone"}
        assert flatten(converted).keys() == {k for k in flatten(whole) if "/head/" not in k}
    first = jax_resnet.Sequential(module.layers[:3])
    converted = from_jax_resnet(first, jax_resnet.slice_variables(variables, 0, 3))
    assert set(converted["params"]["backbone"]) == {"conv1", "bn1", "layer1_0"}


def test_modules_and_variables_in_every_form():
    module = small()
    variables = filled(module)
    expected = flatten(from_jax_resnet(module, variables))
    for form in (small, None):
        assert flatten(from_jax_resnet(form, flax.core.freeze(variables))) == expected


def test_a_leaf_that_is_missing_or_has_no_place():
    module = small()
    variables = flatten(filled(module))
    del variables["batch_stats/layers_2/ConvBlock_1/BatchNorm_0/var"]
    variables["params/layers_2/ConvBlock_1/Conv_0/bias"] = np.zeros(4)
    for i in range(11):
        variables[f"params/layers_3/Extra_{i}/kernel"] = np.zeros(4)
    with pytest.raises(CheckpointError) as error:
        from_jax_resnet(module, unflatten(variables))
    message = str(error.value)
    assert "1 missing: batch_stats/layers_2/ConvBlock_1/BatchNorm_0/var" in message
    assert "12 without a place: params/layers_2/ConvBlock_1/Conv_0/bias, params/" in message
    assert "Extra_8/kernel ..." in message
    assert "Extra_9" not in message


def test_variables_of_another_network_or_slice():
    module = small()
    variables = filled(module)
    with pytest.raises(
        CheckpointError, match=r"parameters are 0, 2-3, 5, those of the variables 0, 2-4, 6;"
    ):
        from_jax_resnet(small(stages=(1, 1)), variables)
    with pytest.raises(CheckpointError, match="slice_variables"):
        from_jax_resnet(jax_resnet.Sequential(module.layers[:-2]), variables)
    for start in (2, 3):
        later = jax_resnet.Sequential(module.layers[start:])
        with pytest.raises(CheckpointError, match="begin with the stem"):
            from_jax_resnet(later, jax_resnet.slice_variables(variables, start))
    with pytest.raises(CheckpointError, match="hold nothing"):
        from_jax_resnet(None, {})
    with pytest.raises(TypeError, match=r"jax_resnet\.Sequential.* got Dense"):
        from_jax_resnet(flax.linen.Dense(3), variables)


def test_flaxmodels_variables_that_do_not_fit():
    module = flaxmodels.ResNet18(pretrained=None)
    variables = filled(module)
    with pytest.raises(CheckpointError, match="have 8 of its blocks, it has 16"):
        from_flaxmodels("resnet34", variables)
    with pytest.raises(CheckpointError, match="have 0 of its blocks, it has 16"):
        from_flaxmodels("resnet50", variables)
    with pytest.raises(UnknownNameError, match=r"no weights for 'resnet20'.*resnet18, resnet34"):
        from_flaxmodels("resnet20", variables)
    with pytest.raises(TypeError, match="its name, got int"):
        from_flaxmodels(18, variables)
    flat = flatten(variables)
    del flat["params/BasicBlock_2/Conv_2/kernel"]
    flat["params/BasicBlock_0/Conv_2/kernel"] = np.zeros(1)
    with pytest.raises(CheckpointError, match=r"1 missing: .*_2/Conv_2.*1 without .*_0/Conv_2"):
        from_flaxmodels(module, unflatten(flat))


def test_names_and_preprocessing():
    resnets = tuple(f"resnet{n}" for n in (18, 34, 50, 101, 152))
    assert sources.names("flaxmodels") == (*resnets, "vgg16", "vgg19")
    names = set(sources.names("jax_resnet")) - {"resnest50_fast_2s1x64d"}
    assert len(names) == 14
    assert names <= set(fz.models.list())
    for name in sources.names("jax_resnet"):
        expects = sources.preprocess(name, "jax_resnet")
        assert expects["mean"] == [0.485, 0.456, 0.406]
        assert expects["std"] == [0.229, 0.224, 0.225]
        assert expects["interpolation"] == ("bicubic" if "nest" in name else "bilinear")
    assert sources.preprocess("resnet50", "jax_resnet")["crop"] == 0.875
    assert sources.preprocess("resnest269e", "jax_resnet")["crop"] == 416 / 448
    for name in sources.names("flaxmodels"):
        assert sources.preprocess(name, "flaxmodels")["crop"] == 0.875


@pytest.mark.parametrize("call", [sources.load, sources.preprocess])
def test_unknown_names(call):
    with pytest.raises(UnknownNameError, match=r"Did you mean .*'resnest50d'.*resnet18, resnet34"):
        call("resnest50", "jax_resnet")
    with pytest.raises(UnknownNameError, match="flaxmodels has no weights for 'vit_base'"):
        call("vit_base", "flaxmodels")
    with pytest.raises(UnknownNameError, match="'jax-resnet'. Did you mean 'jax_resnet'"):
        call("resnet50", "jax-resnet")


def test_jax_resnet_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtraError, match=r"'resnet50' needs torch.*pip install torch"):
        sources.load("resnet50", "jax_resnet")
