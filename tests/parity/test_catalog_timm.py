"""The catalogue against timm: the script's output, and how timm itself feeds the weights."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from flaxzoo.models import catalog
from flaxzoo.models.registry import families

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
DOCUMENTS = {
    family: catalog.document(family)
    for family in families()
    if catalog.document(family)["source"]["package"] == "timm"
}
WEIGHTS = {
    key: entry for document in DOCUMENTS.values() for key, entry in document["weights"].items()
}


@pytest.fixture(scope="module")
def timm():
    return pytest.importorskip("timm")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_catalog", ROOT / "scripts/make_catalog.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def results_file(path, changes=()):
    """The committed accuracies as timm publishes them, with some changed."""
    lines = ["model,img_size,top1,top1_err,top5,top5_err,param_count,crop_pct,interpolation"]
    for key, entry in WEIGHTS.items():
        preprocess = entry["preprocess"]
        rows = {
            (entry["input_shape"][0], preprocess["crop"]): entry["top1"],
            (entry["test_input_shape"][0], entry["test_crop"]): entry["test_top1"],
        }
        for (size, crop), top1 in rows.items():
            if top1 is not None:
                top1 = dict(changes).get((key, size), top1)
                lines.append(
                    f"{key},{size},{top1:.3f},0,0,0,0,{crop:.3f},{preprocess['interpolation']}"
                )
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_script_writes_the_committed_files(timm, script):
    committed = (script.CATALOG / "resnest.json").read_text("utf-8")
    assert timm.__version__ == DOCUMENTS["resnest"]["source"]["version"]
    built = script.build("resnest", previous=json.loads(committed))
    assert script.to_text(built) == committed
    index = (script.CATALOG / "index.json").read_text("utf-8")
    assert json.dumps(script.build_index(), indent=1) + "\n" == index


def test_accuracies_come_from_the_results(timm, script, tmp_path):
    changes = {("resnest14d.gluon_in1k", 224): 12.5}
    published = script.read_results(results_file(tmp_path / "results.csv", changes))
    built = script.build("resnest", published=published)["weights"]
    assert built["resnest14d.gluon_in1k"]["top1"] == 12.5
    assert built["resnest101e.in1k"] == WEIGHTS["resnest101e.in1k"]


def test_a_file_that_is_not_the_results_is_refused(script, tmp_path):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(SystemExit, match="lacks model, img_size"):
        script.read_results(path)


def test_accuracies_of_another_evaluation_are_not_kept(script):
    entry = WEIGHTS["resnet50.a1_in1k"]
    moved = {**entry, "test_crop": 0.9}
    kept = script.kept_accuracies("resnet50.a1_in1k", moved, DOCUMENTS["resnet"])
    assert kept == {"top1": None, "top1_input_shape": None, "test_top1": None}
    kept = script.kept_accuracies("resnet50.a1_in1k", entry, DOCUMENTS["resnet"])
    assert kept["top1"] == entry["top1"] > 0


@pytest.mark.parametrize("test", [False, True], ids=["default", "test size"])
def test_preprocessing_is_what_timm_resolves(timm, test):
    import flaxzoo as fz

    for key, entry in WEIGHTS.items():
        config = timm.models.get_pretrained_cfg(key).to_dict()
        expected = timm.data.resolve_data_config(pretrained_cfg=config, use_test_size=test)
        shape = entry["test_input_shape" if test else "input_shape"]
        crop = entry["test_crop"] if test else entry["preprocess"]["crop"]
        channels, height, width = expected["input_size"]
        assert shape == [height, width, channels], key
        assert crop == expected["crop_pct"], key
        for name in ("interpolation", "crop_mode"):
            assert entry["preprocess"][name] == expected[name], key
        for name in ("mean", "std"):
            assert tuple(entry["preprocess"][name]) == tuple(expected[name]), key
        # What flaxzoo makes of timm's configuration and of its own entry is the same.
        ours = {
            **{k: tuple(v) if isinstance(v, list) else v for k, v in entry["preprocess"].items()},
            "crop": crop,
        }
        made = fz.Preprocess(input_shape=tuple(shape), **ours)
        assert made == fz.Preprocess.from_timm(config, test=test), key


@pytest.mark.parametrize("family", DOCUMENTS)
def test_names_and_tags_are_timms(timm, family):
    """timm's own list of what it can load, no more and no less."""
    document = DOCUMENTS[family]
    names = set(timm.list_models(module=document["source"]["module"]))
    # Names, and single weights as name.tag.
    reasons = set(document["left_out"])
    assert set(document["architectures"]) | {name for name in reasons if "." not in name} == names
    pretrained = {key for key in timm.list_pretrained() if key.partition(".")[0] in names}
    left_out = {key for key in pretrained if {key, key.partition(".")[0]} & reasons}
    assert set(document["weights"]) == pretrained - left_out


def test_default_tags_and_heads_are_those_of_timms_models(timm):
    for name in ("resnet18", "resnet50", "resnext101_32x8d", "seresnextaa101d_32x8d", "resnest14d"):
        with torch.device("meta"):
            model = timm.create_model(name)
        assert model.pretrained_cfg["tag"] == catalog.tags(name)[0]
        assert model.num_classes == catalog.entry(name, None)["num_classes"]


def test_torchvision_agrees_on_its_own_weights(timm):
    """timm's tv tags are torchvision's files: its transforms state the same numbers."""
    models = pytest.importorskip("torchvision").models

    compared = 0
    for key, entry in WEIGHTS.items():
        name, _, tag = key.partition(".")
        version = {"tv_in1k": "IMAGENET1K_V1", "tv2_in1k": "IMAGENET1K_V2"}.get(tag)
        # Of the first torchvision keeps 224 of 232 pixels, and timm says and measures 0.875; the
        # second's pixels torchvision transforms once more, inside the network.
        has = version is not None and name in models.list_models()
        if not has or key in ("resnext101_64x4d.tv_in1k", "inception_v3.tv_in1k"):
            continue
        transform = models.get_model_weights(name)[version].transforms()
        if tag == "tv_in1k":
            size = entry["input_shape"][0]
            crop = entry["preprocess"]["crop"]
            # timm measures DenseNets with another.
            if not name.startswith("densenet"):
                assert transform.interpolation.value == entry["preprocess"]["interpolation"], key
        else:
            size, crop = entry["test_input_shape"][0], entry["test_crop"]
        assert transform.crop_size == [size], key
        assert transform.resize_size == [int(size / crop)], key
        assert transform.mean == entry["preprocess"]["mean"], key
        assert transform.std == entry["preprocess"]["std"], key
        compared += 1
    assert compared > 10
