"""What never becomes weights in silence, whichever way it comes."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ArgumentError, CheckpointError
from flaxzoo.weights import load_variables, save_variables
from flaxzoo.weights.safetensors_files import write_safetensors
from flaxzoo.weights.sources._renaming import Renaming
from flaxzoo.weights.values import as_weights

KERNEL = "params/backbone/dense_0/kernel"
WRONG = {
    "int": (lambda x: x.astype(np.int64), "is int64, the model's is float32"),
    "bool": (lambda x: x > 0, "is bool, the model's is float32"),
    "complex": (lambda x: x.astype(np.complex64), "is complex64, the model's is float32"),
    "wide": (
        lambda x: x.astype(np.float64) + 1e300,
        r"is float64 and holds 1e\+300, which float32",
    ),
}
NOT_FINITE = {
    "nan": lambda x: np.where(x == x.max(), np.nan, x).astype(np.float32),
    "inf": lambda x: np.where(x == x.max(), -np.inf, x).astype(np.float32),
    "bfloat16": lambda x: np.where(x == x.max(), np.nan, x).astype(jnp.bfloat16),
}
OPTIONS = {"input_shape": (3,), "features": (4,), "num_classes": 2}


@pytest.fixture(scope="module")
def model():
    return fz.models.get("mlp", **OPTIONS).init(0)


def flat(model):
    return {
        f"params/{group}/{layer}/{name}": np.asarray(leaf)
        for group, layers in model.variables["params"].items()
        for layer, leaves in layers.items()
        for name, leaf in leaves.items()
    }


def write_npz(path, tensors):
    np.savez(path, **tensors)


def write_h5(path, tensors):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, tensor in tensors.items():
            file[name] = tensor


WRITERS = {"safetensors": write_safetensors, "npz": write_npz, "h5": write_h5}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("change", [*WRONG, *NOT_FINITE])
def test_no_reader_takes_other_than_finite_floating_point_numbers(tmp_path, model, kind, change):
    if change == "bfloat16" and kind == "h5":
        pytest.skip("HDF5 has no bfloat16")
    function, message = WRONG.get(change) or (NOT_FINITE[change], "not finite")
    tensors = flat(model)
    tensors[KERNEL] = function(tensors[KERNEL])
    path = tmp_path / f"w.{kind}"
    WRITERS[kind](path, tensors)
    with pytest.raises(CheckpointError, match=f"{path}: .*{message}") as caught:
        fz.models.get("mlp", pretrained=path, **OPTIONS)
    assert KERNEL in str(caught.value)


@pytest.mark.parametrize("save", ["save", "save_pretrained"])
def test_a_saved_model_that_diverged_loads_with_a_warning(tmp_path, model, save):
    dense = model.variables["params"]["backbone"]["dense_0"]
    bad = NOT_FINITE["nan"](np.asarray(dense["kernel"]))
    params = {**model.variables["params"], "backbone": {"dense_0": {**dense, "kernel": bad}}}
    getattr(model.with_variables({"params": params}), save)(tmp_path)
    with pytest.warns(UserWarning, match=rf"not finite .* in {KERNEL} \(1 of 12 values\)"):
        again = fz.Model.from_pretrained(tmp_path)
    np.testing.assert_array_equal(again.variables["params"]["backbone"]["dense_0"]["kernel"], bad)
    with pytest.raises(CheckpointError, match="not finite"):
        fz.models.get("mlp", pretrained=tmp_path)


@pytest.mark.parametrize("save", ["save", "save_pretrained"])
def test_a_saved_model_comes_back_in_its_dtype(tmp_path, model, save):
    half = model.with_variables(jax.tree.map(lambda x: x.astype(jnp.bfloat16), model.variables))
    getattr(half, save)(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = fz.Model.from_pretrained(tmp_path)
        wide = fz.Model.from_pretrained(tmp_path, param_dtype="float32")
    assert {leaf.dtype for leaf in jax.tree.leaves(again.variables)} == {jnp.dtype(jnp.bfloat16)}
    assert {leaf.dtype for leaf in jax.tree.leaves(wide.variables)} == {jnp.dtype("float32")}
    for a, b in zip(jax.tree.leaves(wide.variables), jax.tree.leaves(half.variables), strict=True):
        np.testing.assert_array_equal(a, b.astype(jnp.float32))
    with pytest.raises(ArgumentError, match="param_dtype must be a floating dtype .* got 'int8'"):
        fz.Model.from_pretrained(tmp_path, param_dtype="int8")
    if save == "save":
        loaded = fz.Model.load(tmp_path, param_dtype=jnp.float16)
        assert {x.dtype.name for x in jax.tree.leaves(loaded.variables)} == {"float16"}
    # Of get the parameters are float32 unless it is told.
    with pytest.warns(UserWarning, match="tensors are bfloat16 and become float32"):
        told = fz.models.get("mlp", pretrained=tmp_path)
    assert {leaf.dtype for leaf in jax.tree.leaves(told.variables)} == {jnp.dtype("float32")}


def test_digits_that_jax_does_not_hold_here_are_told(tmp_path, model):
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), model.variables)
    fz.Model(model.module, wide, model.spec).save(tmp_path)
    with pytest.warns(UserWarning, match=r"rounded: params/\S+ is float64;.*jax_enable_x64"):
        again = fz.Model.load(tmp_path)
    assert again.variables["params"]["head"]["fc"]["kernel"].dtype == jnp.float32


def test_a_module_of_ones_own_may_hold_integers_as_it_says():
    class Counting(nn.Module):
        @nn.compact
        def __call__(self, x):
            self.variable("counts", "n", lambda: jnp.zeros((), jnp.int32))
            return nn.Dense(2)(x)

    model = fz.Model(Counting()).init(0, jnp.ones((1, 3)))
    flat_leaves = {"counts/n": np.int64(3), "params/Dense_0/bias": np.zeros(2)}
    expected = {
        "counts/n": model.variables["counts"]["n"],
        "params/Dense_0/bias": model.variables["params"]["Dense_0"]["bias"],
    }
    arrays = as_weights(flat_leaves, expected, source="here")
    assert arrays["counts/n"].dtype == jnp.int32
    with pytest.raises(CheckpointError, match="counts/n is int64 and holds 1099511627776"):
        as_weights({**flat_leaves, "counts/n": np.int64(1 << 40)}, expected, source="here")
    with pytest.raises(CheckpointError, match="counts/n is float32, the model's is int32"):
        as_weights({**flat_leaves, "counts/n": np.float32(1)}, expected, source="here")


def test_a_model_of_the_registry_has_no_other_parameters(model):
    integers = jax.tree.map(lambda x: np.asarray(x, np.int32), model.variables)
    with pytest.raises(ValueError, match=r"'mlp': .*but backbone/dense_0/\w+ is int32"):
        model.with_variables(integers)


def test_variables_of_other_packages_are_looked_at():
    for bad, message in (
        (np.ones((3, 3), np.int32), "is int32"),
        (np.full((3, 3), np.nan, np.float32), r"not finite .* params/Dense_0/kernel"),
    ):
        renaming = Renaming({"params/Dense_0/kernel": bad})
        renaming.conv("head/fc", "Dense_0")
        with pytest.raises(CheckpointError, match=f"theirs: .*{message}"):
            renaming.apply("theirs")


def test_load_variables_compares_kinds_and_gives_what_the_file_has(tmp_path):
    path = tmp_path / "w.safetensors"
    save_variables(path, {"params": {"a": np.arange(3)}})
    with pytest.raises(CheckpointError, match="params/a is int64, the model's is float32"):
        load_variables(path, {"params": {"a": jnp.zeros(3)}})
    assert load_variables(path)["params"]["a"].dtype == np.int64
