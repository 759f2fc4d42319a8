import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._files import sole_writer
from flaxzoo.errors import DataError, ShapeError, UninitializedError
from flaxzoo.models import Classifier, Head
from flaxzoo.models.heads import Identity
from flaxzoo.transfer import Features, extract_features
from flaxzoo.transfer import _feature_files as files

SIZE, BATCH = 100, 32


class Backbone(nn.Module):
    """What must be off in a frozen backbone: statistics of the batch, and Dropout."""

    width: int = 6
    rate: float = 0.5

    @nn.compact
    def __call__(self, x, *, train=False):
        x = nn.Conv(self.width, (3, 3), strides=2, name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, name="norm")(x)
        return nn.Dropout(self.rate)(nn.relu(x), deterministic=not train)


class Two(nn.Module):
    """Several outputs, of several shapes and dtypes."""

    @nn.compact
    def __call__(self, x):
        return {"map": x[:, ::2], "pair": (x.sum((1, 2)), x.mean((1, 2, 3)).astype(jnp.bfloat16))}


def with_statistics(model, seed=0):
    """Running statistics unlike those of any batch."""
    rng = np.random.default_rng(seed)
    stats = jax.tree.map_with_path(
        lambda path, x: jnp.asarray(
            rng.uniform(0.5, 1.5, x.shape)
            if path[-1].key == "var"
            else rng.normal(0, 0.2, x.shape),
            x.dtype,
        ),
        model.variables["batch_stats"]["backbone"],
    )
    batch_stats = {**model.variables["batch_stats"], "backbone": stats}
    return model.with_variables({**model.variables, "batch_stats": batch_stats})


@pytest.fixture(scope="module")
def data():
    (images, labels), _ = fz.data.load_digits()
    return images[:SIZE], labels[:SIZE]


@pytest.fixture(scope="module")
def model(data):
    head = Head(10, hidden=(8,), batch_norm=True, dropout=0.3)
    return with_statistics(fz.Model(Classifier(Backbone(), head)).init(0, data[0][:2]))


@pytest.fixture(scope="module")
def expected(model, data):
    return np.concatenate([model.features(data[0][i : i + 50]) for i in (0, 50)])


