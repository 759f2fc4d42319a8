"""The catalogue of pretrained weights is consistent in itself and with the registry."""

import json
import math
import re
from importlib import resources

import pytest

import flaxzoo as fz

CATALOG = json.loads(
    resources.files("flaxzoo.weights").joinpath("catalog", "timm.json").read_text("utf-8")
)
WEIGHTS = CATALOG["weights"]
REQUIRED = {
    "tag",
    "hub",
    "num_classes",
    "classes",
    "input_shape",
    "test_input_shape",
    "preprocess",
    "test_crop",
    "licence",
    "top1",
    "top1_input_shape",
    "test_top1",
}
OPTIONAL = {"origin", "paper", "notes", "fixed_input_size"}
# File of the family -> what its names look like.
FAMILIES = {"resnest": re.compile("resnest"), "resnet": re.compile(r"resne(x?t)|senet154")}


def family(name):
    return next((key for key, pattern in FAMILIES.items() if pattern.search(name)), None)


def architectures():
    return {key.partition(".")[0] for key in WEIGHTS}


@pytest.fixture(scope="module")
def registered():
    """The registry's names in the families that the catalogue is of."""
    return {name for name in fz.models.list() if family(name)}


def test_it_says_what_it_was_made_from():
    assert CATALOG["source"] == {
        "package": "timm",
        "version": "1.0.31",
        "modules": sorted(FAMILIES),
    }
    # timm registers 81 and 8 architectures there with 150 and 8 sets of weights.
    pruned = [name for name in CATALOG["left_out"] if name.endswith("_pruned")]
    assert all(CATALOG["left_out"].values())
    assert len(architectures()) + len(CATALOG["untrained"]) + len(CATALOG["left_out"]) == 89
    assert len(WEIGHTS) == 158 - len(pruned)
    assert not architectures() & set(CATALOG["untrained"])
    assert not (architectures() | set(CATALOG["untrained"])) & set(CATALOG["left_out"])


def test_no_entry_is_there_twice():
    # json.loads keeps the last of two equal keys without a word.
    text = resources.files("flaxzoo.weights").joinpath("catalog", "timm.json").read_text("utf-8")
    keys = re.findall(r'^    "([\w.]+\.\w+)": ', text, re.MULTILINE)
    assert keys.count("resnet50.a1_in1k") == 1
    assert len(keys) == len(set(keys))
    assert set(WEIGHTS) <= set(keys)
    assert text.endswith("}\n")


@pytest.mark.parametrize("key", WEIGHTS)
def test_entry(key):
    entry = WEIGHTS[key]
    assert set(entry) >= REQUIRED
    assert set(entry) <= REQUIRED | OPTIONAL
    name, _, tag = key.partition(".")
    assert re.fullmatch(r"[a-z0-9_]+", name)
    assert re.fullmatch(r"[a-z0-9_]+", tag)
    assert entry["tag"] == tag
    assert entry["hub"] == f"timm/{key}"

    for shape, crop in (
        (entry["input_shape"], entry["preprocess"]["crop"]),
        (entry["test_input_shape"], entry["test_crop"]),
    ):
        assert len(shape) == 3
        # The backbones halve the image five times.
        assert all(isinstance(size, int) and size >= 32 for size in shape[:2])
        assert shape[2] == 3
        assert 0 < crop <= 1
    assert math.prod(entry["test_input_shape"]) >= math.prod(entry["input_shape"])

    preprocess = entry["preprocess"]
    assert set(preprocess) == {"mean", "std", "interpolation", "crop", "crop_mode"}
    assert len(preprocess["mean"]) == len(preprocess["std"]) == 3
    assert all(0 <= mean < 1 for mean in preprocess["mean"])
    assert all(0 < std <= 1 for std in preprocess["std"])
    assert preprocess["interpolation"] in {"nearest", "bilinear", "bicubic", "lanczos"}
    assert preprocess["crop_mode"] in {"center", "squash", "border"}

    known = {"apache-2.0", "bsd-3-clause", "cc-by-nc-4.0", "mit", "unknown"}
    assert entry["licence"] in known
    if entry["licence"] == "unknown":
        assert "licence" in entry["notes"]
    for name in ("origin", "paper", "notes"):
        assert entry.get(name) != ""


