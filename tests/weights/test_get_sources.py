"""``models.get`` from a Hub on loopback and from directories: weights with what is said of them."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.errors import CheckpointError, DataError, ShapeError, UnknownArgumentError
from flaxzoo.models import Head
from flaxzoo.models.resnet import REFERENCE
from flaxzoo.weights.names import to_reference

NAME, TAG, REPO = "test_resnet", "r160_in1k", "timm/test_resnet.r160_in1k"
SMALL = (32, 32, 3)


@pytest.fixture(scope="module")
def tensors():
    """Weights of the tiny network under timm's names."""
    rng = np.random.default_rng(1)
    shapes = flatten(fz.models.get(NAME, input_shape=SMALL).shapes())
    drawn = {k: (rng.random(v.shape) - 0.3).astype(np.float32) for k, v in shapes.items()}
    return to_reference(
        {k: abs(v) if "/var" in k else v * 0.3 for k, v in drawn.items()}, REFERENCE
    )


@pytest.fixture
def zoo(hub, hub_server, tensors):
    """A Hub that has these weights under their tag."""
    preprocess = fz.models.info(f"{NAME}.{TAG}").preprocess
    config = {
        "architecture": NAME,
        "num_classes": 1000,
        "pretrained_cfg": {**preprocess.to_timm(), "tag": TAG, "license": "apache-2.0"},
    }
    files = {"model.safetensors": save(tensors), "config.json": json.dumps(config).encode()}
    hub.repos[REPO] = hub_server.Repo(files)
    return hub


@pytest.fixture
def batch():
    return np.random.default_rng(0).normal(size=(2, *SMALL)).astype(np.float32)


def test_by_tag_by_repository_and_by_from_pretrained(zoo, tensors, batch):
    model = fz.models.get(NAME, pretrained=True)
    assert (model.spec.tag, model.spec.licence) == (TAG, "apache-2.0")
    assert model.spec.top1 == fz.models.info(f"{NAME}.{TAG}").top1 is not None
    assert model.spec.input_shape == (160, 160, 3)
    kernel = model.variables["params"]["head"]["fc"]["kernel"]
    np.testing.assert_array_equal(kernel, tensors["fc.weight"].T)
    others = [
        fz.models.get(f"{NAME}.{TAG}", pretrained=True),
        fz.models.get(NAME, pretrained=f"hf:{REPO}"),
        fz.Model.from_pretrained(REPO),
    ]
    for other in others:
        np.testing.assert_array_equal(other(batch), model(batch))
        for field in ("tag", "licence", "classes", "preprocess", "input_shape"):
            assert getattr(other.spec, field) == getattr(model.spec, field), field
    assert zoo.count("GET", "model.safetensors") == 1


def test_predictions_name_the_classes(zoo, tmp_path):
    path = tmp_path / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    model = fz.models.get(NAME, pretrained=True)
    found = model.predict(path, top_k=3)
    assert set(found.labels[0]) <= set(fz.classes.class_names("imagenet1k"))
    logits = np.asarray(model(model.spec.preprocess(path)))[0]
    assert found.indices[0, 0] == logits.argmax()
    assert fz.models.get(NAME, pretrained=True, num_classes=0).predict(path).shape == (1, 96)


