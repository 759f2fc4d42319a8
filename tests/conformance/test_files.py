"""What every model of the zoo writes is read back bit by bit."""

import numpy as np
import pytest
from conformance.families import (
    FAMILIES,
    every,
    get,
    has_branches,
    has_reference,
    inputs,
    only,
    saved,
    tiny,
)

import flaxzoo as fz
from flaxzoo._trees import flatten


@only(every)
def test_save_and_load(family, assert_same):
    model = fz.Model.load(saved(family))
    assert_same(model.variables, tiny(family).variables)
    assert model.module == tiny(family).module
    assert model.spec == tiny(family).spec


@only(every)
def test_save_pretrained_and_from_pretrained(family, assert_same, tmp_path):
    tiny(family).save_pretrained(tmp_path)
    model = fz.Model.from_pretrained(tmp_path)
    assert_same(model.variables, tiny(family).variables)
    assert model.module == tiny(family).module


@only(has_reference)
def test_to_the_reference_s_names_and_back(family, assert_same, tmp_path):
    from safetensors.numpy import save_file

    state = tiny(family).to_torch_state_dict(as_numpy=True)
    count = sum(leaf.size for leaf in flatten(tiny(family).variables).values())
    floats = sum(leaf.size for leaf in state.values() if np.issubdtype(leaf.dtype, np.floating))
    assert floats == count
    assert f"{FAMILIES[family].architecture.reference.classifier}.weight" in state
    save_file(state, tmp_path / "model.safetensors")
    model = get(family, pretrained=tmp_path / "model.safetensors")
    assert_same(model.variables, tiny(family).variables)


@only(has_branches)
def test_the_form_of_inference(family, assert_same, tmp_path):
    model = tiny(family)
    fused, x = model.reparameterize(), inputs(family)
    expected = np.asarray(model(x))
    np.testing.assert_allclose(fused(x), expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert fused.module.backbone.fused
    assert fused.reparameterize() is fused
    fused.save(tmp_path)
    loaded = fz.Model.load(tmp_path)
    assert_same(loaded.variables, fused.variables)
    assert loaded.module == fused.module


@only(has_branches)
def test_weights_of_both_forms(family, assert_same, tmp_path):
    from safetensors.numpy import save_file

    fused = tiny(family).reparameterize()
    for name, model in (("plain", tiny(family)), ("fused", fused)):
        state = model.to_torch_state_dict(as_numpy=True)
        save_file(state, tmp_path / f"{name}.safetensors")
        loaded = get(family, fused=True, pretrained=tmp_path / f"{name}.safetensors")
        assert_same(loaded.variables, fused.variables)
        assert loaded.module == fused.module
    fused.save(tmp_path / "ours")
    assert_same(get(family, fused=True, pretrained=tmp_path / "ours").variables, fused.variables)
    with pytest.raises(fz.errors.CheckpointError, match="fused=True, ...\\) takes them"):
        get(family, pretrained=tmp_path / "fused.safetensors")
