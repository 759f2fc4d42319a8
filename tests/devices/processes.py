"""One of several processes on simulated devices: ``test_processes.py`` starts them.

    python processes.py INDEX COUNT DEVICES PORT DIRECTORY SCENARIO...

Each scenario is a function here; what it returns goes, as JSON, to a file
``DIRECTORY/SCENARIO.INDEX.json``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._trees import by_path
from flaxzoo.training import sharding_rules

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(76, 8, 8, 3)).astype(np.float32)
LABELS = RNG.integers(0, 4, 76)
DATA = IMAGES, LABELS
VALIDATION = IMAGES[:21], LABELS[:21]
EPOCHS = 4


def trainer(**options):
    shape = {"features": (8, 16), "batch_norm": True, "dropout": 0.2}
    model = fz.models.get("cnn", num_classes=4, input_shape=(8, 8, 3), **shape)
    options = {"devices": "all", "seed": 3, "augment": "horizontal_flip", **options}
    optimizer = {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.05}
    return fz.Trainer(model, metrics=["accuracy"], **optimizer, **options)


def fit(run, data=DATA, *, epochs=2, validation_data=VALIDATION, **options):
    options = {"batch_size": 16, "progress": False, **options}
    return run.fit(data, epochs=epochs, validation_data=validation_data, **options)


def arrays_of(run):
    """All numbers of a trained run that a process can see, by name."""
    trained = {f"params/{k}": np.asarray(x) for k, x in by_path(run.model.variables).items()}
    return {**trained, **{f"history/{k}": np.asarray(run.history[k]) for k in run.history}}


def keep(run, name):
    np.savez(DIRECTORY / f"{name}.{jax.process_index()}.npz", **arrays_of(run))


def refusal(call):
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


class Loader:
    """A process's own batches; it has a length, like torch's loaders."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self):
        return len(self.batches)


def shares(images, labels, index, count, size=8):
    """Unequal ones: of 76 examples in batches of 16, the last process lacks some of its own."""
    mine = [
        images[start + index * size : start + (index + 1) * size] for start in (0, 16, 32, 48, 64)
    ]
    known = [
        labels[start + index * size : start + (index + 1) * size] for start in (0, 16, 32, 48, 64)
    ]
    batches = [(x, y) for x, y in zip(mine, known, strict=True) if len(x)]
    return batches if index == 0 else batches[:-1]


def _torch_sampler(index, count):
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(IMAGES), torch.from_numpy(LABELS))
    sampler = torch.utils.data.DistributedSampler(data, count, index, shuffle=True, seed=1)
    return torch.utils.data.DataLoader(data, batch_size=8, sampler=sampler)


def _torch_subset(index, count):
    """The first process has 5 batches, the last of them short, and the second has 4."""
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.from_numpy(IMAGES), torch.from_numpy(LABELS))
    rows = range(39, 71) if index else range(39)
    return torch.utils.data.DataLoader(torch.utils.data.Subset(data, rows), batch_size=8)


def _tf_data(index, count):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(DATA).take(75).shard(count, index).batch(8)


def _grain_loader(index, count):
    grain = pytest.importorskip("grain")
    shard = grain.sharding.ShardOptions(shard_index=index, shard_count=count)
    sampler = grain.samplers.IndexSampler(
        75, shard_options=shard, shuffle=True, seed=1, num_epochs=1
    )
    pairs = list(zip(*DATA, strict=True))
    operations = [grain.transforms.Batch(8)]
    return grain.DataLoader(data_source=pairs, sampler=sampler, operations=operations)


def _grain_iterable(index, count):
    grain = pytest.importorskip("grain")
    pairs = grain.MapDataset.source(list(zip(*DATA, strict=True)))
    return pairs.shuffle(seed=2)[index:75:count].to_iter_dataset().batch(8)


