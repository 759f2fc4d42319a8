"""What several devices promise, on eight simulated ones: ``test_sharding.py`` runs it.

JAX counts its devices once in a process, so these tests have one of their own.
"""

from __future__ import annotations

import json
import math
import re
import warnings

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._trees import by_path
from flaxzoo.data.batch import as_batch
from flaxzoo.layers.lowering.written import written
from flaxzoo.training import sharding_rules
from flaxzoo.training.compiled import evaluate_and_total, fit_step
from flaxzoo.training.step import _train_step, placed_for

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(76, 8, 8, 3)).astype(np.float32)
LABELS = RNG.integers(0, 4, 76)
IDS = RNG.integers(1, 30, (76, 6))


@pytest.fixture(autouse=True)
def small_leaves_divide(monkeypatch):
    """Small models are all of leaves that would be whole on every device."""
    monkeypatch.setattr(sharding_rules, "MIN_SIZE", 64)


def cnn():
    options = {"features": (8, 16), "batch_norm": True, "dropout": 0.2}
    return fz.models.get("cnn", num_classes=4, input_shape=(8, 8, 3), **options)


def resnet():
    options = {"layers": (1, 1), "widths": (16, 32), "stem_width": 16, "block": "basic"}
    return fz.models.get("resnet18", num_classes=4, input_shape=(8, 8, 3), **options)


def vit():
    options = {"patch_size": 4, "width": 16, "depth": 2, "heads": 2, "drop_path": 0.1}
    return fz.models.get("vit_tiny_patch16_224", num_classes=4, input_shape=(8, 8, 3), **options)


def lstm():
    return fz.models.get("lstm", num_classes=4, vocab_size=30, hidden_size=16, input_shape=(6,))


def noisy(key, batch):
    """Other words in some places."""
    drawn = jax.random.randint(key, batch.inputs.shape, 1, 30)
    return batch._replace(inputs=jax.numpy.where(drawn < 6, drawn, batch.inputs))


MODELS = {
    "cnn": (cnn, "horizontal_flip"),
    "resnet": (resnet, ["horizontal_flip", "mixup"]),
    "vit": (vit, "random_crop"),
    "lstm": (lstm, noisy),
}


def data(kind):
    return (IDS if kind == "lstm" else IMAGES), LABELS


def train(kind="cnn", *, epochs=2, batch_size=16, run=None, callbacks=(), **options):
    model, augment = MODELS[kind]
    options = {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.05, **options}
    trainer = fz.Trainer(model(), augment=augment, seed=3, **options)
    examples = data(kind)
    validation = tuple(x[:21] for x in examples)
    trainer.fit(
        examples,
        epochs=epochs,
        batch_size=batch_size,
        validation_data=validation,
        callbacks=callbacks,
        progress=False,
    )
    return trainer


