from __future__ import annotations

import inspect
import os
import pickle
import warnings

import jax
import numpy as np
import pytest
from PIL import Image

import flaxzoo as fz
from flaxzoo.data.image_dataset import ImageDataset, ImageSettings
from flaxzoo.data.image_folder import ImageCSV, ImageFolder
from flaxzoo.errors import ArgumentError, DataError, ShapeError

COUNTS = {"cat": 7, "dog": 12, "owl": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """23 small pictures; the red level tells the class."""
    root = tmp_path_factory.mktemp("pets")
    rng = np.random.default_rng(0)
    for label, (name, count) in enumerate(COUNTS.items()):
        (root / name).mkdir()
        for index in range(count):
            pixels = rng.integers(0, 60, (14, 18, 3), np.uint8)
            pixels[..., 0] += np.uint8(90 * label)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


@pytest.fixture
def broken(root, tmp_path):
    """The same files in a table, with two damaged ones between them: rows 1 and 9."""
    files = ImageFolder(root).files
    for name, data in (("empty.jpg", b""), ("page.jpg", b"<html>")):
        (tmp_path / name).write_bytes(data)
    files.insert(1, str(tmp_path / "empty.jpg"))
    files.insert(9, str(tmp_path / "page.jpg"))
    labels = [*["cat"] * 8, *["dog"] * 13, *["owl"] * 4]
    return {"file": files, "label": labels}


def test_a_folder(root):
    dataset = ImageFolder(root, size=(10, 8), batch_size=8)
    assert (dataset.class_names, dataset.num_classes) == (list(COUNTS), 3)
    assert (dataset.num_examples, len(dataset), dataset.batch_size) == (23, 3, 8)
    assert dataset.labels.tolist() == [0] * 7 + [1] * 12 + [2] * 4
    assert dataset.files[0] == os.path.join(root, "cat", "0.png")
    assert repr(dataset) == (
        "ImageFolder(23 images of 3 classes (cat, dog, owl), [10, 8, 3], batch_size=8, "
        "shuffle=True, seed=0)"
    )
    batches = list(dataset)
    assert [set(batch) for batch in batches] == [{"image", "label"}] * 3
    assert [batch["image"].shape for batch in batches] == [(8, 10, 8, 3)] * 2 + [(7, 10, 8, 3)]
    labels = np.concatenate([batch["label"] for batch in batches])
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, dataset.labels[dataset.order(0)])
    red = np.concatenate([batch["image"][..., 0].mean((1, 2)) for batch in batches])
    np.testing.assert_array_equal(np.round((255 * red - 30) / 90), labels)
    assert len(ImageFolder(root, drop_last=True, batch_size=8)) == 2
    assert [b["label"].shape for b in ImageFolder(root, size=4)] == [(23,)]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("image_size", "is called 'size' here"),
        ("validation_split", "is called 'validation_fraction' here"),
        ("subset", "is called 'split' here"),
        ("transform", r"preprocess=flaxzoo.Preprocess\(...\), and augment= of Trainer"),
        ("label_mode", "labels are int32"),
    ],
)
def test_other_libraries_words_name_ours(root, word, line):
    with pytest.raises(TypeError, match=f"'{word}' .*{line}"):
        ImageFolder(root, **{word: 4})


def test_a_flat_folder(root, tmp_path):
    """Files with their classes in their names give the batches of a folder per class."""
    folders = ImageFolder(root, size=4, batch_size=23, shuffle=False)
    for file, label in zip(folders.files, folders.labels, strict=True):
        name = f"{folders.class_names[label]}.{os.path.basename(file)}"
        os.link(file, tmp_path / name)
    flat = ImageFolder(tmp_path, labels=r"([a-z]+)\.", size=4, batch_size=23, shuffle=False)
    assert flat.class_names == folders.class_names
    jax.tree.map(np.testing.assert_array_equal, next(iter(flat)), next(iter(folders)))
    train, validation = flat.split(5)
    again = ImageFolder(tmp_path, labels=r"([a-z]+)\.", split="validation", validation_fraction=5)
    assert validation.files == again.files
    assert not set(train.files) & set(again.files)


def test_defaults(root):
    dataset = ImageFolder(root, batch_size=2)
    assert dataset.preprocess == fz.Preprocess((224, 224, 3))
    batch = next(iter(dataset))
    assert batch["image"].shape == (2, 224, 224, 3)
    assert 0 <= batch["image"].min() < batch["image"].max() <= 1
    assert ImageFolder(root, size=9, channels=1, batch_size=2).preprocess.input_shape == (9, 9, 1)