# Of other packages, each with the share of one of several processes; shares may be unequal.
LOADERS = {
    "torch_sampler": _torch_sampler,
    "torch_subset": _torch_subset,
    "tf_data": _tf_data,
    "grain_loader": _grain_loader,
    "grain_iterable": _grain_iterable,
}
SHUFFLED = {"torch_sampler", "grain_loader"}


def set_epoch(loader, number):
    """What torch has its users do, and ``fit`` does."""
    sampler = getattr(loader, "sampler", None)
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(number)


class Together:
    """What the loaders of all processes give together, as one process would get it."""

    def __init__(self, loaders):
        self.loaders = loaders

    def set_epoch(self, number):
        for loader in self.loaders:
            set_epoch(loader, number)

    def __iter__(self):
        shares = [[tuple(map(np.asarray, batch)) for batch in own] for own in self.loaders]
        for number in range(max(map(len, shares))):
            whole = {"image": [], "label": [], "weight": []}
            for own in shares:
                x, y = own[number] if number < len(own) else own[0]
                filled = np.resize(np.arange(len(x)), 8)
                counts = np.arange(8) < len(x) if number < len(own) else np.zeros(8, bool)
                for name, values in zip(whole, (x[filled], y[filled], counts), strict=True):
                    whole[name].append(values)
            image, label, weight = map(np.concatenate, whole.values())
            yield {"image": image, "label": label, "weight": weight.astype(np.float32)}


class Stop(fz.callbacks.Callback):
    """Ends training after a step, in mid-epoch."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, trainer, step, metrics):
        if step == self.step:
            trainer.stop_training = True


# The callbacks of a run that ends in mid-epoch, and of the one that goes on with it.
INTERRUPTED = [Stop(7), fz.callbacks.ModelCheckpoint(every_steps=7)], []


class Signal(fz.callbacks.Callback):
    """Sends this process a signal after a step, if it is the last of them."""

    def __init__(self, step, number):
        self.step, self.number = step, number

    def on_step_end(self, trainer, step, metrics):
        if step == self.step and jax.process_index() == jax.process_count() - 1:
            os.kill(os.getpid(), self.number)


# --- scenarios ---------------------------------------------------------------------------------


def replicated():
    run = trainer()
    fit(run)
    keep(run, "replicated")
    return {"evaluate": run.evaluate(DATA), "predict": run.predict(IMAGES[:13]).tolist()}


def fsdp():
    run = trainer(sharding="fsdp")
    fit(run, callbacks=[fz.callbacks.TerminateOnNaN()])
    keep(run, "fsdp")
    held = sum(x.addressable_data(0).nbytes for x in jax.tree.leaves(run.state.params))
    return {"evaluate": run.evaluate(DATA), "bytes": held}


def features():
    """Of a trainer's model, and of one whose variables are divided among all devices."""
    run = trainer(sharding="fsdp")
    fit(run, epochs=1)
    divided = run.model.with_variables(run.state.variables)
    data, options = (IMAGES[:21], LABELS[:21]), {"batch_size": 8, "progress": False}
    answer = {"own": fz.transfer.extract_features(run.model, data, **options)}
    answer["divided"] = fz.transfer.extract_features(divided, data, **options)

    def broken():
        yield from ((data[0][i : i + 8], data[1][i : i + 8]) for i in (0, 8))
        raise RuntimeError("stopped")

    def whole():
        yield from ((data[0][i : i + 8], data[1][i : i + 8]) for i in (0, 8, 16))

    with pytest.raises(RuntimeError, match="stopped"):
        fz.transfer.extract_features(divided, broken, directory=DIRECTORY / "features", **options)
    answer["stored"] = fz.transfer.extract_features(
        divided, whole, directory=DIRECTORY / "features", **options
    )
    probe = fz.transfer.linear_probe(answer["own"], penalties=1.0)
    neighbours = fz.transfer.KNN(answer["own"], k=3)
    keep(run, "features")
    return {
        **{name: np.asarray(value.inputs).tolist() for name, value in answer.items()},
        "probe": probe.kernel.tolist(),
        "neighbours": neighbours.predict(answer["own"]).tolist(),
        "model": run.model.predict(IMAGES[:5]).probabilities.tolist(),
        "other_data": refusal(
            lambda: fz.transfer.extract_features(run.model, IMAGES[:8] + jax.process_index())
        ),
    }


