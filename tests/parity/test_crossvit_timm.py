"""CrossViT against timm: images of other sizes, the authors' files."""

import numpy as np
import pytest
from parity.pairs import assert_exports, assert_same, load_resized

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.models.crossvit import resized
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
layers = pytest.importorskip("timm.layers")

pytestmark = pytest.mark.family("crossvit")

NAMES = ("crossvit_tiny_240", "crossvit_9_dagger_240")
SMALL = {"num_classes": 50, "layers": ((1, 2),), "widths": (24, 48), "heads": (2, 2)}
SMALL_TIMM = {
    "num_classes": 50,
    "depth": ((1, 2, 0),),
    "embed_dim": (24, 48),
    "num_heads": (2, 2),
}


def reference_of(name, size, **options):
    """timm's with random weights, and these."""
    reference = timm.create_model(name, img_size=size, **SMALL_TIMM, **options).eval()
    return reference, fill_reference(reference)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pooling", ["token", "avg"])
def test_images_that_are_not_square(name, pooling):
    size = (120, 240)
    reference, tensors = reference_of(name, size, global_pool=pooling)
    model = fz.models.get(name, input_shape=(*size, 3), branch_pooling=pooling, **SMALL)
    model = with_reference(model, tensors, source="random weights")
    assert_same(model, reference, (*size, 3))
    reductions = [info["reduction"] for info in reference.feature_info]
    assert list(model.module.backbone.reductions().values()) == reductions


@pytest.mark.parametrize(("old", "new"), [((240, 240), (224, 224)), ((30, 20), (48, 17))])
def test_images_are_resized_as_timm_resizes(old, new):
    images = synthetic_images((1, *old, 3), 0)
    expected = torch.nn.functional.interpolate(
        torch.tensor(images.transpose(0, 3, 1, 2)), size=new, mode="bicubic", align_corners=False
    )
    expected = expected.numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(resized(images, new), expected, rtol=0, atol=1e-5)


def test_positions_for_images_of_another_size():
    """timm refuses such weights: here their positions are resampled as those of a ViT."""
    name, old, new = NAMES[0], (120, 240), (240, 120)
    _, tensors = reference_of(name, old)
    model = fz.models.get(name, input_shape=(*new, 3), **SMALL)
    model = load_resized(model, tensors, (*old, 3))
    for branch, (rows, columns) in enumerate(((10, 20), (7, 14))):
        expected = layers.resample_abs_pos_embed(
            torch.tensor(tensors[f"pos_embed_{branch}"]), (columns, rows), old_size=(rows, columns)
        )
        positions = flatten(model.variables)[f"params/backbone/pos_embed_{branch}"]
        np.testing.assert_allclose(positions, expected.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_names_of_today_and_of_the_authors(name):
    _, tensors = reference_of(name, (120, 120))
    bare = fz.models.get(name, input_shape=(120, 120, 3), **SMALL)
    listed = {f"{key}_{i}": f"{key}.{i}" for key in ("pos_embed", "cls_token") for i in range(2)}
    authors = {listed.get(key, key): value for key, value in tensors.items()}
    for file in (tensors, authors):
        assert_exports(with_reference(bare, file, source="a file"), tensors)
