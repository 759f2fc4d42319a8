"""What every model of the zoo writes is read back bit by bit."""

import numpy as np
from conformance.families import (
    FAMILIES,
    every,
    get,
    has_reference,
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