@pytest.mark.parametrize("key", WEIGHTS)
def test_published_accuracy(key):
    entry = WEIGHTS[key]
    if "in1k" not in entry["tag"].split("_"):
        # Accuracy is on ImageNet-1k: no other head has any.
        assert entry["top1"] is entry["top1_input_shape"] is entry["test_top1"] is None
        return
    assert entry["top1_input_shape"] == entry["input_shape"]
    # test_resnet, made for testing, is far below the rest; a fraction would be below 1.
    lowest = 40 if key.startswith("test_resnet.") else 65
    assert lowest < entry["top1"] <= entry["test_top1"] < 90
    if (entry["test_input_shape"], entry["test_crop"]) == (
        entry["input_shape"],
        entry["preprocess"]["crop"],
    ):
        assert entry["test_top1"] == entry["top1"]


def test_classes_have_a_name_for_every_output():
    from flaxzoo.classes import class_names

    counts = {(entry["classes"], entry["num_classes"]) for entry in WEIGHTS.values()}
    assert counts == {("imagenet1k", 1000), ("imagenet12k", 11821), (None, 0)}
    for table, count in counts:
        if table is not None:
            names = class_names(table)
            assert len(names) == count
            assert all(names)


def test_the_default_tag_comes_first():
    """Then the others by the alphabet, and an architecture's entries stand together."""
    names = [key.partition(".")[0] for key in WEIGHTS]
    firsts = list(dict.fromkeys(names))
    assert firsts == sorted(firsts)
    for name in firsts:
        start = names.index(name)
        keys = list(WEIGHTS)[start : start + names.count(name)]
        assert all(key.startswith(f"{name}.") for key in keys)
        assert keys[1:] == sorted(keys[1:])
    # As timm has them: the first tag that its authors list.
    defaults = {key.partition(".")[0]: key for key in reversed(list(WEIGHTS))}
    assert defaults["resnet50"] == "resnet50.a1_in1k"
    assert defaults["resnet101"] == "resnet101.a1h_in1k"
    assert defaults["seresnextaa101d_32x8d"] == "seresnextaa101d_32x8d.sw_in12k_ft_in1k_288"


def test_known_values():
    """A few that the model cards state."""
    entry = WEIGHTS["resnet50.a1_in1k"]
    assert entry["input_shape"] == [224, 224, 3]
    assert entry["test_input_shape"] == [288, 288, 3]
    assert entry["preprocess"]["crop"] == 0.95
    assert entry["preprocess"]["mean"] == [0.485, 0.456, 0.406]
    assert entry["test_crop"] == 1.0
    assert WEIGHTS["resnet18.fb_swsl_ig1b_ft_in1k"]["licence"] == "cc-by-nc-4.0"
    assert WEIGHTS["resnet50.tv_in1k"]["licence"] == "bsd-3-clause"
    assert WEIGHTS["resnet50.gluon_in1k"]["preprocess"]["interpolation"] == "bicubic"
    assert WEIGHTS["resnet50.tv_in1k"]["preprocess"]["interpolation"] == "bilinear"


def test_every_architecture_is_in_the_registry(registered):
    assert architectures() <= registered
    assert set(CATALOG["untrained"]) <= registered


def test_every_registered_architecture_is_in_the_catalogue(registered):
    assert registered <= architectures() | set(CATALOG["untrained"])
    assert not registered & set(CATALOG["left_out"])
    # What is untrained has no tags, everything else has its own.
    for name in registered:
        assert bool(fz.models.info(name).tags) == (name in architectures())


@pytest.mark.parametrize("name", CATALOG["untrained"])
def test_untrained_input_shape(name, registered):
    assert fz.models.info(name).input_shape == tuple(CATALOG["untrained"][name])


def test_listing_is_the_catalogue(registered):
    listed = [key for key in fz.models.list(pretrained=True) if family(key)]
    assert listed == sorted(WEIGHTS)