def test_what_cannot_be_built_is_told_before_a_download(zoo):
    for wrong in ({"output_stride": 5}, {"drop_path": 2}, {"stem": "depe"}, {"dtype": "bf16"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fz.models.get(NAME, pretrained=True, **wrong)
    with pytest.raises(UnknownArgumentError, match="timm's 'in_chans' is called 'in_channels'"):
        fz.models.get(NAME, pretrained=True, in_chans=1)
    assert zoo.count("GET", "model.safetensors") == 0


def test_another_architecture_of_the_hub(zoo):
    with pytest.raises(CheckpointError, match=r"holds a 'test_resnet', not a 'resnet18': .*get\("):
        fz.models.get("resnet18", pretrained=f"hf:{REPO}")


@pytest.fixture
def saved(zoo, tmp_path):
    """A model with options of its own, in both forms of directory."""
    model = fz.models.get(
        NAME,
        pretrained=True,
        activation="silu",
        pooling="max",
        classes=[f"c{i}" for i in range(7)],
        rng=3,
    )
    model.save(tmp_path / "saved")
    model.save_pretrained(tmp_path / "shared")
    return model, (tmp_path / "saved", tmp_path / "shared")


def test_directories_bring_their_configuration(saved, batch):
    model, directories = saved
    for directory in directories:
        again = fz.models.get(NAME, pretrained=directory)
        np.testing.assert_array_equal(again(batch), model(batch))
        assert again.spec.preprocess == model.spec.preprocess
        assert again.spec.classes == tuple(f"c{i}" for i in range(7))
        # What is asked for comes before what was saved.
        other = fz.models.get(NAME, pretrained=directory, pooling="avg", num_classes=2)
        assert (other.module.head.pooling, other.module.head.num_classes) == ("avg", 2)
        assert other.module.backbone == model.module.backbone
        assert other.spec.classes is None


def test_the_seed_of_a_fresh_head(saved):
    _, (directory, _) = saved
    heads = [
        fz.models.get(NAME, pretrained=directory, num_classes=2, rng=seed).variables["params"][
            "head"
        ]
        for seed in (0, 0, 1)
    ]
    jax.tree.map(np.testing.assert_array_equal, heads[0], heads[1])
    assert not np.array_equal(heads[0]["fc"]["kernel"], heads[2]["fc"]["kernel"])


def test_files_alone_are_prepared_as_the_usual_weights(tensors, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save(tensors))
    usual = fz.models.info(f"{NAME}.{TAG}")
    model = fz.models.get(NAME, pretrained=path)
    assert model.spec.preprocess == usual.preprocess
    assert model.spec.classes == usual.classes
    assert (model.spec.top1, model.spec.tag, model.spec.licence) == (None, None, "")
    tagged = fz.models.get(f"{NAME}.{TAG}", pretrained=path, num_classes=2)
    assert (tagged.spec.top1, tagged.spec.classes) == (None, None)
    # A network that has no weights anywhere is prepared for ImageNet.
    assert fz.models.get("resnet50t").spec.preprocess.mean == (0.485, 0.456, 0.406)


def test_published_accuracy_is_that_of_the_size(zoo):
    entry = fz.models.info("resnet50.a1_in1k")
    assert entry.top1 == 80.382
    assert fz.models.get("resnet50.a1_in1k", input_shape=(288, 288, 3)).spec.top1 == 81.24
    assert fz.models.get("resnet50.a1_in1k", input_shape=(288, 288, 3)).spec.preprocess.crop == 1
    assert fz.models.get("resnet50.a1_in1k", input_shape=(96, 96, 3)).spec.top1 is None


def test_a_damaged_head_is_not_replaced_in_silence(tensors, tmp_path):
    path = tmp_path / "weights.safetensors"
    for damaged in (
        {k: v for k, v in tensors.items() if k != "fc.bias"},
        {**tensors, "fc.extra": tensors["fc.bias"]},
    ):
        path.write_bytes(save(damaged))
        with pytest.raises(CheckpointError, match=r"fc\.(bias|extra)"):
            fz.models.get(NAME, pretrained=path, num_classes=1000)
    headless = {k: v for k, v in tensors.items() if not k.startswith("fc.")}
    path.write_bytes(save(headless))
    with pytest.raises(CheckpointError, match=r"2 missing from the file: fc\.bias; fc\.weight"):
        fz.models.get(NAME, pretrained=path)
    model = fz.models.get(f"{NAME}.{TAG}", pretrained=path, num_classes=1000)
    assert (model.spec.classes, model.spec.top1) == (None, None)


def test_other_channels_are_adapted_when_asked_for(tensors, tmp_path):
    path = tmp_path / "grey.safetensors"
    model = fz.models.get(NAME, in_channels=1, input_shape=(32, 32, 1)).init()
    path.write_bytes(save(model.to_torch_state_dict(as_numpy=True)))
    with pytest.raises(CheckpointError, match=r"conv1.0.weight: file \[16, 1, 3, 3\]"):
        fz.models.get(NAME, pretrained=path)
    three = fz.models.get(NAME, pretrained=path, in_channels=3)
    kernel = three.variables["params"]["backbone"]["conv1_0"]["kernel"]
    assert kernel.shape == (3, 3, 3, 16)
    with pytest.raises(ValueError, match="in_channels=1 contradicts input_shape"):
        fz.models.get(NAME, in_channels=1, input_shape=SMALL)


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        (TAG, r"get\('test_resnet.r160_in1k', pretrained=True\)"),
        ("jax-resnet", "did you mean 'jax_resnet'"),
        (REPO, r"written 'hf:timm/test_resnet.r160_in1k'"),
        ("", "no such weight file"),
        ("weights.pth", "no such weight file$"),
    ],
)
def test_what_is_no_source(source, advice):
    with pytest.raises(CheckpointError, match=advice):
        fz.models.get(NAME, pretrained=source)


def test_pictures_without_preprocessing():
    model = fz.models.get(NAME, in_channels=4, input_shape=(32, 32, 4)).init()
    for picture in ("cat.jpg", ["cat.jpg", "dog.jpg"], Image.new("RGBA", (32, 32))):
        with pytest.raises(DataError, match=r"no preprocessing .* pass \[B, 32, 32, 4\] of floats"):
            model.predict(picture)
    rgb = fz.models.get(NAME, input_shape=SMALL).init()
    with pytest.raises(TypeError, match="preprocessed already, got uint8: use model.predict"):
        rgb(np.zeros((1, *SMALL), np.uint8))