def test_it_sees_what_predict_sees(root):
    model = fz.models.get("cnn.digits", pretrained=True)
    dataset = ImageFolder(root, preprocess=model.spec.preprocess, batch_size=23, shuffle=False)
    images = next(iter(dataset))["image"]
    np.testing.assert_array_equal(images, model.spec.preprocess(dataset.files))
    logits = np.asarray(model(images))
    predicted = model.predict(dataset.files, top_k=1)
    np.testing.assert_array_equal(logits.argmax(-1), predicted.indices[:, 0])


def test_the_order_depends_on_seed_and_epoch_alone(root):
    one, two = (ImageFolder(root, size=4, batch_size=5, seed=3, threads=n) for n in (1, 4))
    for epoch in (0, 2):
        for a, b in zip(one.epoch(epoch), two.epoch(epoch), strict=True):
            jax.tree.map(np.testing.assert_array_equal, a, b)
    orders = [one.order(0), one.order(1), ImageFolder(root, seed=4).order(0)]
    assert len({tuple(order) for order in orders}) == 3
    # The same as arrays of the same length have: a run may go from files to a cache.
    arrays = fz.data.ArrayDataset(np.zeros(23), 5, seed=3)
    np.testing.assert_array_equal(one.order(2), arrays.order(2))
    plain = ImageFolder(root, shuffle=False)
    np.testing.assert_array_equal(plain.order(7), np.arange(23))


