"""``flaxzoo.verify`` where timm is not installed, and what does not depend on it."""

import sys

import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo import verify
from flaxzoo.cli import main
from flaxzoo.errors import MissingExtraError, ShapeError, UninitializedError, UnknownNameError
from flaxzoo.verify import Difference, Report
from flaxzoo.weights.synthetic import synthetic_images, synthetic_tensors


@pytest.fixture(scope="module")
def model():
    return fz.models.get("test_resnet", num_classes=3, input_shape=(33, 47, 3)).init(rng=0)


def report(**relative):
    found = {k: Difference((2, 3), 10 * value, value) for k, value in relative.items()}
    return Report("resnet18", "timm 1.0", "random weights", (2, 9, 9, 3), 1e-5, found)


def test_a_report_passes_within_the_tolerance():
    good = report(stem=1e-7, logits=1e-5)
    assert good.ok
    assert good.failed == ()
    lines = str(good).splitlines()
    assert lines[0] == "resnet18 against timm 1.0: random weights, images [2, 9, 9, 3]"
    assert lines[1].split() == ["shape", "absolute", "relative"]
    assert lines[2].split() == ["stem", "[2,", "3]", "1.0e-06", "1.0e-07"]
    assert lines[-1].startswith("the same")


def test_a_report_fails_above_it_and_for_nan():
    bad = report(stem=1e-7, layer1=1.1e-5, logits=float("nan"))
    assert not bad.ok
    assert bad.failed == ("layer1", "logits")
    assert str(bad).splitlines()[-1].startswith("different: layer1, logits by more than 1e-05")


def test_differences_are_relative_to_the_largest_value():
    theirs = np.array([[1.0, -4.0]], np.float32)
    assert verify._difference("x", theirs + [[0, 2]], theirs) == Difference((1, 2), 2.0, 0.5)
    zero = np.zeros((1, 2), np.float32)
    assert verify._difference("x", zero, zero).relative == 0
    assert verify._difference("x", theirs, zero).relative == float("inf")
    assert np.isnan(verify._difference("x", zero * np.nan, theirs).relative)
    with pytest.raises(ShapeError, match=r"layer1: got \[1, 2\], the reference \[2\]"):
        verify._difference("layer1", theirs, theirs[0])


def test_outputs_are_what_the_model_gives(model):
    images = synthetic_images((2, 33, 47, 3))
    found = verify.outputs(model, images)
    maps = model.feature_maps(images)
    assert list(found) == [*maps, "features", "logits"]
    for stage, value in maps.items():
        np.testing.assert_allclose(found[stage], value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["features"], maps["layer4"].mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(found["logits"], model(images), atol=1e-5)


def test_outputs_need_variables():
    with pytest.raises(UninitializedError, match="test_resnet"):
        verify.outputs(fz.models.get("test_resnet"), synthetic_images((1, 32, 32, 3)))


@pytest.mark.parametrize("package", ["torch", "torchvision", "timm"])
def test_missing_packages(monkeypatch, capsys, package):
    class Finder:
        """Finds the packages that the missing one is looked for after, and not that one."""

        def find_spec(self, name, path=None, target=None):
            if name == package:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in ("torch", "torchvision", "timm"):
        monkeypatch.setitem(sys.modules, name, sys)
    monkeypatch.delitem(sys.modules, package)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(MissingExtraError, match=f"needs {package}, .*: pip install timm"):
        verify.verify("resnet18")
    assert main(["verify", "resnet18"]) == 1
    assert "pip install timm" in capsys.readouterr().err


def test_names_without_a_counterpart(capsys):
    with pytest.raises(UnknownNameError, match="'cnn' is not one of timm's models"):
        verify.verify("cnn")
    with pytest.raises(UnknownNameError, match="Did you mean 'resnet50'"):
        verify.verify("resnet5")
    with pytest.raises(UnknownNameError, match="unknown weights 'resnet50.a9'"):
        verify.verify("resnet50.a9")
    assert main(["verify", "cnn"]) == 1
    assert "nothing to verify" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be an int of at least 1"),
        ({"batch": 1.5}, "batch must be an int"),
        ({"seed": -1}, "seed must be an int of at least 0"),
        ({"tolerance": 0}, "tolerance must be above 0"),
        ({"tolerance": float("nan")}, "tolerance must be above 0"),
    ],
)
def test_numbers_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        verify.verify("resnet18", **options)


def test_the_command_s_options(capsys):
    assert main(["verify", "resnet18", "--weights", "hf:no-organisation"]) == 1
    assert "org/repo" in capsys.readouterr().err
    assert main(["verify", "resnet18", "--size", "0"]) == 2
    assert main(["verify", "resnet18", "--tolerance", "2"]) == 2


def test_synthetic_tensors_by_kind():
    shapes = {
        "conv1.weight": (64, 3, 7, 7),
        "fc.weight": (10, 512),
        "bn1.weight": (500,),
        "bn1.bias": (500,),
        "bn1.running_mean": (500,),
        "bn1.running_var": (500,),
        "bn1.scale": (500,),
        "bn1.num_batches_tracked": (),
    }
    found = synthetic_tensors(shapes)
    assert {key: value.shape for key, value in found.items()} == shapes
    assert found["conv1.weight"].var() == pytest.approx(2 / 147, rel=0.05)
    assert found["fc.weight"].var() == pytest.approx(2 / 512, rel=0.05)
    halved = synthetic_tensors({"fc.weight": (10, 512)}, gain=1)["fc.weight"]
    np.testing.assert_allclose(halved, found["fc.weight"] / np.sqrt(2), rtol=1e-6)
    quiet = synthetic_tensors(shapes, scales=(("*1.weight", 0.25),))
    np.testing.assert_array_equal(quiet["bn1.weight"], found["bn1.weight"] / 4)
    np.testing.assert_array_equal(quiet["fc.weight"], found["fc.weight"])
    ranges = {"weight": (0.5, 1), "bias": (-0.25, 0.25), "running_mean": (-0.25, 0.25)}
    ranges |= {"running_var": (0.5, 1.5), "scale": (0.75, 1.25)}
    for leaf, (low, high) in ranges.items():
        values = found[f"bn1.{leaf}"]
        assert values.dtype == np.float32
        assert low <= values.min() < low + 0.05
        assert high - 0.05 < values.max() <= high
    assert found["bn1.num_batches_tracked"].dtype == np.int64
    assert not np.array_equal(found["bn1.bias"], found["bn1.running_mean"])


def test_synthetic_tensors_depend_on_name_and_seed_alone():
    one = synthetic_tensors({"a.bias": (4,), "b.bias": (4,)})
    other = synthetic_tensors({"b.bias": (4,), "a.bias": (4,)})
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])
    assert not np.array_equal(one["a.bias"], one["b.bias"])
    assert not np.array_equal(one["a.bias"], synthetic_tensors({"a.bias": (4,)}, seed=1)["a.bias"])
    images = synthetic_images((2, 40, 40, 3))
    assert images.dtype == np.float32
    assert images.mean() == pytest.approx(0, abs=0.05)
    assert images.var() == pytest.approx(1, rel=0.05)
