import dataclasses
import json

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import flaxzoo as fz
from flaxzoo.errors import CheckpointError, DataError, ShapeError, UninitializedError
from flaxzoo.models import CNN, Head


@pytest.fixture(scope="module")
def model():
    return fz.models.get("cnn", num_classes=3, input_shape=(8, 8, 1), hidden=(6,)).init(rng=0)


def test_a_model_is_lazy_until_init():
    model = fz.models.get("cnn")
    assert model.variables is None
    assert "no variables yet" in repr(model)
    with pytest.raises(UninitializedError, match=r"model = model.init\(rng=0\)"):
        model(jnp.ones((1, 28, 28, 1)))


def test_init_is_a_function_of_the_seed(model, assert_trees_equal):
    again = fz.models.get("cnn", num_classes=3, input_shape=(8, 8, 1), hidden=(6,))
    assert_trees_equal(again.init(rng=0).variables, model.variables)
    assert_trees_equal(again.init(jax.random.key(0)).variables, model.variables)
    other = again.init(rng=1).variables
    kernel = ("params", "head", "fc", "kernel")
    assert not np.array_equal(_at(other, kernel), _at(model.variables, kernel))


def test_parts(model):
    module, variables = model
    images = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    np.testing.assert_allclose(module.apply(variables, images), model(images), rtol=1e-5)
    assert isinstance(module, fz.Classifier)
    features = model.features(images)
    assert features.shape == (2, 6)
    np.testing.assert_allclose(
        module.apply(variables, images, method="features"), features, rtol=1e-5
    )


def test_shapes_compute_nothing():
    model = fz.models.get("cnn")
    shapes = model.shapes()
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))
    init = jax.tree.map(lambda x: (x.shape, x.dtype), model.init().variables)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == init


def test_summary_counts_parameters_bytes_and_flops():
    summary = fz.models.get("cnn", batch_norm=True).summary()
    conv = 3 * 3 * 1 * 32 + 3 * 3 * 32 * 64
    norms = 2 * (32 + 64)
    dense = 7 * 7 * 64 * 256 + 256 + 256 * 10 + 10
    assert summary.parameters == conv + norms + dense
    assert summary.bytes == 4 * (conv + 2 * norms + dense)
    multiply_adds = 28 * 28 * 9 * 32 + 14 * 14 * 9 * 32 * 64 + 7 * 7 * 64 * 256 + 2560
    assert summary.flops == 2 * multiply_adds
    rows = {layer.path: layer for layer in summary.layers}
    assert rows["backbone/conv_1"].parameters == 3 * 3 * 32 * 64
    assert rows["backbone/conv_1"].flops == 2 * 14 * 14 * 9 * 32 * 64
    assert rows["backbone"].flops + rows["head"].flops == summary.flops
    assert rows["backbone/conv_0"].output == "float32[1, 28, 28, 32]"
    assert [layer.path for layer in summary.layers][:3] == [
        "Classifier",
        "backbone",
        "backbone/conv_0",
    ]
    assert f"parameters {summary.parameters:,}" in str(summary)