def test_a_start_in_mid_epoch_reads_no_file_before_it(root, tmp_path):
    dataset = ImageFolder(root, size=4, batch_size=4, seed=1)
    whole = list(dataset.epoch(3))
    for row in dataset.order(3)[:16]:
        dataset.files[row] = str(tmp_path / "gone.png")
    tail = list(dataset.epoch(3, start_batch=4))
    assert len(tail) == 2
    for a, b in zip(tail, whole[4:], strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert list(dataset.epoch(3, start_batch=6)) == []
    with pytest.raises(DataError, match="start_batch 7 is past the epoch's 6 batches"):
        dataset.epoch(3, start_batch=7)
    with pytest.raises(ArgumentError, match="epoch must be an int of at least 0"):
        dataset.epoch(-1)


# --- splits ------------------------------------------------------------------------------------


def test_a_split_is_stratified_and_the_same_everywhere(root):
    dataset = ImageFolder(root, batch_size=8, drop_last=True)
    train, validation = dataset.split(0.25)
    assert (train.num_examples, validation.num_examples) == (17, 6)
    assert np.bincount(validation.labels).tolist() == [2, 3, 1]
    assert set(train.files) | set(validation.files) == set(dataset.files)
    assert (train.shuffle, train.drop_last, train.batch_size) == (True, True, 8)
    assert (validation.shuffle, validation.drop_last, validation.batch_size) == (False, False, 8)
    assert dataset.num_examples == 23
    # Pinned: what is held out must not change under a model that was trained without it.
    held_out = [f"{os.path.basename(os.path.dirname(f))}/{f[-5]}" for f in validation.files]
    assert held_out == ["cat/2", "cat/3", "dog/2", "dog/5", "dog/8", "owl/0"]
    assert dataset.split(0.25, seed=1)[1].files != validation.files
    assert len(dataset.split(5)[1].files) == 5


def test_split_by_keyword_is_the_method(root):
    options = {"batch_size": 8, "size": 4}
    train, validation = ImageFolder(root, seed=9, **options).split(0.3, seed=2)
    keywords = {**options, "validation_fraction": 0.3, "split_seed": 2}
    one = ImageFolder(root, split="train", **keywords)
    two = ImageFolder(root, split="validation", seed=5, **keywords)
    assert (one.files, two.files) == (train.files, validation.files)
    assert (one.shuffle, two.shuffle) == (True, False)
    assert isinstance(two, ImageFolder)
    rows = {"file": one.files, "label": [one.class_names[label] for label in one.labels]}
    table = ImageCSV(rows, split="validation", **options)
    assert table.files == ImageCSV(rows, **options).split()[1].files


@pytest.mark.parametrize(
    ("fraction", "message"),
    [
        (0.01, "leaves 23 to train on and 0 to validate on"),
        (23, "leaves 0 to train on"),
        (1.5, "must be a fraction between 0 and 1 or a number of files, got 1.5"),
        (True, "must be a fraction"),
        (22, "leaves no file of the class 'owl' to train on: of 23 files at most 20 can"),
        (21, "leaves no file of the class 'owl'"),
        (18, "drop_last with batch_size 6 leaves nothing of 5 files"),
    ],
)
def test_splits_at_fault(root, fraction, message):
    with pytest.raises(DataError, match=message):
        ImageFolder(root, batch_size=6, drop_last=True).split(fraction)


def test_every_class_keeps_a_file_to_train_on():
    labels = [0] * 10 + [1, 2, 3, 4]
    files = [f"{index}.png" for index in range(14)]
    dataset = ImageDataset(files, labels, list("abcde"), batch_size=2)
    train, validation = dataset.split(0.2)
    assert validation.labels.tolist() == [0, 0, 0]
    assert np.bincount(train.labels).tolist() == [7, 1, 1, 1, 1]
    for count in range(1, 10):
        train, validation = dataset.split(count, seed=count)
        assert (train.num_examples, validation.num_examples) == (14 - count, count)
        assert set(train.labels.tolist()) == set(range(5))
    with pytest.raises(DataError, match=r"class 'b' to train on: of 14 files at most 9 can"):
        dataset.split(10)


def test_splits_are_those_of_arrays_where_no_class_is_too_small():
    generator = np.random.default_rng(0)
    compared = 0
    for seed in range(60):
        labels = generator.integers(0, 4, generator.integers(8, 40))
        count = int(generator.integers(1, len(labels) - 1))
        rows = np.arange(len(labels))
        kept, wanted = fz.data.train_test_split(rows, count, seed=seed, stratify=labels)
        if set(labels[kept]) != set(labels):
            continue
        compared += 1
        dataset = ImageDataset([str(row) for row in rows], labels, list("abcd"))
        assert dataset.split(count, seed=seed)[1].files == [str(row) for row in wanted]
    assert compared > 30


# --- damaged files -----------------------------------------------------------------------------


def test_a_damaged_file_raises_by_name_at_its_batch(broken):
    dataset = ImageCSV(broken, size=4, batch_size=8, shuffle=False)
    with pytest.raises(DataError, match=r"empty\.jpg: not a readable image .*errors=\"skip\""):
        list(dataset)
    batches = dataset.epoch(0, start_batch=2)
    assert len(list(batches)) == 2


def test_a_damaged_file_is_skipped_by_choice(broken):
    dataset = ImageCSV(broken, size=4, batch_size=8, shuffle=False, errors="skip")
    with pytest.warns(UserWarning, match="skipped") as caught:
        batches = list(dataset)
    assert [os.path.basename(str(w.message).split(": ")[0]) for w in caught] == [
        "empty.jpg",
        "page.jpg",
    ]
    assert list(dataset.skipped) == [broken["file"][1], broken["file"][9]]
    assert "no format that Pillow knows" in dataset.skipped[broken["file"][9]]
    weight = np.concatenate([batch["weight"] for batch in batches])
    assert weight.dtype == np.float32
    assert np.flatnonzero(weight == 0).tolist() == [1, 9]
    np.testing.assert_array_equal(batches[0]["image"][1], batches[0]["image"][0])
    np.testing.assert_array_equal(batches[0]["label"], dataset.labels[:8])
    with warnings.catch_warnings():
        # Once per file, not once per epoch.
        warnings.simplefilter("error")
        again = list(dataset)
    jax.tree.map(np.testing.assert_array_equal, again, batches)


def test_a_batch_of_nothing_but_damaged_files(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(b"")
    Image.new("RGB", (4, 4), "red").save(tmp_path / "c.png")
    rows = {"file": ["a.jpg", "b.jpg", "c.png"], "label": ["a", "b", "a"]}
    dataset = ImageCSV(rows, tmp_path, size=4, batch_size=2, errors="skip", shuffle=False)
    with pytest.warns(UserWarning, match="skipped"):
        batch, rest = dataset
    assert not batch["weight"].any()
    assert not batch["image"].any()
    assert rest["weight"].tolist() == [1]


def test_load(root, broken):
    dataset = ImageFolder(root, size=4, batch_size=8, drop_last=True)
    images, labels = dataset.load()
    assert (images.shape, images.dtype) == ((23, 4, 4, 3), np.float32)
    np.testing.assert_array_equal(labels, dataset.labels)
    np.testing.assert_array_equal(images, dataset.preprocess(dataset.files))
    table = ImageCSV(broken, size=4, batch_size=8, errors="skip")
    with pytest.warns(UserWarning, match="skipped"):
        kept, kept_labels = table.load()
    np.testing.assert_array_equal(kept, images)
    np.testing.assert_array_equal(kept_labels, labels)


# --- settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 24, "drop_last": True}, "batch_size 24 leaves nothing of 23 files"),
        ({"batch_size": 0}, "batch_size must be an int of at least 1"),
        ({"size": (4, 4, 3)}, "size must be an int of at least 1 or a pair"),
        ({"size": 0}, "size must be an int of at least 1"),
        ({"size": 4.5}, "size must be an int"),
        ({"channels": 4}, r"channels must be 1 \(grey\) or 3"),
        ({"seed": -1}, "seed must be an int of at least 0"),
        ({"threads": 0}, "threads must be an int of at least 1"),
        ({"workers": -1}, "workers must be an int of at least 0"),
        ({"preprocess": "resnet50"}, "must be a flaxzoo.Preprocess, such as .* got str"),
        ({"preprocess": fz.Preprocess((8, 8, 3)), "size": 9}, r"size=9 contradicts .* \[8, 8, 3\]"),
        ({"preprocess": fz.Preprocess((8, 8, 3)), "channels": 1}, "channels=1 contradicts"),
    ],
)
def test_settings_at_fault(root, options, message):
    with pytest.raises((DataError, ArgumentError), match=message):
        ImageFolder(root, **{"batch_size": 4, **options})