@pytest.fixture(scope="module")
def alone():
    """What one device makes of each model, trained once."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = train(kind, devices=1)
        return made[kind]

    return get


def largest_error(state, expected):
    """Of all leaves' largest differences, each by its leaf's largest number, the largest."""
    names = ("params", "batch_stats", "opt_state")
    errors = {}
    for name in names:
        wanted = by_path(getattr(expected, name))
        for path, leaf in by_path(getattr(state, name)).items():
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf, wanted[path] = map(jax.random.key_data, (leaf, wanted[path]))
            a, b = np.asarray(leaf, np.float64), np.asarray(wanted[path], np.float64)
            errors[f"{name}/{path}"] = np.abs(a - b).max() / max(np.abs(b).max(), 1e-3)
    return max(errors.items(), key=lambda item: item[1])


def assert_same(trainer, expected, bound=1e-5):
    path, error = largest_error(trainer.state, expected.state)
    assert error < bound, (path, error)
    assert trainer.step == expected.step
    for name in expected.history:
        assert trainer.history[name] == pytest.approx(expected.history[name], rel=bound), name


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("sharding", ["replicated", "fsdp"])
def test_the_numbers_are_those_of_one_device(alone, kind, sharding):
    trainer = train(kind, devices="all", sharding=sharding)
    assert trainer.step == 10
    assert_same(trainer, alone(kind))


def test_nothing_compiles_twice():
    before = fit_step._cache_size(), evaluate_and_total._cache_size()
    train("vit", devices="all", sharding="fsdp", learning_rate=0.01)
    after = fit_step._cache_size(), evaluate_and_total._cache_size()
    assert [b - a for a, b in zip(before, after, strict=True)] in ([1, 1], [0, 0])


# --- what the devices send -------------------------------------------------------------------


def small(name, **fields):
    return fz.models.get(name, num_classes=4, input_shape=(8, 8, 3), layers=(1,), **fields)


OTHERS = {
    "groups": lambda: small("resnext50_32x4d", widths=(32,), stem_width=16, groups=4),
    "depthwise": lambda: small("convnext_tiny", widths=(16,), kernel_sizes=(7,)),
    "lstm": lstm,
    "vit": vit,
}
_SENT = re.compile(r" = ([^=]*?) (all-gather|all-to-all|collective-permute)(?:-start)?\(")


def sent(state, batch):
    """The sizes of arrays that a compiled step brings together or moves; sums are no part of it."""
    placed = placed_for(state, as_batch(batch))
    text = _train_step.lower(state, placed).compile().as_text()
    shapes = [shape for match in _SENT.finditer(text) for shape in match[1].split("]")[:-1]]
    return [math.prod(map(int, filter(None, s.split("[")[-1].split(",")))) for s in shapes]


@pytest.mark.parametrize("kind", OTHERS)
def test_no_batch_is_brought_together(kind):
    """Not by groups of channels, shifted sums or time in front of the batch either."""
    batch = tuple(x[:16] for x in data(kind))
    one = fz.create_train_state(OTHERS[kind](), optimizer="sgd", learning_rate=0.1, rng=0)
    (after, _), states = fz.train_step(one, batch), []
    for sharding in ("replicated", "fsdp"):
        options = {"optimizer": "sgd", "learning_rate": 0.1, "rng": 0}
        state = fz.create_train_state(OTHERS[kind](), devices=8, sharding=sharding, **options)
        states.append(state)
        for path, leaf in by_path(fz.train_step(state, batch)[0].params).items():
            expected = np.asarray(by_path(after.params)[path])
            np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-6, err_msg=path)
    assert not sent(states[0], batch)
    if kind in ("groups", "vit"):
        # Under FSDP kernels alone, each of them whole.
        sizes = {leaf.size for leaf in jax.tree.leaves(one.params)}
        assert set(sent(states[1], batch)) <= sizes


def test_sums_that_one_device_writes_are_left_to_xla_on_several():
    """A condition on the first number would send it to all devices, in each block."""
    x = np.ones((8, 64, 64, 16), np.float32)
    mesh = jax.make_mesh((8,), ("data",))
    for axes in ("data", None):
        sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(axes))
        program = jax.jit(written).lower(jax.device_put(x, sharding))
        assert "stablehlo.case" not in program.as_text()
        np.testing.assert_array_equal(program.compile()(jax.device_put(x, sharding)), x)
    assert "stablehlo.case" in jax.jit(written).lower(x).as_text()


# --- where what lies -------------------------------------------------------------------------


def bytes_by_device(tree):
    held = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return held


def test_fsdp_holds_an_eighth_and_what_is_replicated():
    state = fz.create_train_state(
        vit(), optimizer="adamw", ema_decay=0.9, accumulate_steps=2, devices=8, sharding="fsdp"
    )
    state, _ = fz.train_step(state, (IMAGES[:16], LABELS[:16]))
    leaves = jax.tree.leaves(state)
    replicated = sum(leaf.nbytes for leaf in leaves if leaf.sharding.is_fully_replicated)
    divided = sum(leaf.nbytes for leaf in leaves if not leaf.sharding.is_fully_replicated)
    # Parameters, two moments, their average and the accumulated gradient.
    kernels = [leaf for leaf in jax.tree.leaves(state.params) if leaf.size >= 64]
    assert divided > 0.95 * 5 * sum(leaf.nbytes for leaf in kernels)
    assert set(bytes_by_device(state).values()) == {replicated + divided // 8}


def test_states_are_born_divided(monkeypatch):
    """No array of a parameter's size is ever whole on a device."""
    from flaxzoo.layers.lowering import initialise

    put, largest = jax.device_put, []

    def watched(tree, *args, **kwargs):
        result = put(tree, *args, **kwargs)
        for leaf in jax.tree.leaves(result):
            if not leaf.sharding.is_fully_replicated or len(leaf.devices()) == 1:
                largest.append(max(shard.data.size for shard in leaf.addressable_shards))
        return result

    monkeypatch.setattr(initialise.jax, "device_put", watched)
    for lowering in ("auto", "xla"):
        with fz.layers.lowering.use(lowering):
            state = fz.create_train_state(
                fz.models.get("mlp", features=(512,), num_classes=8, input_shape=(512,)),
                devices=8,
                sharding="fsdp",
            )
        kernel = state.params["backbone"]["dense_0"]["kernel"]
        assert kernel.addressable_shards[0].data.shape == (512, 64)
        moment = state.opt_state[0].mu["backbone"]["dense_0"]["kernel"]
        assert moment.sharding == kernel.sharding
    assert max(largest) == 512 * 64