def test_flops_of_a_scan_count_every_step():
    class Steps(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.RNN(nn.SimpleCell(5))(x)

    model = fz.Model(Steps())
    summary = model.summary(jnp.ones((1, 7, 3)))
    assert summary.flops == 7 * 2 * (3 * 5 + 5 * 5)


def test_replace_head(model, assert_trees_equal):
    new = model.replace_head(Head(5, hidden=(4,)), rng=1)
    assert new(jnp.ones((2, 8, 8, 1))).shape == (2, 5)
    assert_trees_equal(new.variables["params"]["backbone"], model.variables["params"]["backbone"])
    # A Head of ours goes into the spec; one of the user's can't be told in words.
    assert new.spec.head == {"num_classes": 5, "hidden": (4,)}
    assert model.replace_head(nn.Dense(2)).spec.config is None
    with pytest.raises(TypeError, match=r"replace_head needs a Classifier\(backbone, head\)"):
        fz.Model(nn.Dense(3)).replace_head(Head(2))


def test_composing_by_hand(model):
    class MyHead(nn.Module):
        num_classes: int

        @nn.compact
        def __call__(self, x, *, train=False):
            return nn.Dense(self.num_classes)(x)

    net = fz.models.Classifier(backbone=model.module.backbone, head=MyHead(2))
    composed = fz.Model(net).init(rng=0, inputs=jnp.ones((1, 8, 8, 1)))
    assert composed(jnp.ones((4, 8, 8, 1))).shape == (4, 2)
    assert composed.spec.input_shape == (8, 8, 1)


def test_lists_in_fields_are_fine():
    model = fz.Model(CNN(features=[4], hidden=[5])).init(inputs=jnp.ones((1, 8, 8, 1)))
    assert model.module.features == (4,)
    assert model(jnp.ones((1, 8, 8, 1))).shape == (1, 10)


def test_arrays_in_fields_are_refused():
    class Scaled(nn.Module):
        scale: jax.Array

        def __call__(self, x):
            return x * self.scale

    with pytest.raises(TypeError, match="fields of Scaled must be hashable"):
        fz.Model(Scaled(jnp.ones(3)))


def test_not_a_module():
    with pytest.raises(TypeError, match=r"must be a flax.linen.Module instance, got str"):
        fz.Model("cnn")
    with pytest.raises(TypeError, match="CNN: call it first"):
        fz.Model(CNN)


def test_predict_ranks_classes(model, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8), np.uint8)
    result = model.predict(images, top_k=2, batch_size=2)
    logits = np.asarray(model(images[..., None].astype(np.float32) / 255))
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    order = np.argsort(-expected, -1)[:, :2]
    np.testing.assert_array_equal(result.indices, order)
    np.testing.assert_allclose(
        result.probabilities, np.take_along_axis(expected, order, -1), rtol=1e-5
    )
    assert result.labels[0] == [str(i) for i in order[0]]
    assert len(result) == 5
    assert str(result).count("\n") == 4

    path = tmp_path / "digit.png"
    Image.fromarray(images[0]).save(path)
    for single in (path, str(path), Image.open(path), images[0]):
        one = model.predict(single, top_k=1)
        assert one.indices.tolist() == [[order[0, 0]]]


def test_predict_resizes_and_converts(model):
    big = np.zeros((40, 60, 3), np.uint8)
    assert model.predict(big).indices.shape == (1, 3)
    floating = model.predict(np.zeros((2, 8, 8, 1), np.float32))
    np.testing.assert_allclose(floating.probabilities[0], model.predict(big).probabilities[0])


