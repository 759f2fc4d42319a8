"""get, list and info import, read and build no more than they must."""

import json
import subprocess
import sys
import textwrap
import warnings

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import flaxzoo as fz
from flaxzoo.licences import LicenceWarning
from flaxzoo.models import build as building
from flaxzoo.models import catalog
from flaxzoo.models.registry import families

TINY = {"input_shape": (32, 32, 3), "num_classes": 5}


def loaded_families(code):
    """The families that a fresh process has imported after running ``code``."""
    report = """
        import json, sys
        from flaxzoo.models.registry import families
        print(json.dumps([f for f in families() if f"flaxzoo.models.{f}" in sys.modules]))
    """
    script = textwrap.dedent(code) + textwrap.dedent(report)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_get_imports_one_family_and_list_none():
    code = """
        import flaxzoo as fz
        assert "resnet50" in fz.models.list("resnet*")
        assert fz.models.list("resnet50*", pretrained=True)
        assert fz.models.list(licence="commercial")
    """
    assert loaded_families(code) == []
    assert loaded_families('import flaxzoo as fz; fz.models.get("mlp")') == ["mlp"]
    assert loaded_families('import flaxzoo as fz; fz.models.info("cnn.digits")') == ["cnn"]


def test_a_family_that_the_index_does_not_know_is_imported(monkeypatch):
    """While a family is being written, its names are there before the catalogue is."""
    index = catalog.index()
    known = {family: rows for family, rows in index["families"].items() if family != "mlp"}
    monkeypatch.setattr(catalog, "index", lambda: {**index, "families": known})
    monkeypatch.setattr(catalog, "names", lambda: {n: f for f, rows in known.items() for n in rows})
    assert "mlp" in fz.models.list()
    assert fz.models.get("mlp").spec.tags == ()


def test_an_architecture_that_the_index_does_not_know_is_found_by_itself():
    code = """
        from flaxzoo.models import catalog, registry
        index = catalog.index()
        known = {family: rows for family, rows in index["families"].items() if family != "mlp"}
        catalog.index = lambda: {**index, "families": known}
        catalog.names = lambda: {name: f for f, rows in known.items() for name in rows}
        assert registry.MODELS.architecture("mlp").family == "flaxzoo.models.mlp"
    """
    assert loaded_families(code) == ["mlp"]


def test_a_name_of_the_zoo_is_taken_before_its_family_is_imported():
    code = """
        import flax.linen as nn
        import flaxzoo as fz
        try:
            fz.models.register("resnest14d")(nn.Dense)
        except ValueError as error:
            assert "registered already" in str(error)
        else:
            raise AssertionError
    """
    assert "resnest" in loaded_families(code)


@pytest.fixture
def builds(monkeypatch):
    """Counts the modules that are built."""
    calls = []
    get = building.MODELS.get
    monkeypatch.setattr(building.MODELS, "get", lambda *a, **k: calls.append(a) or get(*a, **k))
    return calls


@pytest.mark.parametrize("options", [{}, {"num_classes": 3}, {"num_classes": 0}])
def test_a_pretrained_model_is_built_once(builds, options):
    model = fz.models.get("cnn.digits", pretrained=True, **options)
    assert builds == [("cnn",)]
    assert model.variables is not None


def test_a_pretrained_model_from_a_file_is_built_once(builds, tmp_path):
    model = fz.models.get("test_resnet", **TINY).init(rng=0)
    save_file(
        {
            name: np.ascontiguousarray(x)
            for name, x in model.to_torch_state_dict(as_numpy=True).items()
        },
        tmp_path / "model.safetensors",
    )
    builds.clear()
    path = tmp_path / "model.safetensors"
    again = fz.models.get("test_resnet", pretrained=path, input_shape=(32, 32, 3))
    assert len(builds) == 1
    assert again.module.head.num_classes == 5
    jax.tree.map(np.testing.assert_array_equal, again.variables, model.variables)


def test_weights_that_restrict_say_so(tmp_path, monkeypatch):
    model = fz.models.get("test_resnet", **TINY).init(rng=0)
    model.save_pretrained(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    document["flaxzoo"]["spec"]["licence"] = "cc-by-nc-4.0"
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.warns(LicenceWarning, match=r"'cc-by-nc-4.0': no commercial use") as record:
        fz.models.get("test_resnet", pretrained=tmp_path)
    assert record[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fz.models.get("cnn.digits", pretrained=True)


def test_what_cannot_be_built_is_told_before_a_download(monkeypatch):
    def download(*args, **kwargs):
        raise AssertionError("a download began")

    monkeypatch.setattr("flaxzoo.weights.hub.download", download)
    with pytest.raises(ValueError, match="output_stride must be 8, 16 or 32, got 4"):
        fz.models.get("resnet50", pretrained=True, output_stride=4)
    with pytest.raises(fz.errors.UnknownArgumentError, match="does not take 'depth'"):
        fz.models.get("resnet50", pretrained=True, depth=3)


def test_every_family_has_a_catalogue():
    assert set(families()) == set(catalog.index()["families"])


def test_info_counts_what_the_catalogue_does_not(monkeypatch):
    usual = fz.models.info("mlp")
    monkeypatch.setattr(catalog, "known", lambda name: {})
    counted = fz.models.info("mlp")
    assert (counted.parameters, counted.gflops) == (usual.parameters, pytest.approx(usual.gflops))


def test_weights_of_one_size_take_no_other(monkeypatch):
    entry = {**catalog.entry("resnet18", "a1_in1k"), "fixed_input_size": True}
    monkeypatch.setattr(catalog, "entry", lambda name, tag: entry)
    with pytest.raises(fz.errors.ShapeError, match=r"for images of \[224, 224\] alone, got .*\(96"):
        fz.models.get("resnet18", pretrained=True, input_shape=(96, 96, 3))
