from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure

import flaxzoo as fz
from flaxzoo import plots
from flaxzoo._figures import displayable, to_array
from flaxzoo.errors import ArgumentError, DataError, MissingExtraError, ShapeError, UnknownNameError
from flaxzoo.preprocess import Predictions

CURVES = {
    "loss": [1.0, 0.5, 0.2],
    "accuracy": [0.5, 0.8, 0.9],
    "val_loss": [1.1, 0.4, 0.6],
    "val_accuracy": [0.4, 0.9, 0.7],
    "learning_rate": [0.1, 0.01, 0.001],
}


def texts(axes) -> list[str]:
    return [t.get_text() for t in axes.get_legend().get_texts()]


def test_history_pairs_curves_and_marks_the_best():
    figure = plots.history(CURVES)
    assert isinstance(figure, Figure)
    assert [a.get_title() for a in figure.axes] == ["loss", "accuracy", "learning rate"]
    loss, accuracy, rate = figure.axes
    assert texts(loss) == ["training", "validation", "best: 0.4, epoch 2"]
    assert texts(accuracy)[-1] == "best: 0.9, epoch 2"
    np.testing.assert_array_equal(loss.lines[0].get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(loss.lines[1].get_ydata(), CURVES["val_loss"])
    assert rate.get_legend() is None
    assert loss.get_xlabel() == "epoch"


def test_history_object_counts_epochs_from_1_and_leaves_gaps():
    run = SimpleNamespace(
        epochs=[4, 5, 6], metrics={"loss": [3, 2, 1], "val_loss": [None, 2.5, None]}
    )
    figure = plots.history(run)
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), [5, 6, 7])
    assert texts(figure.axes[0])[-1] == "best: 2.5, epoch 6"


def test_history_of_chosen_metrics():
    assert len(plots.history(CURVES, metrics=["accuracy"]).axes) == 1
    with pytest.raises(UnknownNameError, match=r"no metric 'acuracy'.*Did you mean 'accuracy'"):
        plots.history(CURVES, metrics=["acuracy"])


@pytest.mark.parametrize("empty", [{}, {"loss": []}, SimpleNamespace(epochs=[], metrics={})])
def test_empty_history(empty):
    with pytest.raises(DataError, match="history is empty"):
        plots.history(empty)


def test_history_with_unequal_lists():
    with pytest.raises(DataError, match=r"3 epochs, but 'b' is of shape \[2\]"):
        plots.history({"a": [1, 2, 3], "b": [1, 2]})


def test_history_with_nan_only():
    figure = plots.history({"loss": [np.nan, np.nan]})
    assert len(figure.axes[0].lines) == 1


def test_compare_lists_the_best_first():
    runs = {"sgd": {"val_loss": [3, 2.0]}, "adam": {"val_loss": [2, 1.0, 1.5]}}
    figure = plots.compare(runs, log=True)
    assert texts(figure.axes[0]) == ["adam  1", "sgd  2"]
    assert figure.axes[0].get_yscale() == "log"
    assert figure.axes[0].get_ylabel() == "validation loss"
    many = {f"run{i}": {"val_accuracy": [i / 20]} for i in range(16)}
    axes = plots.compare(many, "val_accuracy").axes[0]
    assert texts(axes)[0] == "run15  0.75"
    # Each line differs from the others in colour or style.
    assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 16


def test_compare_errors():
    with pytest.raises(DataError, match="at least one history"):
        plots.compare({})
    with pytest.raises(UnknownNameError, match=r"'val_loss' in the history of 'a'.* It has: loss"):
        plots.compare({"a": {"loss": [1.0]}})


IMAGES = np.linspace(0, 1, 3 * 4 * 4, dtype=np.float32).reshape(3, 4, 4, 1)


def test_prediction_grid_with_probabilities():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    figure = plots.prediction_grid(IMAGES, [0, 1, 1], probabilities, ["cat", "dog"])
    assert [a.get_title() for a in figure.axes] == ["cat  90%", "dog  80%", "cat  60%\ntrue: dog"]
    colours = [a.title.get_color() for a in figure.axes]
    assert colours[0] == colours[1] != colours[2]


def test_prediction_grid_with_ids_scores_and_no_labels():
    figure = plots.prediction_grid(IMAGES, None, np.array([2, 0, 1]), max_images=2)
    assert [a.get_title() for a in figure.axes] == ["2", "0"]
    logits = np.array([[-1.0, 3.0], [2.0, 0.0], [0.5, 0.6]])
    figure = plots.prediction_grid(IMAGES, np.array([1, 0, 1]), logits)
    assert [a.get_title() for a in figure.axes] == ["1", "0", "1"]