def test_predict_bad_input(model, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    with pytest.raises(DataError, match=r"notes.txt: not a readable image"):
        model.predict(text)
    with pytest.raises(DataError, match=r"absent.png: no such file"):
        model.predict(tmp_path / "absent.png")
    with pytest.raises(DataError, match="images is empty"):
        model.predict([])
    with pytest.raises(ShapeError, match=r"must have shape \[B, 8, 8, 1\], got \[2, 9, 9, 1\]"):
        model.predict(np.zeros((2, 9, 9, 1), np.float32))
    with pytest.raises(ShapeError, match=r"uint8 of shape .* got int64\[8, 8\]"):
        model.predict([np.zeros((8, 8), np.int64)])
    with pytest.raises(ValueError, match=r"(top_k|batch_size) must be an int of at least 1"):
        model.predict(np.zeros((2, 8, 8), np.uint8), top_k=0)


def test_wrong_input_shapes_are_explained(model):
    with pytest.raises(ShapeError, match=r"images must have shape \[B, H, W, C\]"):
        model(jnp.ones((8, 8, 1)))
    with pytest.raises(ShapeError, match=r"\[1, 8, 8, 3\] do not fit .*conv_0 takes 1 channels"):
        model(jnp.ones((1, 8, 8, 3)))
    with pytest.raises(ShapeError, match=r"inputs of shape \[1, 12, 12, 1\] do not fit"):
        model(jnp.ones((1, 12, 12, 1)))


def test_modules_without_parameters():
    class Pool(nn.Module):
        def __call__(self, x):
            return x.mean((1, 2))

    model = fz.Model(Pool()).init(inputs=jnp.ones((1, 4, 4, 2)))
    assert model(jnp.ones((3, 4, 4, 2))).shape == (3, 2)


def test_images_of_every_kind(model, tmp_path):
    ramp = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    deep = model.spec.preprocess(tmp_path / "deep.png")[0, ..., 0]
    np.testing.assert_allclose(deep, ramp / 65535, atol=1 / 255)

    upright = np.zeros((8, 8), np.uint8)
    upright[0, 0] = 255
    image = Image.fromarray(upright)
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "turned.png", exif=exif)
    turned = model.spec.preprocess(tmp_path / "turned.png")[0, ..., 0]
    assert np.unravel_index(turned.argmax(), turned.shape) == (0, 7)

    half = jnp.ones((2, 8, 8, 1), jnp.bfloat16)
    assert model.predict(half).indices.shape == (2, 3)


def test_nan_does_not_pass_for_an_answer(model):
    with pytest.raises(DataError, match="inputs.*nan"):
        model.predict(np.full((2, 8, 8, 1), np.nan, np.float32))
    broken = model.with_variables(jax.tree.map(lambda x: x * np.nan, model.variables))
    with pytest.raises(DataError, match="outputs are not finite"):
        broken.predict(np.zeros((2, 8, 8, 1), np.float32))


