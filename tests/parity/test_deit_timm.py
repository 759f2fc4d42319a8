"""DeiT against timm: what its two classifiers do in training, older files, another head."""

import jax
import numpy as np
import pytest
from parity.pairs import assert_exports

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.names import reference_name
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
vision_transformer = pytest.importorskip("timm.models.vision_transformer")

pytestmark = pytest.mark.family("deit")

DISTILLED = "deit_tiny_distilled_patch16_224"
IMAGES = synthetic_images((2, 32, 48, 3), 0)


def pair(name, **options):
    """Our model and timm's of two blocks, with the same weights, and these."""
    reference = timm.create_model(name, img_size=(32, 48), num_classes=5, depth=2)
    tensors = fill_reference(reference)
    model = fz.models.get(name, input_shape=(32, 48, 3), num_classes=5, depth=2, **options)
    return with_reference(model, tensors, source="random weights"), reference, tensors


def assert_close(ours, theirs):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def torch_images():
    return torch.tensor(IMAGES.transpose(0, 3, 1, 2))


def test_both_classifiers_are_trained_apart_if_asked_for():
    model, reference, _ = pair(DISTILLED, distilled_training=True)
    trained = model.module.apply(model.variables, IMAGES, train=True)
    reference.train()
    mean = reference(torch_images())
    assert_close(0.5 * (trained[0] + trained[1]), mean)
    reference.set_distilled_training(True)
    for ours, theirs in zip(trained, reference(torch_images()), strict=True):
        assert_close(ours, theirs)
    # In inference timm's flag, and ours, change nothing.
    assert_close(model(IMAGES), reference.eval()(torch_images()))
    assert_close(model(IMAGES), mean)
    usual, _, _ = pair(DISTILLED)
    assert_close(usual.module.apply(usual.variables, IMAGES, train=True), mean)


def test_files_of_deit3_itself():
    """Their scales are the blocks' own, and both have the file from there."""
    model, reference, tensors = pair("deit3_small_patch16_224")
    old = {
        key.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2"): value
        for key, value in tensors.items()
    }
    assert old.keys() != tensors.keys()
    state = {key: torch.tensor(value) for key, value in old.items()}
    filtered = vision_transformer.checkpoint_filter_fn(state, reference, adapt_layer_scale=True)
    assert filtered.keys() == tensors.keys()
    again = with_reference(model, old, source="the authors' file")
    jax.tree.map(np.testing.assert_array_equal, again.variables, model.variables)
    assert_close(again(IMAGES), reference.eval()(torch_images()))


def test_another_number_of_classes_exchanges_both(tmp_path):
    fields = {"input_shape": (32, 48, 3), "num_classes": 5}
    fz.models.get(DISTILLED, **fields).init(rng=0).save_pretrained(tmp_path)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=2)
    ours = fz.models.get(DISTILLED, pretrained=str(tmp_path), **{**fields, "num_classes": 2})
    state = {k: v for k, v in theirs.state_dict().items() if not k.startswith("head")}
    reference = MODELS.architecture(DISTILLED).reference
    for path, leaf in flatten(ours.variables).items():
        name = reference_name(path, reference)
        if name.startswith("head"):
            assert 2 in leaf.shape
        elif leaf.ndim == 1:
            np.testing.assert_array_equal(leaf, state[name].numpy())


@pytest.mark.parametrize("name", [DISTILLED, "deit3_small_patch16_224"])
def test_names_are_timms_in_both_directions(name):
    model, _, tensors = pair(name)
    reference = MODELS.architecture(name).reference
    ours = [reference_name(path, reference) for path in flatten(model.shapes())]
    assert sorted(ours) == sorted(tensors)
    assert_exports(model, tensors)