def contents(directory):
    return {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def extract(model, data, directory=None, **options):
    options = {"batch_size": BATCH, "progress": False, **options}
    return extract_features(model, data, directory=directory, **options)


def batches(data, size=BATCH):
    return [(data[0][i : i + size], data[1][i : i + size]) for i in range(0, len(data[0]), size)]


class Epochs:
    """A data set that knows its epochs."""

    def __init__(self, data):
        self.data, self.num_examples, self.batch_size = data, len(data[0]), BATCH

    def __len__(self):
        return len(batches(self.data))

    def epoch(self, epoch, *, start_batch=0):
        return iter({"image": x, "label": y} for x, y in batches(self.data)[start_batch:])


FORMS = {
    "arrays": lambda data: data,
    "mapping": lambda data: {"image": data[0], "label": data[1]},
    "shuffled ArrayDataset": lambda data: fz.data.ArrayDataset(data, BATCH, drop_last=True),
    "list": batches,
    "function": lambda data: lambda: iter(batches(data)),
    "iterator": lambda data: iter(batches(data)),
    "epochs": Epochs,
    "features": lambda data: Features(*data),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("on_disk", [False, True])
def test_data_in_its_own_order(model, data, expected, tmp_path, form, on_disk):
    features = extract(model, FORMS[form](data), tmp_path / "cache" if on_disk else None)
    np.testing.assert_allclose(features.inputs, expected, atol=1e-6)
    np.testing.assert_array_equal(features.targets, data[1])
    assert features.targets.dtype == data[1].dtype
    assert features.weights is None
    assert len(features) == SIZE
    assert isinstance(features.inputs, np.memmap) == on_disk
    assert [type(leaf) for leaf in features.arrays] == [type(features.inputs)] * 2
    train, test = fz.data.train_test_split(features.arrays, 20)
    assert len(train[0]) == 80
    assert len(test[1]) == 20


def test_repr(model, data, tmp_path):
    assert repr(extract(model, data[0])) == "Features(100 examples, inputs float32[4, 4, 6])"
    stored = extract(model, data, tmp_path, pooling="auto", dtype="float16")
    assert repr(stored) == (
        f"Features(100 examples, inputs float16[6], targets int32[], in {tmp_path})"
    )


def test_pooling_is_the_heads(model, data, expected):
    features = extract(model, data, pooling="avg")
    np.testing.assert_allclose(features.inputs, expected.mean((1, 2)), atol=1e-6)
    assert features.inputs.shape == (SIZE, 6)


class Tokens(nn.Module):
    """A transformer's output: a class token before those of the patches."""

    own: str = "token"

    def __call__(self, x):
        patches = x.reshape(len(x), -1, 4)
        return jnp.concatenate([10 + patches[:, :1], patches], 1)

    def pooling_options(self):
        return {"pooling": self.own, "prefix_tokens": 1}


def test_tokens_are_pooled_as_their_backbone_does(data):
    images, labels = data
    tokens = np.asarray(Tokens().apply({}, images))
    wanted = {"token": tokens[:, 0], "avg": tokens[:, 1:].mean(1), "attention": tokens}
    for own, features in wanted.items():
        model = fz.Model(Classifier(Tokens(own), Head(10)), {"params": {}})
        pooled = extract(model, data, pooling="auto").inputs
        np.testing.assert_allclose(pooled, features, atol=1e-6)
        np.testing.assert_allclose(extract(model, data, pooling="avg").inputs, wanted["avg"])
    with pytest.raises(ShapeError, match=r'shape \[100, 17, 4\].*pooling="auto"'):
        fz.transfer.linear_probe(tokens, labels)


@pytest.mark.parametrize("on_disk", [False, True])
def test_trees_and_small_floats(data, tmp_path, on_disk):
    model = fz.Model(Two(), {"params": {}})
    targets = {"digit": data[1], "name": np.asarray(["even", "odd"])[data[1] % 2]}
    features = extract(model, (data[0], targets), tmp_path if on_disk else None)
    made = model(data[0])
    assert jax.tree.structure(features.inputs) == jax.tree.structure(made)
    for got, wanted in zip(jax.tree.leaves(features.inputs), jax.tree.leaves(made), strict=True):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(np.asarray(got), np.asarray(wanted))
    np.testing.assert_array_equal(features.targets["name"], targets["name"])
    if on_disk:
        assert {"inputs.map.npy", "inputs.pair.1.npy", "targets.name.npy"} < set(
            os.listdir(tmp_path)
        )


@pytest.mark.parametrize("on_disk", [False, True])
def test_examples_of_weight_0_are_left_out(model, data, expected, tmp_path, on_disk):
    weights = np.ones(SIZE, np.float32)
    weights[[3, 40, 99]] = 0
    directory = tmp_path / "ones" if on_disk else None
    features = extract(model, (*data, weights), directory)
    np.testing.assert_allclose(features.inputs, expected[weights > 0], atol=1e-6)
    assert features.weights is None
    weights[7] = 2.5
    features = extract(model, (*data, weights), tmp_path / "other" if on_disk else None)
    np.testing.assert_array_equal(features.weights, weights[weights > 0])
    np.testing.assert_array_equal(features.arrays[1], data[1][weights > 0])
    with pytest.raises(DataError, match="no example of the data has a weight above 0"):
        extract(model, (*data, 0 * weights), tmp_path / "none" if on_disk else None)


class StopError(Exception):
    pass


class Failing:
    """Data that fails at a batch, once it is told to."""

    def __init__(self, data, sized=True):
        self.batches, self.at, self.read = batches(data), None, 0
        if sized:
            self.num_examples, self.batch_size = len(data[0]), BATCH

    def __len__(self):
        return len(self.batches)

    def epoch(self, epoch, *, start_batch=0):
        for i in range(start_batch, len(self.batches)):
            if i == self.at:
                raise StopError
            self.read += 1
            yield self.batches[i]

    def __iter__(self):
        return self.epoch(0)


@pytest.mark.parametrize("sized", [True, False])
@pytest.mark.parametrize("at", [1, 3])
def test_goes_on_where_it_stopped(model, data, tmp_path, sized, at):
    whole = extract(model, Failing(data, sized), tmp_path / "whole")
    source = Failing(data, sized)
    source.at = at
    with pytest.raises(StopError):
        extract(model, source, tmp_path / "cut")
    # The batch before is still in the works when the source fails.
    done = at - 1
    with pytest.raises(DataError, match=rf"not complete, {done} of 4 batches \({done * BATCH} ex"):
        Features.load(tmp_path / "cut")
    # As a killed process may leave it: half a batch beyond what the manifest counts.
    with open(tmp_path / "cut" / "inputs.npy", "ab") as file:
        file.write(b"half a row")
    source.at, source.read = None, 0
    resumed = extract(model, source, tmp_path / "cut")
    if sized:
        assert source.read == 1 + 4 - done
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    np.testing.assert_array_equal(resumed.inputs, whole.inputs)
    source.read = 0
    extract(model, source, tmp_path / "cut")
    # What is complete is opened; of the data the start alone is looked at.
    assert source.read <= 2


def test_unknown_length(model, data, tmp_path):
    calls = []

    def source():
        calls.append(None)
        for i, batch in enumerate(batches(data)):
            if len(calls) == 2 and i == 2:
                raise StopError
            yield batch

    # Of this function's calls the first is for the first batch, the second is the pass.
    with pytest.raises(StopError):
        extract(model, source, tmp_path)
    with pytest.raises(DataError, match=r"1 batches \(32 examples\) done"):
        Features.load(tmp_path)
    np.testing.assert_array_equal(extract(model, source, tmp_path).targets, data[1])
    assert json.loads((tmp_path / "features.json").read_text())["total_batches"] == 4


SCRIPT = """
import sys, time
import numpy as np
import flax.linen as nn
import flaxzoo as fz
from flaxzoo.transfer import _feature_files
from flaxzoo.transfer.features import extract_features

class Plain(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="dense")(x)

def source():
    rng = np.random.default_rng(0)
    for i in range(12):
        time.sleep(float(sys.argv[2]) * (i > 0))
        yield rng.normal(size=(8, 5)).astype(np.float32), np.arange(8)

_feature_files._COMMIT_SECONDS = 0
kernel = np.linspace(-1, 1, 15, dtype=np.float32).reshape(5, 3)
model = fz.Model(Plain(), {"params": {"dense": {"kernel": kernel, "bias": np.ones(3)}}})
print("starts", flush=True)
features = extract_features(model, source, directory=sys.argv[1], progress=False)
print(len(features), np.asarray(features.inputs).sum(), flush=True)
"""


def start(directory, seconds):
    command = [sys.executable, "-c", SCRIPT, str(directory), str(seconds)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
    )


def wait_for_batches(directory, count):
    for _ in range(600):
        time.sleep(0.05)
        if (directory / "features.json").exists():
            done = json.loads((directory / "features.json").read_text())["batches"]
            if done >= count:
                return done
    raise TimeoutError("the extraction does not get on")


@pytest.mark.slow
def test_killed_processes_go_on(tmp_path):
    killed = start(tmp_path / "killed", 0.2)
    done = wait_for_batches(tmp_path / "killed", 2)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    with pytest.raises(DataError, match="not complete"):
        Features.load(tmp_path / "killed")

    stopped = start(tmp_path / "killed", 0.2)
    wait_for_batches(tmp_path / "killed", done + 2)
    stopped.send_signal(signal.SIGTERM)
    output = stopped.communicate()[0]
    assert stopped.returncode == 128 + signal.SIGTERM
    assert "Stopped by SIGTERM" in output
    assert "with the same arguments goes on" in output

    ends, whole = start(tmp_path / "killed", 0), start(tmp_path / "whole", 0)
    outputs = [process.communicate()[0] for process in (ends, whole)]
    assert outputs[0] == outputs[1]
    assert "\n96 " in outputs[0]
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_one_writer_at_a_time(model, data, tmp_path):
    with (
        sole_writer(tmp_path, "features"),
        pytest.raises(DataError, match="another process is writing features to"),
    ):
        extract(model, data, tmp_path)
    assert len(extract(model, data, tmp_path)) == SIZE


def test_ctrl_c(model, data, tmp_path, capsys):
    def source():
        for i, batch in enumerate(batches(data)):
            if i == 2 and not done:
                done.append(i)
                os.kill(os.getpid(), signal.SIGINT)
            yield batch

    done = []
    with pytest.raises(KeyboardInterrupt):
        extract(model, source, tmp_path / "cut")
    printed = capsys.readouterr().out
    assert f"Stopped by SIGINT. 2 batches (64 examples) are in {tmp_path / 'cut'}; ext" in printed
    extract(model, source, tmp_path / "cut")
    extract(model, source, tmp_path / "whole")
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


@pytest.fixture(scope="module")
def stored(model, data, tmp_path_factory):
    directory = tmp_path_factory.mktemp("stored")
    extract(model, data, directory)
    return directory


def test_other_features_are_refused(model, data, stored):
    images, labels = data
    before = contents(stored)

    def refused(match, *, model=model, data=data, **options):
        with pytest.raises(DataError, match=match) as error:
            extract(model, data, stored, **options)
        assert "resume=False" in str(error.value)
        return str(error.value)

    refused("differs: the model's variables. Use", model=with_statistics(model, 1))
    other = Classifier(Backbone(rate=0.4), Identity())
    refused("the model's architecture", model=fz.Model(other, model.variables))
    message = refused(
        r"batch size \(32 there, 16 now\)", batch_size=16, data=(images[:90], labels[:90])
    )
    assert "number of examples (100 there, 90 now)" in message
    assert "first batch" not in message
    refused("differs: the data. Use", data=(images[::-1], labels))
    message = refused(r"kind of data \(arrays there, stream now\)", data=batches(data))
    assert "first batch" not in message
    refused(r"targets \(int32\[\] there, int64\[\] now\)", data=(images, labels.astype(np.int64)))
    refused("pooling", pooling="max")
    refused(r"dtype \(None there, float16 now\)", dtype="float16")
    refused("steps", steps=2)
    assert contents(stored) == before


@pytest.mark.parametrize("form", ["arrays", "mapping", "shuffled ArrayDataset", "features"])
@pytest.mark.parametrize("changed", [0, 1])
def test_every_value_of_arrays_counts(model, data, tmp_path, form, changed):
    source = [np.array(array) for array in data]
    extract(model, FORMS[form](tuple(source)), tmp_path)
    extract(model, FORMS[form](tuple(source)), tmp_path)
    source[changed][-1] += 1
    with pytest.raises(DataError, match=r"differs: the data\. Use"):
        extract(model, FORMS[form](tuple(source)), tmp_path)


def test_of_streams_the_first_batch_counts(model, data, tmp_path):
    extract(model, batches(data), tmp_path)
    extract(model, lambda: iter(batches(data)), tmp_path)
    with pytest.raises(DataError, match="differs: the first batch of the data"):
        extract(model, batches((data[0][::-1], data[1])), tmp_path)


def test_digests_are_of_values_and_not_of_memory(monkeypatch, tmp_path):
    from flaxzoo.transfer import _fingerprints as fingerprints

    array = np.random.default_rng(0).normal(size=(10, 3, 2))
    whole = fingerprints.digest({"a": array, "b": np.float32(1)})
    monkeypatch.setattr(fingerprints, "_PART_BYTES", 100)
    np.save(tmp_path / "a.npy", np.asfortranarray(array))
    for same in (array, np.asfortranarray(array), np.load(tmp_path / "a.npy", mmap_mode="r")):
        assert fingerprints.digest({"a": same, "b": np.float32(1)}) == whole
    assert fingerprints.digest({"a": array[::-1], "b": np.float32(1)}) != whole
    assert fingerprints.digest(np.zeros((0, 3))) != fingerprints.digest(np.zeros((3, 0)))


def test_numbers_of_numpy_are_written_as_json(model, data, tmp_path):
    source = Epochs(data)
    source.num_examples = np.int64(SIZE)
    extract(model, source, tmp_path / "a")
    assert len(extract(model, data, tmp_path / "b", steps=np.int64(2))) == 2 * BATCH
    found = [
        json.loads((tmp_path / name / "features.json").read_text())["fingerprint"] for name in "ab"
    ]
    assert [f["number_of_examples"] for f in found] == [SIZE, SIZE]
    assert found[1]["steps"] == 2


def test_resume_false_replaces(model, data, tmp_path):
    old = extract(model, (data[0], {"a": data[1]}), tmp_path)
    before = np.array(old.inputs)
    new = extract(model, data, tmp_path, resume=False, pooling="avg")
    assert new.inputs.shape == (SIZE, 6)
    assert sorted(os.listdir(tmp_path)) == [
        "features.json",
        "inputs.npy",
        "targets.npy",
        "weights.npy",
    ]
    # Whoever has mapped the old files keeps them.
    np.testing.assert_array_equal(old.inputs, before)


def flip(directory):
    with (directory / "inputs.npy").open("rb+") as file:
        file.seek(-100, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def edit(**changes):
    def change(directory):
        path = directory / "features.json"
        document = json.loads(path.read_text()) | changes
        document.pop("document_sha256")
        path.write_text(json.dumps(document))

    return change


def test_damage_is_told(model, data, stored, tmp_path):
    with pytest.raises(DataError, match=r"features\.json: no such file"):
        Features.load(tmp_path / "nowhere")

    def damaged(name, change):
        directory = tmp_path / name
        directory.mkdir()
        for file, content in contents(stored).items():
            (directory / file).write_bytes(content)
        change(directory)
        return directory

    def truncate(directory):
        os.truncate(directory / "inputs.npy", 1000)

    def partial(directory):
        truncate(directory)
        edit(complete=False, batches=3, examples=96)(directory)

    cases = {
        "short": (truncate, r"inputs\.npy: not readable"),
        "flipped": (flip, r"inputs\.npy: damaged: the SHA-256 of its rows"),
        "missing": (lambda d: (d / "targets.npy").unlink(), r"targets\.npy: not readable"),
        "text": (lambda d: (d / "features.json").write_text("{"), "not readable as JSON"),
        "foreign": (edit(format="x"), "holds no features of flaxzoo"),
        "later": (edit(format_version=2), "in a later format"),
        "fields": (edit(columns=[{}]), r"not understood \(KeyError"),
        "count": (edit(examples=-1), "a count is negative"),
        "numbers": (edit(examples=99), r"holds float32\[100, 4, 4, 6\], the manifest says"),
        "path": (
            edit(columns=[{"file": "../x.npy", "dtype": "float32", "shape": []}] * 3),
            "none of ours",
        ),
    }
    for name, (change, match) in cases.items():
        directory = damaged(name, change)
        with pytest.raises(DataError, match=match):
            Features.load(directory)
        np.testing.assert_array_equal(
            extract(model, data, directory, resume=False).targets, data[1]
        )
    with pytest.raises(DataError, match="fewer rows than"):
        extract(model, data, damaged("partial", partial))


def test_damage_of_a_part_is_told_and_older_manifests_load(model, data, stored, tmp_path):
    for file, content in contents(stored).items():
        (tmp_path / file).write_bytes(content)
    edit(digests=None)(tmp_path)
    assert len(Features.load(tmp_path)) == len(data[1])
    (tmp_path / "features.json").write_bytes(contents(stored)["features.json"])
    edit(complete=False, batches=4)(tmp_path)
    flip(tmp_path)
    with pytest.raises(DataError, match=r"inputs\.npy: damaged: the SHA-256 of its rows"):
        extract(model, data, tmp_path)


def test_directories_that_cannot_be_written(model, data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write to .*file/deep"):
        extract(model, data, tmp_path / "file" / "deep")
    np.save(tmp_path / "targets.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"holds targets\.npy, but no features\.json"):
        extract(model, data, tmp_path)
    assert np.load(tmp_path / "targets.npy").shape == (3,)


def test_full_disks(model, data, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_COMMIT_SECONDS", 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Two batches of features fit into a file of this size.
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        with pytest.raises(DataError, match=r"cannot write features to .*2 of 4 batches"):
            extract(model, data, tmp_path / "full")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    with pytest.raises(DataError, match="not complete, 2 of 4 batches"):
        Features.load(tmp_path / "full")
    extract(model, data, tmp_path / "full")
    extract(model, data, tmp_path / "whole")
    assert contents(tmp_path / "full") == contents(tmp_path / "whole")


def test_errors(model, data):
    images, labels = data
    with pytest.raises(TypeError, match=r"must be a flaxzoo\.Model, got Backbone"):
        extract(Backbone(), data)
    with pytest.raises(UninitializedError, match="no variables yet"):
        extract(fz.Model(Backbone()), data)
    with pytest.raises(DataError, match="inputs holds nan"):
        extract(model, np.full_like(images, np.nan))
    with pytest.raises(ShapeError, match="conv takes 1 channels, got 3"):
        extract(model, np.zeros((4, 8, 8, 3), np.float32))
    with pytest.raises(DataError, match="dtype must be a floating type, got int8"):
        extract(model, data, dtype="int8")
    with pytest.raises(ValueError, match="pooling"):
        extract(model, data, pooling="mean")
    other = [(images[:4], labels[:4]), (images[4:8, :6], labels[4:8])]
    with pytest.raises(DataError, match="batch 1 is unlike the first"):
        extract(model, other)
    with pytest.raises(DataError, match="batch 1 is unlike the first"):
        extract(model, [{"image": images[:4], "label": labels[:4]}, {"image": images[4:8]}])
    with pytest.raises(DataError, match="data is empty"):
        extract(model, [])
    with pytest.raises(DataError, match="the features of batch 0 holds inf"):
        extract(fz.Model(Infinite(), {"params": {}}), images[:4])
    with pytest.raises(ShapeError, match="their first axis must be the examples"):
        extract(fz.Model(Total(), {"params": {}}), images[:4])
    with pytest.raises(DataError, match="keys that are not text"):
        extract(fz.Model(Identity(), {"params": {}}), (images, {0: labels}))


class Infinite(nn.Module):
    def __call__(self, x):
        return jnp.exp(x + 1000)


class Total(nn.Module):
    def __call__(self, x):
        return x.sum()


def test_named_tuples_become_tuples(data):
    pair = namedtuple("Pair", "a b")
    features = extract(fz.Model(Identity(), {"params": {}}), (data[0], pair(data[1], data[1])))
    assert type(features.targets) is tuple


def head_of(model):
    parts = {
        name: {"head": tree["head"]} for name, tree in model.variables.items() if "head" in tree
    }
    return fz.Model(Classifier(Identity(), model.module.head), parts)


@pytest.fixture(scope="module")
def resnet(data):
    backbone = fz.models.get("resnet18").module.backbone.clone(
        layers=(1, 1), widths=(4, 8), drop_path=0.2
    )
    images = np.repeat(np.repeat(data[0], 3, 1), 3, 2).repeat(3, 3)
    head = Head(10, hidden=(8,), batch_norm=True, dropout=0.3)
    return with_statistics(fz.Model(Classifier(backbone, head)).init(0, images[:2])), images


def test_slices(resnet, data):
    model, images = resnet
    trunk, rest = (
        fz.transfer.slice_model(model, stop="layer2"),
        fz.transfer.slice_model(model, start="layer2"),
    )
    features = extract(trunk, (images, data[1]))
    assert features.inputs.shape == (SIZE, 6, 6, 4)
    np.testing.assert_allclose(rest(features.inputs), model(images), atol=1e-5)
    head = fz.transfer.slice_model(model, start="head")
    assert head.variables.keys() == head_of(model).variables.keys()
    logits = head(extract(model, images).inputs)
    np.testing.assert_allclose(logits, model(images), atol=1e-5)


@pytest.fixture(scope="module")
def networks(model, resnet, data):
    return {"cnn": (model, *data), "resnet": (*resnet, data[1])}


OPTIONS = {"optimizer": "sgd", "learning_rate": 1e-2, "weight_decay": 0.1}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cnn", "resnet"])
def test_training_on_features_is_training_through_the_frozen_network(
    networks, tmp_path, assert_trees_equal, kind
):
    model, images, labels = networks[kind]
    # Operation by operation the two are the same on every machine. Compiled, the end of the
    # backbone may be fused with the head's pooling, and rounded otherwise: see below.
    with jax.disable_jit():
        features = extract(model, (images[:20], labels[:20]), tmp_path, batch_size=8)
        through = fz.create_train_state(model, freeze="backbone", rng=3, **OPTIONS)
        head = fz.create_train_state(head_of(model), rng=3, **OPTIONS)
        both = fz.data.ArrayDataset((images[:20], features.arrays), 8)
        for x, (inputs, targets) in both:
            # The last batch is short, so that it is filled up, as Trainer does it.
            (x, inputs, targets), weights = jax.tree.map(
                jnp.asarray, fz.data.pad_batch((x, inputs, targets), 8)
            )
            through, metrics = fz.train_step(through, (x, targets, weights))
            head, head_metrics = fz.train_step(head, (inputs, targets, weights))
            assert metrics.compute() == head_metrics.compute()
    joined = {
        name: {**tree, **head.variables.get(name, {})} for name, tree in model.variables.items()
    }
    assert_trees_equal(through.variables, joined)
    # The head has moved, and its statistics as well.
    for name, group in (("params", "fc"), ("batch_stats", "norm_0")):
        before, after = (tree[name]["head"][group] for tree in (model.variables, joined))
        for leaf in before:
            assert not np.array_equal(before[leaf], after[leaf])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cnn", "resnet"])
def test_compiled_training_on_features_differs_by_rounding(networks, tmp_path, kind):
    model, images, labels = networks[kind]
    # Adam would make a step out of the rounding of a gradient that is 0, as that of a bias
    # before a BatchNorm.
    options = {"optimizer": "sgd", "learning_rate": 1e-2, "seed": 3}
    fit = {"epochs": 2, "batch_size": BATCH, "progress": False}
    through = fz.Trainer(model, freeze="backbone", **options)
    losses = through.fit((images, labels), **fit)["loss"]
    features = extract(model, (images, labels), tmp_path)
    head = fz.Trainer(head_of(model), **options)
    np.testing.assert_allclose(head.fit(features, **fit)["loss"], losses, rtol=1e-6)
    for name, tree in head.model.variables.items():
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
            tree["head"],
            through.model.variables[name]["head"],
        )


def test_a_few_examples_are_one_batch():
    model = fz.models.get("mlp", input_shape=(3,), features=(4,), num_classes=2).init(0)
    examples = [(np.full(3, i, np.float32), i % 2) for i in range(4)]
    found = extract_features(model, examples, progress=False)
    assert len(found) == 4
    np.testing.assert_array_equal(found.targets, [0, 1, 0, 1])