def test_weights_that_are_read_on_the_host_go_to_the_devices_in_parts(tmp_path):
    options = {"features": (512,), "num_classes": 8, "input_shape": (512,)}
    fz.models.get("mlp", **options).init(0).save(tmp_path / "model")
    # What stands for the host here is a device that trains nothing.
    *devices, host = jax.devices()[:5]
    with jax.default_device(host):
        model = fz.models.get("mlp", pretrained=tmp_path / "model")
    kernel = model.variables["params"]["backbone"]["dense_0"]["kernel"]
    assert kernel.devices() == {host}
    mesh = jax.make_mesh((4,), ("data",), devices=devices)
    for variables in (model.variables, jax.tree.map(np.array, model.variables)):
        state = fz.create_train_state(
            model.with_variables(variables), optimizer="adam", devices=mesh, sharding="fsdp"
        )
        divided = by_path(state.params)["backbone/dense_0/kernel"]
        np.testing.assert_array_equal(divided, kernel)
        lying = [
            shard.data.size
            for array in jax.live_arrays()
            if array.shape == kernel.shape
            for shard in array.addressable_shards
            if shard.device in devices
        ]
        assert set(lying) == {kernel.size // 4}


def test_the_initial_numbers_are_those_of_one_device():
    whole = fz.create_train_state(vit(), rng=1)
    divided = fz.create_train_state(vit(), rng=1, devices=8, sharding="fsdp")
    for path, leaf in by_path(whole.params).items():
        np.testing.assert_array_equal(by_path(divided.params)[path], leaf)


def test_rules_are_read_in_order_and_axes_can_be_named():
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    rules = {
        "*": "fsdp",
        "head": "replicated",
        "backbone/blocks_*/mlp/fc1/kernel": (None, "model"),
        "backbone/blocks_1/mlp/fc1/kernel": (("data", "model"), None),
    }
    state = fz.create_train_state(vit(), devices=mesh, sharding=rules)
    specs = {path: leaf.sharding.spec for path, leaf in by_path(state.params).items()}
    P = jax.sharding.PartitionSpec  # noqa: N806
    assert specs["head/fc/kernel"] == P()
    assert specs["backbone/blocks_0/mlp/fc1/kernel"] == P(None, "model")
    assert specs["backbone/blocks_1/mlp/fc1/kernel"] == P(("data", "model"))
    # What no rule but the first matches: the family's own for the tensor axis, then FSDP's.
    assert specs["backbone/blocks_0/attn/qkv/kernel"] == P("data", "model")
    assert specs["backbone/blocks_0/attn/proj/kernel"] == P("model", "data")
    assert specs["backbone/blocks_0/norm1/scale"] == P()


@pytest.mark.parametrize("sharding", ["replicated", "fsdp"])
def test_a_tensor_axis_gives_the_same_numbers(alone, sharding):
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    trainer = train("vit", devices=mesh, sharding=sharding)
    kernel = trainer.state.params["backbone"]["blocks_0"]["mlp"]["fc1"]["kernel"]
    assert kernel.addressable_shards[0].data.size == kernel.size // (2 if sharding[0] == "r" else 8)
    assert_same(trainer, alone("vit"))


@pytest.mark.parametrize(
    ("name", "fields", "path"),
    [
        (
            "swin_tiny_patch4_window7_224",
            {"width": 8, "heads": (2, 2), "layers": (1, 1), "window_size": 2, "patch_size": 2},
            "layers_0_blocks_0/attn/qkv",
        ),
        (
            "convnext_tiny",
            {"layers": (1, 1), "widths": (8, 16), "kernel_sizes": (3, 3)},
            "stages_0_blocks_0/mlp/fc1",
        ),
    ],
)
def test_wide_layers_of_other_families_are_known_by_name(name, fields, path):
    model = fz.models.get(name, num_classes=4, input_shape=(8, 8, 3), drop_path=0.0, **fields)
    mesh = jax.make_mesh((4, 2), ("data", "model"))
    batch, trained = (IMAGES[:16], LABELS[:16]), []
    for devices in (mesh, 1):
        state = fz.create_train_state(
            model, optimizer="sgd", learning_rate=0.1, rng=0, devices=devices
        )
        trained.append(fz.train_step(state, batch)[0])
    lies = by_path(trained[0].params)[f"backbone/{path}/kernel"].sharding.spec
    assert lies == jax.sharding.PartitionSpec(None, "model")
    wanted, got = (by_path(state.params) for state in reversed(trained))
    for leaf, value in wanted.items():
        np.testing.assert_allclose(got[leaf], value, atol=1e-5, err_msg=leaf)


@pytest.mark.parametrize("optimizer", ["adafactor", "lbfgs", "schedule_free_adamw", "lamb"])
def test_states_of_other_optimizers_lie_as_their_parameters(optimizer):
    x, y = IMAGES[:16].reshape(16, -1), LABELS[:16]
    model = fz.models.get("mlp", features=(32,), num_classes=4, input_shape=(192,))
    trained = []
    for devices in (1, 8):
        sharding = "replicated" if devices == 1 else "fsdp"
        state = fz.create_train_state(
            model, optimizer=optimizer, rng=0, devices=devices, sharding=sharding
        )
        lies = jax.tree.map(lambda leaf: leaf.sharding, state)
        for _ in range(2):
            state, _ = fz.train_step(state, (x, y))
        assert jax.tree.map(lambda leaf: leaf.sharding, state) == lies
        trained.append(state)
    wanted, got = (by_path(state.params) for state in trained)
    for path, leaf in wanted.items():
        np.testing.assert_allclose(got[path], leaf, atol=2e-4)


# --- all that a trainer does -----------------------------------------------------------------


def test_freezing_rates_unfreezing_accumulation_averages_and_groups_of_steps(tmp_path):
    def run(**options):
        schedule = {0: "backbone", 1: None}
        return train(
            "cnn",
            epochs=2,
            run_dir=tmp_path / str(len(options)),
            callbacks=[
                fz.callbacks.GradualUnfreezing(schedule),
                fz.callbacks.EarlyStopping("val_loss", patience=5, restore_best=True),
                fz.callbacks.TensorBoard(),
                fz.callbacks.ModelCheckpoint(),
                fz.callbacks.TerminateOnNaN(),
            ],
            freeze="backbone",
            learning_rate={"*": 0.01, "head": 0.05},
            ema_decay=0.9,
            clip_norm=1.0,
            accumulate_steps=2,
            steps_per_call=2,
            **options,
        )

    alone, several = run(), run(devices="all", sharding="fsdp")
    assert not several.state.frozen
    assert_same(several, alone)
    images = IMAGES[:21]
    np.testing.assert_allclose(several.predict(images), alone.predict(images), atol=1e-5)
    assert several.evaluate((images, LABELS[:21])) == pytest.approx(
        alone.evaluate((images, LABELS[:21])), rel=1e-5
    )


def test_models_features_and_probes_of_a_divided_state(tmp_path):
    trainer = train("cnn", epochs=1, devices="all", sharding="fsdp")
    model = trainer.model
    model.save(tmp_path / "model")
    plain = fz.Model.load(tmp_path / "model")
    images = IMAGES[:21]
    np.testing.assert_allclose(model(images), plain(images), atol=1e-5)
    np.testing.assert_allclose(trainer.predict(images), plain(images), atol=1e-5)
    data = (IMAGES, LABELS)
    ours, theirs = (fz.transfer.extract_features(m, data, batch_size=16) for m in (model, plain))
    np.testing.assert_allclose(*(np.asarray(f.inputs) for f in (ours, theirs)), atol=1e-5)
    ours, theirs = (fz.transfer.linear_probe(f, penalties=1.0) for f in (ours, theirs))
    np.testing.assert_allclose(ours.kernel, theirs.kernel, atol=1e-3)


def test_a_batch_that_the_devices_do_not_divide_is_filled_up(alone):
    several = train("cnn", batch_size=19, devices=8, epochs=1)
    assert_same(several, train("cnn", batch_size=19, epochs=1, devices=1))
    state = fz.create_train_state(cnn(), rng=0, devices=8)
    one = fz.create_train_state(cnn(), rng=0)
    batch = (IMAGES[:13], LABELS[:13])
    assert fz.predict_step(state, IMAGES[:3]).shape == (3, 4)
    (_, got), (_, wanted) = fz.train_step(state, batch), fz.train_step(one, batch)
    assert got.compute() == pytest.approx(wanted.compute(), rel=1e-5)
    stacked = IMAGES[:26].reshape(2, 13, 8, 8, 3), LABELS[:26].reshape(2, 13)
    (_, got), (_, wanted) = fz.train_steps(state, stacked), fz.train_steps(one, stacked)
    assert got.compute() == pytest.approx(wanted.compute(), rel=1e-5)


def test_a_run_goes_on_with_other_devices(tmp_path):
    """8 devices, then 4, then 1, as if they had been one all along."""
    whole = train("cnn", epochs=3, devices=1)
    train("cnn", epochs=1, devices=8, sharding="fsdp", run_dir=tmp_path).save(tmp_path)
    for devices, epochs in ((4, 2), (1, 3)):
        sharding = "fsdp" if devices > 1 else "replicated"
        trainer = fz.Trainer.load(tmp_path, devices=devices, sharding=sharding)
        kernel = trainer.state.params["backbone"]["conv_1"]["kernel"]
        assert len(kernel.devices()) == devices
        trainer.fit(
            (IMAGES, LABELS),
            epochs=epochs,
            batch_size=16,
            validation_data=(IMAGES[:21], LABELS[:21]),
            progress=False,
            resume=True,
        )
        trainer.save(tmp_path)
    # JAX before 0.9 adds up in another order: 1.7e-6 in one momentum.
    assert_same(trainer, whole, bound=1e-6 if jax.__version_info__ >= (0, 9) else 3e-6)


def test_copies_and_pickles_keep_their_places(tmp_path):
    import copy
    import pickle

    trainer = train("cnn", epochs=1, devices=jax.make_mesh((8,), ("data",)), sharding="fsdp")
    for other in (copy.deepcopy(trainer), pickle.loads(pickle.dumps(trainer))):
        assert jax.tree.map(lambda x: x.sharding, other.state.params) == jax.tree.map(
            lambda x: x.sharding, trainer.state.params
        )
        other.fit((IMAGES, LABELS), batch_size=16, progress=False)
    trainer.save(tmp_path)
    loaded = fz.Trainer.load(tmp_path)
    assert loaded.state.sharding == trainer.state.sharding


def test_a_run_opens_where_there_are_fewer_devices(tmp_path):
    def written_for(devices):
        path = tmp_path / "trainer.json"
        document = json.loads(path.read_text("utf-8"))
        document["settings"]["devices"] = devices
        document.pop("document_sha256", None)
        path.write_text(json.dumps(document), "utf-8")

    mesh = jax.make_mesh((4, 2), ("data", "model"))
    rules = {"*": "fsdp", "backbone/blocks_*/mlp/fc1/kernel": (None, "model")}
    trainer = train("vit", epochs=1, devices=mesh, sharding=rules)
    trainer.save(tmp_path)
    assert fz.Trainer.load(tmp_path).state.sharding == trainer.state.sharding
    written_for({"__kind__": "mesh", "axes": {"data": 16, "model": 2}})
    with pytest.warns(UserWarning, match="trained on 32 devices and goes on with 8"):
        loaded = fz.Trainer.load(tmp_path)
    assert dict(loaded.state.sharding.mesh.shape) == {"data": 8, "model": 1}
    assert loaded.step == 5
    written_for(64)
    with pytest.warns(UserWarning, match="trained on 64 devices and goes on with 8"):
        loaded = fz.Trainer.load(tmp_path, sharding="fsdp")
    assert loaded.state.sharding.shares == 8


def test_the_command_line_takes_devices(tmp_path, capsys):
    from flaxzoo.cli import main

    command = ["train", "mlp", "--data", "digits", "--set", "features=16", "--epochs", "1"]
    command += ["--run-dir", str(tmp_path), "--no-tensorboard"]
    assert main([*command, "--sharding", "fsdp"]) == 1
    assert "devices='all'" in capsys.readouterr().err
    assert main([*command, "--devices", "all", "--sharding", "fsdp"]) == 0
    state = fz.Trainer.load(tmp_path).state
    assert state.sharding.shares == 8
    assert not state.params["backbone"]["dense_0"]["kernel"].sharding.is_fully_replicated


def test_a_default_device_leaves_batches_divided(monkeypatch, alone):
    # As on accelerators, where a thread reads ahead.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with jax.default_device(jax.devices()[3]):
        trainer = train("cnn", devices="all")
    assert_same(trainer, alone("cnn"))


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"devices": 9}, "devices=9, but there are 8"),
        ({"devices": 0}, "devices must be None for one, 'all'"),
        ({"devices": "al"}, "devices must be None for one, 'all'"),
        ({"devices": 8, "sharding": "fdsp"}, "Did you mean 'fsdp'"),
        ({"devices": 8, "sharding": {"head": "fdsp"}}, "Did you mean 'fsdp'"),
        ({"devices": 8, "sharding": {"hed": "fsdp"}}, "matches no parameter. Did you mean 'head'"),
        ({"devices": 8, "sharding": {"head": 3}}, r"sharding\['head'\] must be"),
        ({"devices": 8, "sharding": {"head": ("model",)}}, "names the axis 'model'"),
        ({"devices": 8, "sharding": {"head/fc/kernel": ("data", "data")}}, "two dimensions"),
        ({"devices": 8, "sharding": {"head/fc/bias": (None, "data")}}, "names 2 dimensions"),
        ({"devices": 8, "sharding": {"head/fc/bias": ("data",)}}, "does not divide the 4"),
        ({"sharding": "fsdp"}, "devices is None"),
    ],
)
def test_what_makes_no_sense_is_refused(options, says):
    for make in (fz.create_train_state, lambda model, **kw: fz.Trainer(model, **kw).build()):
        with pytest.raises((ValueError, KeyError), match=says):
            make(cnn(), **options)