def test_lists_and_paths(model):
    images = np.zeros((2, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(model(images.tolist()), model(images))
    with pytest.raises(TypeError, match=r"got the path 'cat.jpg': use model.predict"):
        model("cat.jpg")


def test_options_go_to_the_backbone():
    model = fz.models.get("lstm", vocab_size=9, hidden_size=4).init()
    module, variables = model
    ids = np.array([[1, 2, 3], [4, 0, 0]])
    by_length = module.apply(variables, ids, lengths=np.array([3, 1]))
    mapped = model({"text": ids, "lengths": np.array([3, 1])})
    np.testing.assert_allclose(by_length, mapped, rtol=1e-6)


def test_save_and_load(model, tmp_path, assert_trees_equal):
    directory = tmp_path / "saved"
    model.save(directory)
    loaded = fz.Model.load(directory)
    assert_trees_equal(loaded.variables, model.variables)
    assert loaded.spec == model.spec
    images = jnp.ones((2, 8, 8, 1))
    np.testing.assert_array_equal(loaded(images), model(images))
    assert sorted(p.name for p in directory.iterdir()) == ["config.json", "model.safetensors"]
    # And as weights for an architecture by name.
    again = fz.models.get(
        "cnn", num_classes=3, input_shape=(8, 8, 1), hidden=(6,), pretrained=directory
    )
    assert_trees_equal(again.variables, model.variables)


def test_a_head_of_ours_comes_back_by_itself(model, tmp_path, assert_trees_equal):
    head = Head(2, hidden=(4,), batch_norm=True, dropout=0.5, activation="silu")
    new = model.replace_head(head, classes=("cat", "dog"))
    new.save(tmp_path / "saved")
    new.save_pretrained(tmp_path / "shared")
    for loaded in (
        fz.Model.load(tmp_path / "saved"),
        fz.Model.from_pretrained(tmp_path / "shared"),
    ):
        assert_trees_equal(loaded.variables, new.variables)
        assert loaded.module == new.module
        assert loaded.spec.classes == ("cat", "dog")
        assert loaded.summary().parameters == new.summary().parameters
    with pytest.raises(TypeError, match="head must be a flax.linen.Module instance, got 3"):
        model.replace_head(3)
    with pytest.raises(ValueError, match="2 outputs, but classes has 3 names"):
        model.replace_head(head, classes="abc")


def test_a_head_of_your_own_needs_its_module_to_load(model, tmp_path, assert_trees_equal):
    # An activation without a name is one's own, too.
    assert model.replace_head(Head(2, activation=lambda x: x)).spec.config is None
    new = model.replace_head(nn.Dense(2))
    new.save(tmp_path)
    with pytest.raises(CheckpointError, match="pass the module: Model.load"):
        fz.Model.load(tmp_path)
    loaded = fz.Model.load(tmp_path, module=new.module)
    assert_trees_equal(loaded.variables, new.variables)


def test_functions_in_the_configuration_cannot_be_saved(tmp_path):
    model = fz.models.get("cnn", input_shape=(8, 8, 1), activation=lambda x: x).init()
    with pytest.raises(ValueError, match=r"argument activation=.* cannot be written"):
        model.save(tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("activation", ["gelu", jnp.tanh, "leaky", nn.relu])
def test_activations_survive_saving(activation, tmp_path):
    if activation == "leaky":
        activation = fz.activations.get("leaky_relu", negative_slope=0.3)
    model = fz.models.get("mlp", input_shape=(4,), features=(3,), activation=activation).init()
    model.save(tmp_path)
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    np.testing.assert_array_equal(fz.Model.load(tmp_path)(x), model(x))


def test_dtypes_survive_saving(tmp_path):
    model = fz.models.get("mlp", input_shape=(4,), features=(3,), param_dtype=jnp.bfloat16).init()
    model.save(tmp_path)
    loaded = fz.Model.load(tmp_path)
    assert loaded.variables["params"]["head"]["fc"]["kernel"].dtype == jnp.bfloat16


def test_damaged_and_foreign_files(model, tmp_path):
    model.save(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=r"model.safetensors: not a readable safetensors"):
        fz.Model.load(tmp_path)
    fz.models.get("cnn", num_classes=3, input_shape=(8, 8, 1), hidden=(7,)).init().save(tmp_path)
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "format": "flaxzoo.model",
                "format_version": 1,
                "module": "Classifier",
                "spec": model.spec.to_json(),
            }
        )
    )
    with pytest.raises(CheckpointError, match=r"of another shape: params/backbone/dense_0/"):
        fz.Model.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"its config.json is not readable as JSON"):
        fz.Model.load(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"its config.json holds no JSON object"):
        fz.Model.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"no such directory; is this a saved model\?"):
        fz.Model.load(tmp_path / "absent")


def test_unwritable_directory(model, tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(DataError, match=r"cannot write .*file/model.safetensors"):
        model.save(blocker)


def test_spec_round_trip():
    spec = fz.models.info("cnn")
    assert fz.ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert spec.parameters == 824_458
    assert spec.gflops == pytest.approx(2 * 4.643968e-3, rel=1e-3)
    text = str(dataclasses.replace(spec, top1=99.0, licence="apache-2.0"))
    assert "824,458" in text
    assert "99.0 %" in text


def _at(tree, path):
    for key in path:
        tree = tree[key]
    return tree


def test_what_other_libraries_do_to_a_model_is_answered():
    model = fz.models.get("mlp", input_shape=(4,), num_classes=2)
    with pytest.raises(dataclasses.FrozenInstanceError, match="cannot set 'trainable'.*freeze='b"):
        model.trainable = False
    with pytest.raises(AttributeError, match="there is no mode to set"):
        model.eval()
    assert not hasattr(model, "_repr_html_")
    table = model.tabulate()
    assert "backbone" in table
    assert "[1,2]" in table
    assert "[3,2]" in model.tabulate(jax.random.key(0), jnp.ones((3, 4)))
