from importlib import resources

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import CheckpointError
from flaxzoo.models import catalog
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import Head, Identity
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import Architecture, families
from flaxzoo.weights import load_variables, save_variables
from flaxzoo.weights.pretrained import Weights, _resized, load


@pytest.fixture(scope="module")
def shipped():
    return fz.models.get("cnn.digits", pretrained=True)


def test_packaged_weights_classify_the_held_out_digits(shipped):
    _, (images, labels) = fz.data.load_digits()
    predictions = shipped.predict(images, top_k=1)
    accuracy = np.mean(predictions.indices[:, 0] == labels)
    assert accuracy >= 0.98
    # The catalogue says what is measured.
    assert shipped.spec.top1 == round(100 * accuracy, 2)
    assert predictions.labels[0] == [str(labels[0])]


def test_default_tag_and_listing(shipped, assert_trees_equal):
    assert fz.models.list("cnn.*", pretrained=True) == ["cnn.digits"]
    assert fz.models.list("mlp.*", pretrained=True) == []
    default = fz.models.get("cnn", pretrained=True)
    assert default.spec.tag == "digits"
    assert_trees_equal(default.variables, shipped.variables)
    assert fz.models.info("cnn").tags == ("digits",)
    assert fz.models.info("cnn.digits").licence == "apache-2.0"


def test_a_new_head_on_a_pretrained_backbone(shipped, assert_trees_equal):
    model = fz.models.get("cnn", pretrained=True, num_classes=2)
    assert_trees_equal(
        model.variables["params"]["backbone"], shipped.variables["params"]["backbone"]
    )
    assert_trees_equal(model.variables["batch_stats"], shipped.variables["batch_stats"])
    assert model(jnp.zeros((1, 8, 8, 1))).shape == (1, 2)
    assert model.spec.classes is None
    assert model.spec.top1 is None


def test_features_of_a_pretrained_backbone(shipped):
    model = fz.models.get("cnn", pretrained=True, num_classes=0)
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1))
    np.testing.assert_allclose(model(images), shipped.features(images), rtol=1e-5, atol=1e-6)


def test_weights_become_as_wide_as_the_model():
    model = fz.models.get("cnn", pretrained=True, param_dtype=jnp.bfloat16)
    assert model.variables["params"]["head"]["fc"]["kernel"].dtype == jnp.bfloat16


def test_weights_that_do_not_fit_say_how(shipped, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_variables(path, shipped.variables)
    with pytest.raises(CheckpointError) as caught:
        fz.models.get("cnn", input_shape=(8, 8, 1), hidden=(128,), pretrained=path)
    text = str(caught.value)
    assert str(path) in text
    assert "only in the file: batch_stats/backbone/norm_0/mean" in text
    assert "params/backbone/dense_0/kernel: file [256, 256], expected [256, 128]" in text
    assert "missing from the file: params/backbone/conv_0/bias" in text


def test_files_that_are_no_weights(tmp_path):
    with pytest.raises(CheckpointError, match=r"no such weight file"):
        fz.models.get("cnn", pretrained=tmp_path / "absent.safetensors")
    (tmp_path / "weights.txt").write_bytes(b"1234")
    with pytest.raises(CheckpointError, match=r"weights.txt: unknown kind of weight file"):
        fz.models.get("cnn", pretrained=tmp_path / "weights.txt")
    (tmp_path / "w.safetensors").write_bytes(b"1234")
    with pytest.raises(CheckpointError, match=r"w.safetensors: not a readable safetensors file"):
        fz.models.get("cnn", pretrained=tmp_path / "w.safetensors")
    from safetensors.numpy import save_file

    save_file({"fc.weight": np.zeros((2, 2))}, tmp_path / "torch.safetensors")
    with pytest.raises(CheckpointError, match=r"not written by flaxzoo.*fc.weight"):
        fz.models.get("cnn", pretrained=tmp_path / "torch.safetensors")


def test_round_trip_keeps_dtypes_scalars_and_order(tmp_path):
    variables = {
        "params": {"b": {"kernel": jnp.ones((2, 3), jnp.bfloat16)}, "a": jnp.float32(2.0)},
        "batch_stats": {"n": np.arange(6, dtype=np.int32).reshape(2, 3).T},
    }
    save_variables(tmp_path / "deep" / "w.safetensors", variables)
    loaded = load_variables(tmp_path / "deep" / "w.safetensors", variables)
    assert list(loaded["params"]) == ["b", "a"]
    assert loaded["params"]["b"]["kernel"].dtype == jnp.bfloat16
    assert loaded["params"]["a"].shape == ()
    np.testing.assert_array_equal(loaded["batch_stats"]["n"], variables["batch_stats"]["n"])
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["w.safetensors"]


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    save_variables(path, {"params": {"a": np.zeros(3)}})
    before = path.read_bytes()

    def full(file, tensors, metadata):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flaxzoo.weights.files.write_safetensors", full)
    with pytest.raises(fz.errors.DataError, match=r"w.safetensors: No space left on device"):
        save_variables(path, {"params": {"a": np.ones(3)}})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_the_packaged_part_of_the_catalogue_loads():
    files = resources.files("flaxzoo.weights")
    entries = {
        key: entry
        for family in families()
        for key, entry in catalog.document(family)["weights"].items()
        if "file" in entry
    }
    assert "cnn.digits" in entries
    for key, entry in entries.items():
        name, _, tag = key.partition(".")
        assert entry["tag"] == tag
        assert name in fz.models.list()
        assert files.joinpath(entry["file"]).is_file()
        assert len(entry["classes"]) == entry["config"]["num_classes"]
        fz.models.get(key, pretrained=True)


def test_a_family_converts_tensors_of_older_names():
    module = Classifier(backbone=Identity(), head=Head(2))

    def convert(tensors, backbone):
        assert backbone == module.backbone
        return {name.replace("old", "fc"): tensor for name, tensor in tensors.items()}

    expected = {"params": {"head": {"fc": {"kernel": jax.ShapeDtypeStruct((3, 2), jnp.float32)}}}}
    tensors = {"old.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    tiny = Architecture("tiny", Head, reference=Reference(convert=convert))
    variables, missing = load(
        expected,
        Weights(tensors, "memory", ours=False),
        module,
        name=tiny.name,
        reference=tiny.reference,
    )
    assert missing == ()
    np.testing.assert_array_equal(
        variables["params"]["head"]["fc"]["kernel"], tensors["old.weight"].T
    )


def test_patches_of_another_size_of_a_family_that_can_not_resample_them(tmp_path):
    fields = {"widths": (8, 8, 8, 8), "layers": (1, 1, 1, 1), "num_classes": 2}
    file = tmp_path / "weights.safetensors"
    save_variables(file, fz.models.get("convnext_atto", **fields).init(rng=0).variables)
    message = (
        "weights.safetensors: the weights are for patches of 4 x 4, and those of 'convnext_atto' "
        "can't be resampled for patch_size=2: leave it as it is"
    )
    with pytest.raises(CheckpointError, match=message):
        fz.models.get("convnext_atto", pretrained=str(file), patch_size=2, **fields)


def test_a_stem_whose_kernel_is_no_patch_leaves_the_images_size():
    """A kernel of 7 x 7 before patches of 8 x 8: sizes are not rounded to multiples of 7."""
    seen = []
    reference = Reference(resized=(("*", lambda *arguments: seen.append(arguments[3:])),))
    sizes = ((16, 24, 3), (32, 24, 3))
    patches = ((7, 7), (7, 7))
    _resized(reference, None, sizes, patches, "positions", np.zeros(6), (12,))
    assert seen == [((16, 24), (32, 24))]