def test_plots_of_what_predict_returns():
    probabilities = np.array([[0.9, 0.06, 0.04], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]])
    predictions = Predictions.from_logits(np.log(probabilities), 2, ["cat", "dog", "owl"])
    names = ["cat", "dog", "owl"]
    figure = plots.prediction_grid(IMAGES, [0, 1, 1], predictions, names)
    assert [a.get_title() for a in figure.axes] == ["cat  90%", "dog  70%", "cat  60%\ntrue: dog"]
    figure = plots.confusion_matrix([0, 1, 1], predictions, names)
    np.testing.assert_array_equal(cells(figure), [[1, 0, 0], [1, 1, 0], [0, 0, 0]])
    # Without names there are as many classes as occur, whatever top_k is.
    assert cells(plots.confusion_matrix([0, 1, 1], predictions)).shape == (2, 2)
    with pytest.raises(ShapeError, match=r"predictions must be .*\[2\], got int64\[3\]"):
        plots.confusion_matrix([0, 1], predictions)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((IMAGES[0, :, 0], [0], [0]), ShapeError, r"images must be .* got \[4, 1\]"),
        ((IMAGES[:0], [], []), DataError, r"images is empty, shape \[0, 4, 4, 1\]"),
        ((IMAGES, [0, 1], [0, 1, 1]), ShapeError, r"labels must be .*\[3\], got int64\[2\]"),
        ((IMAGES, [0, 1, 1], [0, 1]), ShapeError, r"predictions must be .*\[3\]"),
        ((IMAGES, [0, 1, 1], np.zeros((2, 2))), ShapeError, r"for 3 examples, got \[2, 2\]"),
        ((IMAGES, [0.0, 1.0, 1.0], [0, 1, 1]), ShapeError, "labels must be int class ids"),
        ((IMAGES, [0, 1, -1], [0, 1, 1]), DataError, "negative class id -1"),
        ((IMAGES, [0, 1, 2], [0, 1, 1], ["a", "b"]), DataError, "class id 2 has no name"),
    ],
)
def test_prediction_grid_errors(arguments, error, message):
    with pytest.raises(error, match=message):
        plots.prediction_grid(*arguments)
    with pytest.raises(DataError, match="max_images must be at least 1, got 0"):
        plots.prediction_grid(IMAGES, None, [0, 1, 1], max_images=0)


def cells(figure) -> np.ndarray:
    return np.asarray(figure.axes[0].images[0].get_array())


def test_scores_without_a_best_class_are_no_answers():
    scores = np.array([[0.0, 1.0], [np.nan, 1.0], [np.nan, np.nan]])
    with pytest.raises(DataError, match=r"predictions holds NaN in row 1 \(2 of 3 rows\)"):
        plots.confusion_matrix([0, 0, 0], scores)


def test_confusion_matrix():
    labels, predictions = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 2, 0])
    figure = plots.confusion_matrix(labels, predictions)
    np.testing.assert_array_equal(cells(figure), [[1, 1, 0], [0, 1, 0], [1, 0, 2]])
    assert figure.axes[0].get_title() == "accuracy 66.7% of 6 examples"
    assert sorted(t.get_text() for t in figure.axes[0].texts) == ["1", "1", "1", "1", "2"]
    shares = cells(plots.confusion_matrix(labels, predictions, normalize=True))
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    named = plots.confusion_matrix(labels, predictions, ["cat", "dog", "horse", "never"])
    assert cells(named).shape == (4, 4)
    assert [t.get_text() for t in named.axes[0].get_yticklabels()][-1] == "never"


def test_confusion_matrix_of_scores_and_of_many_classes():
    scores = np.eye(5)[[0, 1, 1]]
    assert cells(plots.confusion_matrix([0, 1, 2], scores)).shape == (5, 5)
    labels = np.arange(300)
    figure = plots.confusion_matrix(labels, labels)
    assert not figure.axes[0].texts
    assert len(figure.axes[0].get_xticks()) <= 40


def test_confusion_matrix_errors():
    with pytest.raises(DataError, match=r"labels is empty|predictions is empty"):
        plots.confusion_matrix(np.zeros(0, int), np.zeros(0, int))
    with pytest.raises(DataError, match="class id 2 has no name: there are 2"):
        plots.confusion_matrix([0, 2], [0, 1], ["a", "b"])
    with pytest.raises(ShapeError, match=r"predictions must be int class ids of shape \[2\]"):
        plots.confusion_matrix([0, 1], [0, 1, 1])