def plan():
    return str(trainer(sharding="fsdp").plan(DATA, batch_size=16, compiled=True))


def steps_per_call():
    run = trainer(steps_per_call=2)
    fit(run)
    keep(run, "steps_per_call")


def folder():
    """Image files, of which each process opens its own."""
    opened = []
    load = fz.data.image_dataset.Decoder.__call__
    fz.data.image_dataset.Decoder.__call__ = lambda self, file: (
        opened.append(file) or load(self, file)
    )
    images = fz.data.ImageFolder(DIRECTORY / "images", size=(8, 8), batch_size=8, seed=1)
    run = trainer()
    # The state is made from a whole first batch.
    forget = fz.callbacks.LambdaCallback(on_epoch_begin=lambda t, epoch: opened.clear())
    run.fit(images, epochs=1, progress=False, callbacks=[forget])
    keep(run, "folder")
    return {"opened": len(opened)}


def unequal_shares():
    index, count = jax.process_index(), jax.process_count()
    run = trainer()
    steps = []
    seen = fz.callbacks.LambdaCallback(on_step_end=lambda t, step, m: steps.append(step))
    batches = shares(*DATA, index, count)
    fit(run, Loader(batches), validation_data=lambda: iter(batches), callbacks=[seen])
    return {"history": {k: list(run.history[k]) for k in run.history}, "steps": steps}


def loaders():
    """Those of other packages that are installed, in one go and interrupted in mid-epoch."""
    used = []
    for name, make in LOADERS.items():
        try:
            data = make(jax.process_index(), jax.process_count())
        except pytest.skip.Exception:
            continue
        run = trainer()
        fit(run, data, validation_data=None)
        keep(run, name)
        used.append(name)
        if name not in SHUFFLED:
            continue
        for callbacks in INTERRUPTED:
            run = trainer(run_dir=DIRECTORY / f"{name}_run")
            fit(run, data, validation_data=None, callbacks=callbacks, resume=True)
        keep(run, f"{name}_resumed")
    return used


def vit(**options):
    shape = {"patch_size": 4, "width": 16, "depth": 2, "heads": 2, "drop_path": 0.1}
    model = fz.models.get("vit_tiny_patch16_224", num_classes=4, input_shape=(8, 8, 3), **shape)
    optimizer = {"optimizer": "sgd", "momentum": 0.9, "learning_rate": 0.05}
    return fz.Trainer(model, seed=3, augment="random_crop", **optimizer, **options)


MESHES = {
    "model_4": lambda devices: devices.reshape(1, 4),
    "data_2_model_2": lambda devices: devices.reshape(2, 2),
    # The model's axis goes from process to process, the data's does not.
    "model_2_across": lambda devices: devices.reshape(2, 2).T,
}


def tensor_axis():
    """Wide layers that are divided among the devices of several processes."""
    answer = {}
    for name, grid in MESHES.items():
        mesh = jax.sharding.Mesh(grid(np.array(jax.devices())), ("data", "model"))
        sharding = "fsdp" if name == "model_2_across" else "replicated"
        run = vit(devices=mesh, sharding=sharding)
        fit(run)
        keep(run, name)
        kernel = run.state.params["backbone"]["blocks_0"]["mlp"]["fc1"]["kernel"]
        answer[name] = kernel.size // kernel.addressable_data(0).size
    for callbacks in INTERRUPTED:
        run = vit(devices=mesh, sharding=sharding, run_dir=DIRECTORY / f"{name}_run")
        fit(run, callbacks=callbacks, resume=True)
    keep(run, f"{name}_resumed")
    return answer