def test_meshes_of_other_axes_are_refused():
    with pytest.raises(fz.errors.ArgumentError, match="the axis 'data' of a mesh"):
        fz.Trainer(cnn(), devices=jax.make_mesh((8,), ("batch",)))
    with pytest.raises(fz.errors.ArgumentError, match="nothing is divided along the axis 'model'"):
        fz.create_train_state(cnn(), devices=jax.make_mesh((4, 2), ("data", "model")))


def test_batches_that_leave_devices_idle_are_refused():
    with pytest.raises(fz.errors.DataError, match="has 4 examples, fewer than the 8 devices"):
        train("cnn", batch_size=4, devices=8)
    state = fz.create_train_state(cnn(), devices=8)
    with pytest.raises(fz.errors.DataError, match="the batch has 1 example, fewer than the 8"):
        fz.train_step(state, (IMAGES[:1], LABELS[:1]))
    # To look at few examples is no mistake.
    assert fz.eval_step(state, (IMAGES[:1], LABELS[:1])).compute()["loss"] > 0


def test_batches_and_states_of_other_meshes_are_refused():
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    elsewhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    state = fz.create_train_state(cnn(), devices=8)
    batch = (IMAGES[:16], LABELS[:16])
    with pytest.raises(fz.errors.ShapeError, match=r"lies on 4 devices already, .*data: 8"):
        fz.train_step(state, jax.device_put(batch, elsewhere))
    columns = jax.sharding.NamedSharding(
        state.sharding.mesh, jax.sharding.PartitionSpec(None, "data")
    )
    with pytest.raises(fz.errors.ShapeError, match=r"PartitionSpec\(None, 'data'\)"):
        fz.train_step(state, (jax.device_put(batch[0], columns), batch[1]))
    moved = jax.device_put(state, elsewhere.update(spec=jax.sharding.PartitionSpec()))
    with pytest.raises(fz.errors.ArgumentError, match="the state is of another mesh"):
        fz.train_step(moved, batch)
    assert fz.train_step(state.sharding.placed(moved), batch)[0].step == 1


