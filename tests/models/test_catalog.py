"""The catalogue is consistent in itself and with the registry, for every family."""

import functools
import json
import math
import re
from importlib import import_module, resources
from pathlib import Path

import pytest

import flaxzoo as fz
from flaxzoo.classes import class_names
from flaxzoo.licences import LICENCES
from flaxzoo.models import catalog
from flaxzoo.models.registry import MODELS, families

FAMILIES = families()
SHAPES = Path(__file__).parents[1] / "conformance/shapes"
WEIGHTS = dict(catalog.weights())
ENTRIES = {key: catalog.document(family)["weights"][key] for key, family in WEIGHTS.items()}
# All but those that ship with flaxzoo.
DOWNLOADED = [key for key, entry in ENTRIES.items() if "file" not in entry]
REQUIRED = {
    "tag",
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
OPTIONAL = {"origin", "paper", "notes", "fixed_input_size", "task", "parameters", "gflops"}


@functools.cache
def text(file):
    path = resources.files("flaxzoo.models.catalog").joinpath(f"{file}.json")
    return path.read_text("utf-8")


def test_the_shapes_of_all_names_are_of_the_catalogues():
    """scripts/make_shapes.py was run since; ``make conformance`` compares the variables."""
    for family in FAMILIES:
        shapes = json.loads((SHAPES / f"{family}.json").read_text("utf-8"))
        known = catalog.document(family)["architectures"]
        assert set(shapes) == set(catalog.index()["families"][family])
        for name, line in shapes.items():
            # Recurrent networks take any length, for which the catalogue has no number.
            for fact in {"input_shape", "parameters"} & set(known[name]):
                assert known[name][fact] == line[fact], name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_what_its_file_registers(family):
    """scripts/make_catalog.py was run since the file was changed."""
    import_module(f"flaxzoo.models.{family}")
    items = MODELS.architectures.items()
    registered = {n for n, known in items if known.family == f"flaxzoo.models.{family}"}
    document = catalog.document(family)
    assert registered == set(document["architectures"]) == set(catalog.index()["families"][family])
    assert not registered & set(document["left_out"])
    assert all(document["left_out"].values())
    assert {key.partition(".")[0] for key in document["weights"]} <= registered
    versions = {"timm": "1.0.31", "torchvision": "0.28.0"}
    package = document["source"]["package"]
    assert document["source"].get("version") == versions.get(package)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_entry_is_there_twice(family):
    # json.loads keeps the last of two equal keys without a word.
    keys = re.findall(r'^    "([\w.]+)": ', text(family), re.MULTILINE)
    assert len(keys) == len(set(keys))
    assert text(family).endswith("}\n")


def test_the_index_is_of_all_families():
    assert sorted(catalog.index()["families"]) == sorted(FAMILIES)
    for key, family in WEIGHTS.items():
        assert key in catalog.document(family)["weights"]
    assert sum(len(catalog.document(f)["weights"]) for f in FAMILIES) == len(WEIGHTS)
    assert json.loads(text("index"))["aliases"] == {
        alias: name for alias, name in MODELS.aliases().items() if name in catalog.names()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_entries(family):
    for key in (key for key in DOWNLOADED if WEIGHTS[key] == family):
        check_entry(key, ENTRIES[key])


def check_entry(key, entry):
    torchvisions = catalog.document(WEIGHTS[key])["source"]["package"] == "torchvision"
    required = REQUIRED | {"url" if torchvisions else "hub"}
    assert set(entry) >= required, key
    assert set(entry) <= required | OPTIONAL, key
    name, _, tag = key.partition(".")
    assert re.fullmatch(r"[a-z0-9_]+", name)
    assert re.fullmatch(r"[a-z0-9_]+", tag)
    assert entry["tag"] == tag
    if torchvisions:
        # The end of the name is the beginning of the file's SHA-256.
        server = r"https://download\.pytorch\.org/models/"
        assert re.fullmatch(server + r"[\w.-]+-[0-9a-f]{8,10}\.pth", entry["url"])
    else:
        # What is not in timm's own account is a part of another model, or where timm itself looks.
        assert re.fullmatch(
            r"(timm|microsoft|belfner|apple|jienengchen|munehiro-k|naver-ai)/[\w.-]+", entry["hub"]
        )
    for shape, crop in (
        (entry["input_shape"], entry["preprocess"]["crop"]),
        (entry["test_input_shape"], entry["test_crop"]),
    ):
        assert len(shape) == 3
        assert all(isinstance(size, int) and size >= 32 for size in shape[:2])
        assert shape[2] == 3
        # Above 1 pictures are made smaller than the crop, and get a border: VOLO's, at most 1.15.
        assert 0 < crop <= 1.15
    assert math.prod(entry["test_input_shape"]) >= math.prod(entry["input_shape"])
    preprocess = entry["preprocess"]
    assert set(preprocess) == {"mean", "std", "interpolation", "crop", "crop_mode"}
    assert len(preprocess["mean"]) == len(preprocess["std"]) == 3
    assert all(0 <= mean < 1 for mean in preprocess["mean"])
    assert all(0 < std <= 1 for std in preprocess["std"])
    assert preprocess["interpolation"] in {"nearest", "bilinear", "bicubic", "lanczos"}
    assert preprocess["crop_mode"] in {"center", "squash", "border"}
    assert entry["licence"] in LICENCES
    if entry["licence"] == "unknown":
        assert "licence" in entry["notes"]
    assert all(entry.get(name) != "" for name in ("origin", "paper", "notes"))
    assert entry["classes"] is None or len(class_names(entry["classes"])) == entry["num_classes"]
    if entry.get("task") == "features":
        assert entry["classes"] is None
        assert entry["num_classes"] > 0
    if entry["top1"] is None:
        assert entry["top1_input_shape"] is None
        return
    # Networks made for testing are far below the rest; a fraction would be below 1.
    assert entry["top1_input_shape"] == entry["input_shape"]
    assert 20 < entry["top1"] < 92


def test_the_default_tag_comes_first():
    """Then the others by the alphabet, and an architecture's entries stand together."""
    for family in FAMILIES:
        keys = list(catalog.document(family)["weights"])
        names = [key.partition(".")[0] for key in keys]
        firsts = list(dict.fromkeys(names))
        assert firsts == sorted(firsts)
        for name in firsts:
            start = names.index(name)
            of_name = keys[start : start + names.count(name)]
            assert all(key.startswith(f"{name}.") for key in of_name)
            assert of_name[1:] == sorted(of_name[1:])
    # As timm has them: the first tag that its authors list.
    assert catalog.tags("resnet50")[0] == "a1_in1k"
    assert catalog.tags("resnet101")[0] == "a1h_in1k"
    assert catalog.tags("seresnextaa101d_32x8d")[0] == "sw_in12k_ft_in1k_288"


@pytest.mark.parametrize(
    ("name", "shape", "crop"),
    [
        ("resnet50", (224, 224, 3), 0.95),
        ("resnet50", (288, 288, 3), 1.0),
        # Of one size; timm tests with the other crop where it is told to.
        ("fasternet_t0", (224, 224, 3), 1.0),
    ],
)
def test_the_crop_of_larger_images_is_theirs_alone(name, shape, crop):
    assert fz.models.get(name, input_shape=shape).spec.preprocess.crop == crop


def test_known_values():
    """A few that the model cards state."""
    entry = catalog.entry("resnet50", "a1_in1k")
    assert entry["input_shape"] == [224, 224, 3]
    assert entry["test_input_shape"] == [288, 288, 3]
    assert entry["preprocess"]["crop"] == 0.95
    assert entry["preprocess"]["mean"] == [0.485, 0.456, 0.406]
    assert entry["test_crop"] == 1.0
    assert catalog.licence("resnet18.fb_swsl_ig1b_ft_in1k") == "cc-by-nc-4.0"
    assert catalog.licence("resnet50.tv_in1k") == "bsd-3-clause"
    assert catalog.entry("resnet50", "gluon_in1k")["preprocess"]["interpolation"] == "bicubic"
    assert catalog.entry("resnet50", "tv_in1k")["preprocess"]["interpolation"] == "bilinear"
    assert catalog.known("resnet50")["parameters"] == 25_557_032
    # Two operations per multiply-add; timm states 4.1 GMACs.
    assert catalog.known("resnet50")["gflops"] == pytest.approx(8.18, abs=0.01)


def test_listing_is_the_catalogue():
    assert fz.models.list(pretrained=True) == sorted(WEIGHTS)
    assert set(catalog.names()) <= set(fz.models.list())


def test_licences():
    commercial = fz.models.list("*resne*", licence="commercial")
    restricted = fz.models.list("*resne*", licence="restricted")
    assert "resnet50.tv_in1k" in commercial
    assert "resnet18.fb_swsl_ig1b_ft_in1k" in restricted
    assert sorted(commercial + restricted) == fz.models.list("*resne*", pretrained=True)
    assert fz.models.list("resnet50*", licence="bsd-*") == ["resnet50.tv2_in1k", "resnet50.tv_in1k"]
    with pytest.raises(ValueError, match="licence must be one of 'commercial'"):
        fz.models.list(licence="comercial")
