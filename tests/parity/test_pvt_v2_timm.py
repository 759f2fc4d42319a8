"""PVT v2 against timm: images of odd sizes, the authors' files."""

import re

import numpy as np
import pytest
from parity.pairs import outputs_of

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

pytest.importorskip("torch")
timm = pytest.importorskip("timm")
pvt_v2 = pytest.importorskip("timm.models.pvt_v2")

pytestmark = pytest.mark.family("pvt_v2")

NAME = "pvt_v2_b0"
SMALL = {"layers": (1, 1, 2, 1), "num_classes": 5}
SMALL_TIMM = {"depths": (1, 1, 2, 1), "num_classes": 5}


def reference_of(name, **options):
    reference = timm.create_model(name, **SMALL_TIMM, **options).eval()
    tensors = fill_reference(reference)
    return reference, tensors


@pytest.mark.parametrize(
    ("name", "size"), [(NAME, (37, 61)), (NAME, (50, 32)), ("pvt_v2_b2_li", (21, 40))]
)
def test_images_of_any_size(name, size):
    widths, heads = (16, 16, 20, 24), (1, 2, 2, 2)
    reference, tensors = reference_of(name, embed_dims=widths, num_heads=heads)
    model = fz.models.get(name, widths=widths, heads=heads, **SMALL)
    model = with_reference(model, tensors, source="random weights")
    images = synthetic_images((2, *size, 3), 0)
    expected = outputs_of(reference, images)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)


def test_the_authors_files():
    reference, tensors = reference_of(NAME)

    def old(key):
        key = re.sub(r"^patch_embed\.", "patch_embed1.", key)
        key = key.replace("dwconv.", "dwconv.dwconv.")
        parts = {"downsample": "patch_embed", "blocks": "block", "norm": "norm"}
        return re.sub(
            r"^stages\.(\d)\.(downsample|blocks|norm)",
            lambda match: f"{parts[match[2]]}{int(match[1]) + 1}",
            key,
        )

    authors = {old(key): value for key, value in tensors.items()}
    assert {"patch_embed3.proj.weight", "block3.1.mlp.dwconv.dwconv.bias", "norm4.bias"} <= set(
        authors
    )
    assert set(pvt_v2.checkpoint_filter_fn(authors, reference)) == set(tensors)
    bare = fz.models.get(NAME, **SMALL)
    exported = with_reference(bare, authors, source="an old file").to_torch_state_dict(
        as_numpy=True
    )
    assert exported.keys() == tensors.keys()
    for key, value in exported.items():
        np.testing.assert_array_equal(value, tensors[key])