def test_features_are_no_predictions():
    model = fz.models.get(NAME, num_classes=0, input_shape=SMALL)
    assert model.spec.task == "features"
    with pytest.raises(ValueError, match=r"returns features, .* give it a head"):
        fz.create_train_state(model)
    assert model.replace_head(Head(3)).spec.task == "classification"
    state = fz.create_train_state(model.replace_head(Head(3)))
    assert state.params["head"]["fc"]["kernel"].shape == (96, 3)
    maps = fz.models.get(NAME, features=True, input_shape=SMALL).init()
    with pytest.raises(ShapeError, match=r"got the maps stem, layer1, .*without features=True"):
        maps.replace_head(Head(3))


def test_numpy_numbers_are_saved_as_numbers(tmp_path):
    model = fz.models.get(
        NAME, num_classes=np.int64(3), drop_path=np.float32(0.125), input_shape=SMALL
    ).init()
    model.save(tmp_path)
    loaded = fz.Model.load(tmp_path)
    assert loaded.module == model.module
    with pytest.raises(ValueError, match="num_classes=2, but classes has 3 names"):
        fz.models.get(NAME, num_classes=2, classes="abc")


def test_specs_are_hashable_and_say_what_they_know():
    info = fz.models.info("resnet50")
    assert hash(info) == hash(fz.models.info("resnet50"))
    assert info.preprocess.crop == 0.95
    assert info.licence == "apache-2.0"
    text = str(fz.models.info("resnet50.a1_in1k"))
    assert "bicubic, center crop 0.95, mean 0.485" in text
    assert "1000: tench, goldfish" in text
    # GFLOPs are those of the weights' own images.
    small, usual = (fz.models.info(f"resnet50.{tag}") for tag in ("a3_in1k", "a1_in1k"))
    assert small.input_shape == (160, 160, 3)
    assert small.gflops < 0.6 * usual.gflops


def test_training_on_another_size_is_what_the_spec_says(rng, tmp_path):
    model = fz.models.get(NAME, num_classes=2, input_shape=(40, 40, 3)).init()
    model = dataclasses.replace(model, spec=dataclasses.replace(model.spec, declared=False))
    trainer = fz.Trainer(model, optimizer="sgd", learning_rate=1e-3)
    images = rng.normal(size=(4, *SMALL)).astype(np.float32)
    trainer.fit((images, np.array([0, 1, 0, 1])), epochs=1, batch_size=2, progress=False)
    trainer.save(tmp_path)
    picture = rng.integers(0, 256, (50, 60, 3), np.uint8)
    before, after = trainer.model, fz.Trainer.load(tmp_path).model
    assert before.spec.input_shape == after.spec.input_shape == SMALL
    np.testing.assert_array_equal(
        before.predict(picture).probabilities, after.predict(picture).probabilities
    )


def test_damaged_descriptions(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    for text in ("[" * 200000, '{"format": "flaxzoo.model", "format_version": "1", "spec": {}}'):
        (tmp_path / "config.json").write_text(text)
        for read in (fz.Model.load, fz.Model.from_pretrained):
            with pytest.raises(CheckpointError, match=r"config.json"):
                read(tmp_path)


def test_a_module_of_ones_own_is_saved_without_the_registry(tmp_path):
    model = fz.models.get(NAME, norm=nn.LayerNorm, num_classes=2, input_shape=SMALL).init()
    with pytest.raises(ValueError, match=r"the argument norm=.*LayerNorm"):
        model.save(tmp_path)
    plain = fz.Model(model.module, model.variables)
    plain.save(tmp_path)
    again = fz.Model.load(tmp_path, module=model.module)
    jax.tree.map(np.testing.assert_array_equal, again.variables, model.variables)


class OwnHead(nn.Module):
    """A head whose last layer is not called fc."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="last")(x.mean((1, 2)))


class OwnNet(nn.Module):
    """A network that the registry has never heard of."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x)


def test_modules_of_ones_own_come_back_from_a_directory(tmp_path):
    small = fz.models.get(NAME, input_shape=SMALL).init()
    net = fz.Model(OwnNet()).init(inputs=np.zeros((1, 4), np.float32))
    for name, model in (("head", small.replace_head(OwnHead())), ("net", net)):
        model.save_pretrained(tmp_path / name)
        with pytest.raises(CheckpointError, match="pass the module"):
            fz.Model.from_pretrained(tmp_path / name)
        again = fz.Model.from_pretrained(tmp_path / name, module=model.module)
        jax.tree.map(np.testing.assert_array_equal, again.variables, model.variables)