def test_names_at_fault(root):
    with pytest.raises(ArgumentError, match="errors must be .*'skipp'. Did you mean 'skip'"):
        ImageFolder(root, errors="skipp", batch_size=4)
    with pytest.raises(ArgumentError, match="split must be one of .*'validation', got 'valid'"):
        ImageFolder(root, split="valid", batch_size=4)


def test_lists_of_files_at_fault():
    with pytest.raises(ShapeError, match=r"shape \[2\], got \[1\]"):
        ImageDataset(["a.jpg", "b.jpg"], [0], ["a", "b"])
    with pytest.raises(ShapeError, match="must be integers, got float64"):
        ImageDataset(["a.jpg"], [0.0], ["a", "b"], batch_size=1)
    with pytest.raises(DataError, match=r"labels\[1\] is 2, but there are 2 class names"):
        ImageDataset(["a.jpg", "b.jpg"], [0, 2], ["a", "b"])
    with pytest.raises(DataError, match="there are no files"):
        ImageDataset([], [], ["a", "b"])


def test_the_constructors_take_the_same_settings(root):
    common = inspect.signature(ImageDataset).parameters
    for kind in (ImageFolder, ImageCSV):
        given = inspect.signature(kind).parameters
        assert given["settings"].annotation == "Unpack[ImageSettings]"
        assert not set(given) & set(list(common)[3:])
    assert list(ImageSettings.__annotations__) == list(common)[3:]
    copied = pickle.loads(pickle.dumps(ImageFolder(root, size=4, batch_size=4)))
    assert copied.files == ImageFolder(root, size=4, batch_size=4).files


# --- training ----------------------------------------------------------------------------------


class Stop(fz.callbacks.Callback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, trainer, step, metrics):
        trainer.stop_training = step == self.step


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:skipped")
def test_training_resumes_in_mid_epoch_and_skips_damage(broken, tmp_path, assert_trees_equal):
    def trainer(directory):
        model = fz.models.get("mlp", input_shape=(6, 6, 3), features=(8,), num_classes=3)
        return fz.Trainer(model, learning_rate=0.03, metrics=["accuracy"], run_dir=directory)

    def parts():
        dataset = ImageCSV(broken, size=6, batch_size=8, errors="skip")
        return dataset.split(0.2)

    train, validation = parts()
    whole = trainer(tmp_path / "whole")
    whole.fit(train, validation_data=validation, epochs=12, progress=False)
    train, validation = parts()
    part = trainer(tmp_path / "part")
    part.fit(train, validation_data=validation, epochs=12, progress=False, callbacks=[Stop(5)])
    part.save(tmp_path / "part")
    assert part.position()["batch"] == 2
    train, validation = parts()
    rest = trainer(tmp_path / "part")
    rest.fit(train, validation_data=validation, epochs=12, progress=False, resume=True)
    assert_trees_equal(whole.state, rest.state)
    assert whole.history == rest.history
    assert whole.history["loss"][-1] < 0.6 * whole.history["loss"][0]
    # A damaged file counts for nothing: the same as evaluating what could be read.
    table = ImageCSV(broken, size=6, batch_size=8, errors="skip")
    assert whole.evaluate(table) == pytest.approx(whole.evaluate(table.load()), rel=1e-6)


def test_nothing_that_can_be_read_is_an_error(tmp_path):
    """A loss over no image at all would be a perfect 0."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(2):
            (tmp_path / name / f"{index}.jpg").write_bytes(b"<html>")
    dataset = ImageFolder(tmp_path, size=8, errors="skip", batch_size=3)
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(DataError, match="none of the 4 files could be read"),
    ):
        list(dataset)