def failing_share():
    def batches():
        yield IMAGES[:8], LABELS[:8]
        if jax.process_index():
            raise OSError("the disk is gone")
        yield IMAGES[:8], LABELS[:8]

    return refusal(lambda: fit(trainer(), batches, validation_data=None))


def only_main_writes():
    directory = DIRECTORY / "written"
    run = trainer(run_dir=directory, sharding="fsdp")
    board = fz.callbacks.TensorBoard(histogram_every=1, sample=IMAGES[:2], every_steps=2)
    callbacks = [fz.callbacks.CSVLogger(), fz.callbacks.ModelCheckpoint(), board]
    fit(run, epochs=1, callbacks=callbacks, progress=True)
    return {"main": fz.distributed.is_main(), "step": run.step}


def mismatches():
    index = jax.process_index()
    from flaxzoo.training import agreement, shared_paths

    said = {"batch_size": refusal(lambda: fit(trainer(), batch_size=16 - 8 * index))}
    said["seed"] = refusal(lambda: fit(trainer(seed=index)))
    said["data"] = refusal(lambda: fit(trainer(), (IMAGES + index, LABELS)))
    said["devices"] = refusal(lambda: fit(trainer(devices=None)))
    said["steps"] = refusal(lambda: fit(trainer(), steps_per_epoch=2 + index))
    said["idle"] = refusal(lambda: trainer(devices=2))
    source = agreement._source
    agreement._source = lambda: f"code{index}"
    said["code"] = refusal(lambda: fit(trainer()))
    agreement._source = source
    run = trainer()
    run.build()
    shift = jax.jit(lambda x: x + index)
    run.state = run.state.replace(params=jax.tree.map(shift, run.state.params))
    said["parameters"] = refusal(lambda: fit(run))
    shared_paths._UNTIL_SEEN = 1.0
    own = DIRECTORY / f"own{index}"
    said["path"] = refusal(lambda: fit(trainer(run_dir=own)))
    said["again"] = refusal(lambda: fz.distributed.initialize())
    return said


def resume(directory, epochs=EPOCHS, *, callbacks=(), **options):
    """Goes on with a run, or begins it, and saves it as it goes."""
    run = trainer(run_dir=directory, **options)
    saves = fz.callbacks.ModelCheckpoint(every_steps=3)
    fit(run, epochs=epochs, callbacks=[saves, *callbacks], resume=True)
    return run


def _run(name, **options):
    keep(resume(DIRECTORY / name, sharding="fsdp", **options), name)


def uninterrupted():
    _run("uninterrupted")


def terminated():
    _run("run", callbacks=[Signal(7, signal.SIGTERM)])


def killed():
    _run("run", callbacks=[Signal(13, signal.SIGKILL)])


def resumed():
    _run("run")


def resumed_elsewhere():
    _run("elsewhere")


def slowly():
    """A run that somebody else kills, who is told that it has begun."""

    def say(trainer, step, metrics):
        (DIRECTORY / f"began.{jax.process_index()}").touch()
        time.sleep(0.2)

    _run("run", callbacks=[fz.callbacks.LambdaCallback(on_step_end=say)])


if __name__ == "__main__":
    INDEX, COUNT, DEVICES = map(int, sys.argv[1:4])
    DIRECTORY = Path(sys.argv[5])
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES)
    sharding_rules.MIN_SIZE = 64
    fz.distributed._HEARTBEAT = fz.distributed._SHUTDOWN = int(os.environ.get("HEARTBEAT", 30))
    fz.distributed.initialize(f"127.0.0.1:{sys.argv[4]}", COUNT, INDEX, timeout=120)
    for name in sys.argv[6:]:
        answer = globals()[name]()
        (DIRECTORY / f"{name}.{INDEX}.json").write_text(json.dumps(answer))
