"""scripts/certify.py: what a fingerprint tells apart, what is run again, what the ledger says."""

import dataclasses
import importlib.util
import json
import sys
import types
from pathlib import Path

import pytest

import flaxzoo as fz
from flaxzoo.models import catalog
from flaxzoo.models.registry import MODELS, families

ROOT = Path(__file__).parents[2]
LINE = {
    "logits": 3.1e-7,
    "features": 2e-7,
    "stages": {"stem": 1e-7, "layer1": 2.5e-7},
    "compared": "whole",
    "input_shape": [96, 96, 3],
    "versions": {"timm": "1.0.31", "torch": "2.13.0", "jax": "0.10.2", "flaxzoo": "0.1.0"},
}


@pytest.fixture
def script(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("certify", ROOT / "scripts/certify.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "LEDGERS", tmp_path)
    return module


def test_a_fingerprint_is_that_of_the_computation(script, monkeypatch):
    shape = (32, 32, 3)
    usual = script.fingerprint("test_resnet", shape)
    assert len(usual) == 16
    with fz.layers.lowering.use("xla"):
        assert script.fingerprint("test_resnet", shape) == usual
    assert script.fingerprint("test_resnet", (64, 64, 3)) != usual
    assert script.fingerprint("resnet10t", shape) != usual
    get = fz.models.get

    def with_another_activation(name, **config):
        return get(name, **config, activation="silu")

    monkeypatch.setattr(fz.models, "get", with_another_activation)
    assert script.fingerprint("test_resnet", shape) != usual


def test_a_fingerprint_does_not_depend_on_what_ran_before(script):
    import jax

    before = script.fingerprint("test_resnet", (32, 32, 3))
    jax.clear_caches()
    fz.models.get("resnet10t").shapes()
    assert script.fingerprint("test_resnet", (32, 32, 3)) == before


def test_a_shallow_network_has_every_block_and_at_most_two_in_a_stage(script):
    assert script.shallow("resnet152") == {"layers": (2, 2, 2, 2)}
    assert script.shallow("resnet14t") == {"layers": (1, 1, 1, 1)}
    # timm's functions of these names take no depth.
    assert script.shallow("vgg19") == {}
    assert script.in_timms_words("vgg19", {}) == {}
    assert script.shallow("cnn") == {}


def test_timm_s_table_of_configurations_is_changed_for_the_while(script, monkeypatch):
    @dataclasses.dataclass
    class Config:
        depths: tuple[int, ...] = (9, 9)

    usual = Config()
    from flaxzoo.models import resnet

    monkeypatch.setattr(resnet, "CUT", {"layers": "model_cfgs.depths"}, raising=False)
    module = types.SimpleNamespace(model_cfgs={"resnet50": usual})
    for name in ("timm", "timm.models", "timm.models.resnet"):
        monkeypatch.setitem(sys.modules, name, module)
    words = script.in_timms_words("resnet50", {"layers": (1, 2)})
    with script.configured("resnet50", {**words, "img_size": 32}) as keywords:
        assert keywords == {"img_size": 32}
        assert module.model_cfgs["resnet50"] == Config((1, 2))
    assert module.model_cfgs["resnet50"] is usual
    with script.configured("resnet50", {"layers": (1,)}) as keywords:
        assert keywords == {"layers": (1,)}
    module.create = function = lambda name, **options: (name, options)
    with script.configured("resnet50", {"create.layers": (1,), "img_size": 32}) as keywords:
        assert keywords == {"img_size": 32}
        assert module.create("a", layers=(9,), width=2) == ("a", {"layers": (1,), "width": 2})
    assert module.create is function


def test_what_computes_timm_s_depth_is_replaced_for_the_while(script, monkeypatch):
    from flaxzoo.models import resnet

    def few(timm, layers):
        usual = timm.design
        return {"design": lambda depth: (usual(depth), layers)}

    monkeypatch.setattr(resnet, "CUT", {"layers": few}, raising=False)
    module = types.SimpleNamespace(design=lambda depth: depth)
    for name in ("timm", "timm.models", "timm.models.resnet"):
        monkeypatch.setitem(sys.modules, name, module)
    words = script.in_timms_words("resnet50", {"layers": (1, 2)})
    with script.configured("resnet50", {**words, "img_size": 32}) as keywords:
        assert keywords == {"img_size": 32}
        assert module.design(9) == (9, (1, 2))
    assert module.design(9) == 9


def test_a_family_may_say_where_its_depth_is(script, monkeypatch):
    from flaxzoo.models import resnet

    monkeypatch.setattr(resnet, "CUT", {"widths": "channels"}, raising=False)
    assert script.shallow("resnet50") == {"widths": (2, 2, 2, 2)}
    assert script.in_timms_words("resnet50", {"widths": (2,)}) == {"channels": (2,)}


def test_some_of_each_family_are_asked_and_all_without_a_certificate(script):
    names = ["resnet18", "resnet34", "resnet50", "resnest14d", "resnest26d"]
    assert script.some_of_each(names, 0, "a") == names
    script.write("resnet", dict.fromkeys(names[:3], LINE))
    script.write("resnest", dict.fromkeys(names[3:], LINE))
    assert script.some_of_each(names, 0, "a") == []
    assert script.some_of_each(names, 9, "a") == names
    drawn = {tuple(script.some_of_each(names, 1, str(seed))) for seed in range(40)}
    assert {len(some) for some in drawn} == {2}
    assert {name for some in drawn for name in some} == set(names)


def test_what_has_changed_is_run_again_and_some_by_lot(script, monkeypatch):
    names = [f"resnet{depth}" for depth in (18, 26, 34, 50)]
    monkeypatch.setattr(script, "fingerprint", lambda name, shape: f"print of {name}")
    ledger = {name: {**LINE, "fingerprint": f"print of {name}"} for name in names}
    ledger["resnet34"]["fingerprint"] = "another"
    del ledger["resnet50"]
    script.write("resnet", ledger)
    chosen, prints = script.pending(names, 0, "a")
    assert chosen == ["resnet34", "resnet50"]
    assert prints["resnet18"] == "print of resnet18"
    lots = {tuple(script.pending(names, 1, str(seed))[0]) for seed in range(20)}
    assert lots == {("resnet18", "resnet34", "resnet50"), ("resnet26", "resnet34", "resnet50")}
    assert script.pending(names, 1, "x") == script.pending(names, 1, "x")
    assert script.pending(names, 9, "x")[0] == names


@pytest.mark.parametrize("difference", [2e-5, float("nan"), float("inf")])
def test_a_difference_fails_and_is_named(script, monkeypatch, capsys, difference):
    bad = {**LINE, "stages": {"stem": difference}}
    lines = {"resnet18": LINE, "resnet26": bad}
    monkeypatch.setattr(script, "certify", lambda name, **options: lines[name])
    monkeypatch.setattr(script, "fingerprint", lambda name, shape: "print")
    assert script.main(["resnet18", "resnet26"]) == 1
    assert "more than 1e-05 from the reference: resnet26" in capsys.readouterr().err
    assert script.read("resnet") == {"resnet18": {**LINE, "fingerprint": "print"}}
    assert script.main(["resnet18"]) == 0


def test_only_what_timm_has_is_certified(script):
    assert "cnn" not in script.certifiable()
    assert script.choose(["resnet1?"], "all") == ["resnet18"]
    assert all(name.startswith("resnest") for name in script.choose([], "resnest"))
    assert script.choose([], "resnest,cnn") == script.choose([], "resnest")
    with pytest.raises(SystemExit, match="no name"):
        script.choose(["cnn"], "all")
    with pytest.raises(SystemExit, match="no family"):
        script.choose([], "resnets")
    assert script.choose([], "none") == []
    assert script.main(["--family", "none"]) == 0


def test_the_ledger_of_the_package(script):
    """Lines of names that there are, within the tolerance."""
    for family in families():
        for name, line in catalog.certificates(family).items():
            assert MODELS.architecture(name).family == f"flaxzoo.models.{family}"
            assert script.passes(line), name
            assert set(line) == {*LINE, "fingerprint"}
            package = MODELS.architecture(name).reference.package
            assert list(line["versions"]) == [package, "torch", "jax", "flaxzoo"]


def test_info_says_it_in_words(script, monkeypatch):
    monkeypatch.setattr(catalog, "certificate", {"resnet18": LINE}.get)
    spec = fz.models.info("resnet18")
    assert spec.certificate == LINE
    words = "logits 3.1e-07, maps 2.5e-07 against timm 1.0.31 at 96 px, whole"
    assert spec.certified == words
    assert f"certified  {words}" in str(spec)
    assert json.loads(json.dumps(spec.to_json()))["certificate"] == LINE
    others = {"torchvision": "0.28.0", "torch": "2.13.0", "jax": "0.10.2", "flaxzoo": "0.1.0"}
    monkeypatch.setattr(catalog, "certificate", {"resnet18": {**LINE, "versions": others}}.get)
    assert "against torchvision 0.28.0 at 96 px" in fz.models.info("resnet18").certified
    assert fz.models.info("cnn").certified is None
    assert "certified" not in str(fz.models.info("cnn"))
