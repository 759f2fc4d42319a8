"""``get(..., pretrained=)`` with files under the reference's names: heads, channels, errors."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.errors import CheckpointError, UnknownNameError
from flaxzoo.layers.initializers import HeNormal
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import MODELS
from flaxzoo.models.resnet import REFERENCE
from flaxzoo.weights.names import adapt_channels, to_reference
from flaxzoo.weights.pretrained import Weights, load

SMALL = {"layers": (1, 1), "widths": (8, 12), "input_shape": (32, 32, 3)}


def images(channels=3):
    values = np.random.default_rng(0).standard_normal((2, 32, 32, channels))
    return values.astype(np.float32)


def tensors_of(num_classes=5, dtype=np.float32, **options):
    """A checkpoint of random weights in the reference's names and layout."""
    rng = np.random.default_rng(1)
    model = fz.models.get("resnet18", num_classes=num_classes, **{**SMALL, **options})
    variables = {
        path: (0.5 + rng.random(leaf.shape)).astype(np.float32)
        for path, leaf in flatten(model.shapes()).items()
    }
    tensors = to_reference(variables, REFERENCE)
    return {k: v if v.dtype == np.int64 else v.astype(dtype) for k, v in tensors.items()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "five.safetensors"
    save_file(tensors_of(), path)
    return path


@pytest.fixture
def drawn(monkeypatch):
    """Shapes of the kernels whose initial values are computed, not only traced."""
    shapes, plain = [], HeNormal.__call__

    def spy(self, key, shape, dtype=jnp.float32):
        jax.debug.callback(lambda: shapes.append(tuple(shape)))
        return plain(self, key, shape, dtype)

    monkeypatch.setattr(HeNormal, "__call__", spy)
    return shapes


def get(path, **options):
    return fz.models.get("resnet18", pretrained=path, **{**SMALL, **options})


def backbone_of(model):
    return {name: tree["backbone"] for name, tree in model.variables.items()}


def test_the_number_of_classes_is_the_files(weights):
    model = get(weights)
    assert model.module.head.num_classes == 5
    assert model.spec.config["num_classes"] == 5
    tensors = load_file(weights)
    params = model.variables["params"]
    np.testing.assert_array_equal(params["head"]["fc"]["kernel"], tensors["fc.weight"].T)
    np.testing.assert_array_equal(params["head"]["fc"]["bias"], tensors["fc.bias"])
    kernel = params["backbone"]["conv1"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors["conv1.weight"].transpose(2, 3, 1, 0))
    stats = model.variables["batch_stats"]["backbone"]["layer2_0"]["downsample_1"]
    np.testing.assert_array_equal(stats["var"], tensors["layer2.0.downsample.1.running_var"])
    assert model(images()).shape == (2, 5)


def test_asking_for_the_files_classes_keeps_its_head(weights, assert_trees_equal):
    assert_trees_equal(get(weights, num_classes=5).variables, get(weights).variables)


def test_other_classes_get_a_fresh_head(weights, assert_trees_equal):
    model = get(weights, num_classes=2)
    assert_trees_equal(backbone_of(model), backbone_of(get(weights)))
    kernel = np.asarray(model.variables["params"]["head"]["fc"]["kernel"])
    assert kernel.shape == (12, 2)
    assert kernel.std() > 0
    # The same fresh head each time, and the collections in the order of the module's own.
    assert_trees_equal(get(weights, num_classes=2).variables, model.variables)
    assert list(flatten(model.variables)) == list(flatten(model.shapes()))


def test_no_classes_drop_the_head(weights, assert_trees_equal):
    model = get(weights, num_classes=0)
    assert set(model.variables["params"]) == {"backbone"}
    assert_trees_equal(backbone_of(model), backbone_of(get(weights)))
    assert model(images()).shape == (2, 12)


def test_feature_maps_need_no_head(weights):
    model = get(weights, features=True)
    assert set(model.variables["params"]) == {"backbone"}
    maps = model(images())
    np.testing.assert_allclose(maps["layer2"], get(weights).features(images()), rtol=1e-5)


def test_nothing_is_initialised_that_the_file_has(weights, drawn):
    # Fields of their own, so that no function compiled before is used.
    fields = {"activation": "gelu"}
    for num_classes in (None, 0, 2):
        get(weights, num_classes=num_classes, **fields)
    jax.effects_barrier()
    assert not drawn
    fz.models.get("resnet18", **SMALL, **fields).init()
    jax.effects_barrier()
    assert (7, 7, 3, 64) in drawn


def test_a_file_without_a_head(tmp_path, assert_trees_equal):
    tensors = {k: v for k, v in tensors_of().items() if not k.startswith("fc.")}
    path = tmp_path / "headless.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"2 missing from the file: fc.bias; fc.weight"):
        get(path)
    assert get(path, num_classes=3)(images()).shape == (2, 3)
    assert get(path, num_classes=0)(images()).shape == (2, 12)


@pytest.fixture
def normed():
    """The architecture with a norm in its head, of which timm's name is ``head.norm``."""
    known = MODELS.architecture("resnet18")

    def build(num_classes=1000, **options):
        module = known.factory(num_classes, **options)
        return fz.models.Classifier(module.backbone, module.head.clone(norm="layer"))

    reference = Reference(stem=("conv1",), classifier="head.fc", head=(("norm", "head.norm"),))
    return dataclasses.replace(known, name="normed", factory=build, reference=reference)


@pytest.mark.parametrize("num_classes", [0, 3])
def test_weights_of_a_backbone_alone_leave_the_whole_head_fresh(normed, num_classes):
    module = normed.factory(num_classes, layers=(1, 1), widths=(8, 12))
    model = fz.Model(module, None, fz.ModelSpec("normed", input_shape=(32, 32, 3)))
    bare = {k: v for k, v in tensors_of().items() if not k.startswith("fc.")}

    def load_them(**others):
        weights = Weights({**bare, **others}, "a file", ours=False)
        return load(
            model.shapes(),
            weights,
            module,
            name=normed.name,
            reference=normed.reference,
            fresh_classifier=num_classes > 0,
        )

    variables, missing = load_them()
    classifier = {"params/head/fc/bias", "params/head/fc/kernel"} if num_classes else set()
    assert set(missing) == {"params/head/norm/bias", "params/head/norm/scale"} | classifier
    assert "head" not in variables["params"]
    # Half a head is a damaged file.
    with pytest.raises(CheckpointError, match=r"1 missing from the file: head\.norm\.bias"):
        load_them(**{"head.norm.weight": np.ones(12, np.float32)})


def test_a_head_of_ones_own_on_loaded_weights(weights, assert_trees_equal):
    head = fz.models.Head(2, hidden=(4,), batch_norm=True, dropout=0.5)
    model = get(weights).replace_head(head)
    assert_trees_equal(
        model.variables["params"]["backbone"], get(weights).variables["params"]["backbone"]
    )
    assert set(model.variables["batch_stats"]["head"]) == {"norm_0"}
    assert model(images()).shape == (2, 2)


# Layouts and dtypes.


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_files_become_as_wide_as_the_model(dtype, tmp_path, assert_trees_equal):
    path = tmp_path / "narrow.safetensors"
    tensors = tensors_of(dtype=dtype)
    save_file(tensors, path)
    name = np.dtype(dtype).name
    says = rf"narrow.safetensors: \d+ of \d+ tensors are {name} and become float32.*'{name}' keeps"
    with pytest.warns(UserWarning, match=says) as told:
        model = get(path)
    assert len(told) == 1
    assert {leaf.dtype for leaf in jax.tree.leaves(model.variables)} == {jnp.dtype("float32")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        meant, kept = get(path, param_dtype="float32"), get(path, param_dtype=dtype)
    assert_trees_equal(meant.variables, model.variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(kept.variables["params"])} == {jnp.dtype(dtype)}
    np.testing.assert_array_equal(
        model.variables["params"]["backbone"]["bn1"]["scale"],
        tensors["bn1.weight"].astype(np.float32),
    )


def test_our_own_layout_and_a_saved_directory(weights, tmp_path, assert_trees_equal):
    model = get(weights)
    model.save(tmp_path / "saved")
    for source in (tmp_path / "saved", tmp_path / "saved" / "model.safetensors"):
        again = get(source)
        assert again.module.head.num_classes == 5
        assert_trees_equal(again.variables, model.variables)
    fresh = get(tmp_path / "saved", num_classes=2)
    assert_trees_equal(backbone_of(fresh), backbone_of(model))
    assert fresh(images()).shape == (2, 2)
    assert_trees_equal(fz.Model.load(tmp_path / "saved").variables, model.variables)


def test_variables_outlive_their_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(tensors_of(), path)
    model = get(path)
    before = jax.tree.map(np.array, model.variables)
    # In place, so that a mapping of the file would see it.
    with path.open("r+b") as file:
        file.seek(-4096, 2)
        file.write(bytes(4096))
    jax.tree.map(np.testing.assert_array_equal, model.variables, before)


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_in_channels_adapt_the_first_convolution(weights, channels, assert_trees_equal):
    model = get(weights, input_shape=None, in_channels=channels)
    kernel = model.variables["params"]["backbone"]["conv1"]["kernel"]
    expected = adapt_channels(load_file(weights)["conv1.weight"], channels)
    np.testing.assert_array_equal(kernel, expected.transpose(2, 3, 1, 0))
    assert model(images(channels)).shape == (2, 5)
    whole = get(weights)
    for tree in (model.variables["params"]["backbone"], whole.variables["params"]["backbone"]):
        del tree["conv1"]
    assert_trees_equal(model.variables, whole.variables)


def test_an_input_shape_of_other_channels_adapts_too(weights):
    assert get(weights, input_shape=(32, 32, 1))(images(1)).shape == (2, 5)


# Errors.


def test_strict_errors_change_nothing(weights, tmp_path):
    tensors = load_file(weights)
    tensors["layer1.0.extra.weight"] = np.zeros(3, np.float32)
    del tensors["layer2.0.bn2.running_var"]
    tensors["layer1.0.conv1.weight"] = tensors["layer1.0.conv1.weight"][:4].copy()
    path = tmp_path / "other.safetensors"
    save_file(tensors, path)
    content = path.read_bytes()
    for num_classes in (None, 0, 2):
        with pytest.raises(CheckpointError) as caught:
            get(path, num_classes=num_classes)
        text = str(caught.value)
        assert text.startswith(f"{path} does not fit 'resnet18'. ")
        assert "1 missing from the file: layer2.0.bn2.running_var" in text
        assert "1 only in the file: layer1.0.extra.weight" in text
        assert "layer1.0.conv1.weight: file [4, 64, 3, 3], expected [8, 64, 3, 3]" in text
        assert "fc." not in text
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["other.safetensors"]


def test_another_architectures_file(weights):
    with pytest.raises(CheckpointError, match=r"10 of .*|missing from the file: .*conv3") as caught:
        fz.models.get("resnet50", pretrained=weights, **SMALL)
    # The first ten of each, no more.
    assert str(caught.value).count("layer") <= 30


def test_a_family_without_reference_checkpoints(weights):
    message = r"not written by flaxzoo: .*'params/...'.*'mlp' has no reference checkpoints"
    with pytest.raises(CheckpointError, match=message):
        fz.models.get("mlp", pretrained=weights, input_shape=(4,))


def test_tags():
    with pytest.raises(UnknownNameError, match=r"unknown weights 'resnet50.a1_in2k'.*'a1_in1k'"):
        fz.models.get("resnet50.a1_in2k", pretrained=True)
    with pytest.raises(UnknownNameError, match=r"model 'mlp' has no pretrained weights"):
        fz.models.get("mlp", pretrained=True)
    # Without pretrained the tag still says what the model is for.
    model = fz.models.get("resnet50.a1_in1k")
    assert model.variables is None
    assert model.spec.tag == "a1_in1k"


def test_options_are_checked_before_anything_is_read(tmp_path):
    absent = tmp_path / "absent.safetensors"
    with pytest.raises(fz.errors.UnknownArgumentError, match="'drop_rate' is called 'dropout'"):
        fz.models.get("resnet18", pretrained=absent, drop_rate=0.1)
    with pytest.raises(ValueError, match="num_classes must be an int of at least 0 or None"):
        fz.models.get("resnet18", pretrained=absent, num_classes=-1)
    with pytest.raises(CheckpointError, match=r"absent.safetensors.: no such"):
        fz.models.get("resnet18", pretrained=absent)


def test_a_source_of_another_kind():
    with pytest.raises(TypeError, match=r"pretrained must be True.* got 3.5"):
        fz.models.get("resnet18", pretrained=3.5)


# What the catalogue knows goes with the weights.


def test_the_catalogues_facts():
    model = fz.models.get("resnet50.a1_in1k")
    assert len(model.spec.classes) == 1000
    assert model.spec.top1 > 75
    two = fz.models.get("resnet50.a1_in1k", num_classes=2)
    assert two.spec.classes is None
    assert two.spec.top1 is None
    assert two.spec.preprocess == model.spec.preprocess


@pytest.mark.parametrize("channels", [1, 4])
def test_in_channels_adapt_our_own_layout_too(weights, tmp_path, channels, assert_trees_equal):
    get(weights).save(tmp_path)
    options = {"input_shape": None, "in_channels": channels}
    assert_trees_equal(get(tmp_path, **options).variables, get(weights, **options).variables)