def test_those_who_come_from_pmap_are_told():
    state = fz.create_train_state(cnn())
    replicated = jax.tree.map(lambda x: jax.numpy.stack([x] * 8), state)
    batch = IMAGES[:16].reshape(8, 2, 8, 8, 3), LABELS[:16].reshape(8, 2)
    with pytest.raises(fz.errors.ShapeError, match=r"devices='all'.* whole batches \[B, \.\.\.\]"):
        fz.train_step(replicated, batch)
    with pytest.raises(TypeError, match=r"within jax.pmap .* devices='all'"):
        jax.pmap(fz.train_step)(replicated, batch)
    divided = fz.create_train_state(cnn(), devices=8)
    with pytest.raises(fz.errors.ShapeError, match=r"leading axis of devices"):
        fz.train_step(divided, batch)


def test_one_of_several_devices_is_told_once(monkeypatch):
    monkeypatch.setattr(sharding_rules, "_told", False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        train("cnn", epochs=1, devices=1)
        assert not told
        train("cnn", epochs=1)
        train("cnn", epochs=1)
    (warning,) = told
    assert "uses one of the 8 devices here" in str(warning.message)
    assert "devices='all'" in str(warning.message)


@pytest.mark.parametrize("private", [False, True])
def test_what_takes_no_further_examples_needs_batches_that_divide(private):
    def total(predictions, targets):
        """A loss over the batch as a whole."""
        return ((predictions - targets) ** 2).mean()

    model = fz.models.get("mlp", features=(8,), num_classes=1, input_shape=(192,))
    data = IMAGES.reshape(76, -1), LABELS[:, None].astype(np.float32)
    options = {"loss": total, "optimizer": "sgd", "learning_rate": 0.01}
    if private:
        noise = {"l2_norm_clip": 1.0, "noise_multiplier": 0.1}
        options |= {"loss": "mse", "optimizer": "dpsgd", **noise}
    trained = []
    for devices in (1, 8):
        trainer = fz.Trainer(model, devices=devices, **options)
        trainer.fit(tuple(x[:64] for x in data), batch_size=16, progress=False)
        trained.append(trainer)
    assert_same(trained[1], trained[0])
    with pytest.raises(fz.errors.ShapeError, match="12 examples cannot be divided among 8"):
        trained[1].fit(data, batch_size=16, shuffle=False, progress=False)