def test_figures_save_show_and_leave_pyplot_alone(tmp_path):
    figure = plots.history(CURVES)
    figure.savefig(tmp_path / "history.png")
    assert (tmp_path / "history.png").read_bytes()[:4] == b"\x89PNG"
    assert figure._repr_png_()[:4] == b"\x89PNG"
    pixels = to_array(figure)
    assert pixels.dtype == np.uint8
    assert pixels.shape[2] == 3
    assert pixels.min() < 100 < pixels.max()
    program = (
        "import sys; from flaxzoo import plots; assert 'matplotlib' not in sys.modules;"
        "plots.history({'loss': [1, 2]})._repr_png_();"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_displayable():
    assert displayable(IMAGES, "x").shape == (3, 4, 4)
    np.testing.assert_array_equal(displayable(np.full((1, 2, 2, 3), 255, np.uint8), "x"), 1)
    stretched = displayable(np.array([[[-2.0, 0.0], [2.0, np.nan]]]), "x")
    np.testing.assert_allclose(stretched, [[[0, 0.5], [1, 0.5]]])


def test_missing_matplotlib(monkeypatch):
    from flaxzoo import _figures

    _figures._figure_class.cache_clear()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'pip install "flaxzoo\[plots\]"'):
        plots.history(CURVES)


@pytest.mark.parametrize("failure", ["import no_such_dependency", "raise ImportError('bad .so')"])
def test_a_broken_package_is_not_called_missing(tmp_path, monkeypatch, failure):
    from flaxzoo._extras import require

    (tmp_path / "broken_package.py").write_text(failure)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match=r"no_such_dependency|bad \.so") as caught:
        require("broken_package", extra="plots", purpose="drawing")
    assert not isinstance(caught.value, MissingExtraError)


@pytest.fixture(scope="module")
def vit():
    fields = {"input_shape": (16, 24, 3), "patch_size": 8, "width": 8, "depth": 2, "heads": 2}
    return fz.models.get("vit_tiny_patch16_224", num_classes=3, **fields).init(rng=0)


PICTURE = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
FLOATS = (PICTURE / 255).astype(np.float32)


def drawn(figure):
    """The maps over the picture."""
    return [np.asarray(axes.images[1].get_array()) for axes in figure.axes[1:]]


def test_attention_of_the_class_token_for_each_head(vit):
    figure = plots.attention(vit, FLOATS)
    weights = np.asarray(vit.attention_weights(FLOATS[None])["blocks_1/attn"])[0]
    heads = weights[:, 0, 1:].reshape(2, 2, 3)
    np.testing.assert_array_equal(drawn(figure), [*heads, weights.mean(0)[0, 1:].reshape(2, 3)])
    assert [axes.get_title().partition(",")[0] for axes in figure.axes] == [
        *("picture", "head 0", "head 1", "mean")
    ]
    # Through the model's preprocessing as well.
    assert len(plots.attention(vit, PICTURE, block="blocks_0").axes) == 4


def test_attention_of_a_patch_and_rollout(vit):
    weights = [np.asarray(w)[0].mean(0) for w in vit.attention_weights(FLOATS[None]).values()]
    halves = [0.5 * w + 0.5 * np.eye(7) for w in weights]
    figure = plots.attention(vit, FLOATS, token=(1, 2), rollout=True)
    expected = (halves[1] @ halves[0])[6, 1:].reshape(2, 3)
    np.testing.assert_allclose(drawn(figure)[0], expected, rtol=1e-6)
    assert figure.axes[0].patches[0].get_xy() == (16, 8)


def test_attention_without_a_class_token_is_the_patches_mean():
    fields = {"input_shape": (16, 24, 3), "patch_size": 8, "width": 8, "depth": 1, "heads": 2}
    model = fz.models.get("vit_base_patch16_siglip_224", **fields).init(rng=0)
    weights = np.asarray(model.attention_weights(FLOATS[None])["blocks_0/attn"])[0]
    panels = drawn(plots.attention(model, FLOATS))
    np.testing.assert_allclose(panels[0], weights[0].mean(0).reshape(2, 3), rtol=1e-6)


def test_attention_says_what_does_not_fit(vit):
    with pytest.raises(UnknownNameError, match="no attention 7.*There are 2: blocks_0/attn"):
        plots.attention(vit, FLOATS, block=7)
    with pytest.raises(ArgumentError, match=r"\(row, column\) of one of 2 x 3 patches.*\(2, 0\)"):
        plots.attention(vit, FLOATS, token=(2, 0))
    with pytest.raises(ShapeError, match="image must be one picture"):
        plots.attention(vit, np.stack([PICTURE, PICTURE]))
    with pytest.raises(TypeError, match=r"model must be a flaxzoo.Model, got int"):
        plots.attention(3, FLOATS)
    cnn = fz.models.get("cnn", input_shape=(16, 16, 3), features=(4,), hidden=()).init(rng=0)
    with pytest.raises(TypeError, match="a CNN has no attention weights to show"):
        plots.attention(cnn, np.zeros((16, 16, 3), np.float32))


def test_history_of_something_else():
    with pytest.raises(TypeError, match="history must be a History.*got 3"):
        plots.history(3)
