from pathlib import Path

import _peers
import _plain_linen
import _steps
import jax
import numpy as np
import optax
import pytest
from _timing import Timing
from _workers import Measured
from _works import RESNETS, WORKS, flaxzoo_model, read_weights, write_weights

import flaxzoo as fz

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def measured(**values):
    ready = {
        name: {
            "values": [value, value],
            "same_weights": name != "own",
            "device": "cpu",
            "gflop": 3.0,
        }
        for name, value in values.items()
    }
    timings = {name: Timing(name, (0.1, 0.2, 0.3)) for name in values}
    return Measured(timings, {}, ready, 3)


def test_every_peer_has_a_maker_and_works():
    for name, (module, function, works) in _steps.PEERS.items():
        source = (BENCHMARKS / f"{module}.py").read_text()
        dtype = ", dtype: str = FLOAT32" if name in _steps.TOLD else ""
        head = f"def {function}(work: str, kind: str, weights: str{dtype}) -> Candidate:"
        assert f"\n{head}" in source
        assert set(works) <= set(WORKS)
    assert set(RESNETS) == {n for n in WORKS if n.startswith("res")}


def test_other_values_from_the_same_weights_stop_everything():
    _steps.check("mlp", measured(flaxzoo=[2.0, 1.0], same=[2.0, 1.0001], own=[7.0, 7.0]).ready)
    with pytest.raises(SystemExit, match="mlp: other computes something else"):
        _steps.check("mlp", measured(flaxzoo=[2.0, 1.0], other=[2.0, 1.001]).ready)
    with pytest.raises(SystemExit, match="something else"):
        _steps.check("mlp", measured(flaxzoo=[2.0, 1.0], other=[float("nan"), 1.0]).ready)


def test_report_has_the_missing_peer_and_the_rate():
    missing = {"torch": "not installed (torch)"}
    text = _steps.report("mlp", measured(flaxzoo=[1.0], own=[1.0]), missing)
    assert "| torch | not installed (torch) | | |" in text
    assert "15 GFLOP/s by flaxzoo" in text


def test_torch_compile_is_a_row_where_it_is_not_asked_for():
    peers = ["torch", "torch.compile", "jax-resnet"]
    commands, left_out = _steps.candidates("mlp", "train", peers, ["cnn"], "weights")
    assert list(commands) == ["flaxzoo", "torch"]
    assert left_out == {"torch.compile": "not run: --compile mlp"}
    commands, left_out = _steps.candidates("resnet50", "train", peers, ["resnet50"], "weights")
    assert list(commands) == ["flaxzoo", *peers]
    assert not left_out


def test_several_steps_at_once_are_for_training():
    peers = [_steps.SEVERAL, "torch"]
    assert list(_steps.candidates("mlp", "train", peers, [], "w")[0]) == ["flaxzoo", *peers]
    assert list(_steps.candidates("mlp", "inference", peers, [], "w")[0]) == ["flaxzoo", "torch"]
    one, several = (make("mlp", "train", "") for make in (_peers.flaxzoo, _peers.flaxzoo_several))
    first, *others = (one.value(one.call()) for _ in range(several.steps))
    assert several.steps == _peers.AT_ONCE
    # Its loss is the mean over the steps.
    np.testing.assert_allclose(several.value(several.call()), np.mean([first, *others]), rtol=1e-5)


def test_bfloat16_is_for_those_that_can_be_told():
    peers = ["plain Linen", "torch", "Keras on JAX"]
    commands, left_out = _steps.candidates("mlp", "train", peers, [], "w", dtype="bfloat16")
    assert list(commands) == ["flaxzoo", "plain Linen", "torch"]
    assert all(command[-1] == "bfloat16" for command in commands.values())
    assert left_out == {"Keras on JAX": "float32 only"}
    rough = measured(flaxzoo=[2.0, 1.0], other=[2.0, 1.01]).ready
    _steps.check("mlp", rough, dtype="bfloat16")
    with pytest.raises(SystemExit, match="something else"):
        _steps.check("mlp", rough)


def test_everybody_computes_in_bfloat16(tmp_path):
    write_weights("mlp", str(tmp_path))
    candidates = [
        make("mlp", "inference", str(tmp_path), "bfloat16")
        for make in (_peers.flaxzoo, _peers.plain_linen)
    ]
    ours, linen = (np.asarray(one.value(one.call()), np.float32) for one in candidates)
    np.testing.assert_array_equal(ours, linen)
    exact = _peers.flaxzoo("mlp", "inference", "")
    difference = np.abs(ours - exact.value(exact.call())).max()
    assert 0 < difference < 0.05


@pytest.mark.parametrize("work", ["mlp", "lstm"])
def test_plain_linen_takes_the_same_step(work, tmp_path):
    write_weights(work, str(tmp_path))
    variables = _plain_linen.from_flaxzoo(read_weights(str(tmp_path), work))
    config = WORKS[work].config
    module = _plain_linen.TextLSTM(**config) if work == "lstm" else _plain_linen.MLP()
    batch = WORKS[work].data()
    optimizer = optax.adam(1e-3)
    step = _plain_linen.train_step(module.apply, optimizer, train=True)
    params = jax.device_put(variables["params"])
    theirs = (params, {}, optimizer.init(params))
    ours = fz.create_train_state(flaxzoo_model(work), optimizer="adam", learning_rate=1e-3)
    for _ in range(2):
        theirs, (loss, accuracy) = step(theirs, *batch)
        ours, metrics = fz.train_step(ours, batch)
        found = metrics.compute()
        np.testing.assert_allclose(loss, found["loss"], rtol=1e-4)
        np.testing.assert_allclose(accuracy, found["accuracy"], atol=1e-6)


def test_plain_resnets_have_our_parameters():
    for name in ("resnet18", "resnet50", "resnext50_32x4d"):
        model = fz.models.get(name)
        images = jax.ShapeDtypeStruct((1, 64, 64, 3), "float32")

        def shapes(module, images=images):
            init = lambda x: module.init(jax.random.key(0), x)  # noqa: E731
            return jax.tree.map(lambda leaf: leaf.shape, jax.eval_shape(init, images))

        expected = _plain_linen.from_flaxzoo(dict(shapes(model.module)))
        assert shapes(_plain_linen.resnet(name)) == expected
