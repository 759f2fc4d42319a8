"""XCiT against timm: images of any size, the authors' files."""

import numpy as np
import pytest
from parity.pairs import assert_exports, assert_same, fill_whole

import flaxzoo as fz
from flaxzoo.verify import with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
xcit = pytest.importorskip("timm.models.xcit")

pytestmark = pytest.mark.family("xcit")

SMALL = {"num_classes": 5, "depth": 1, "class_depth": 1}
SMALL_TIMM = {"num_classes": 5, "depth": 1, "cls_attn_layers": 1}


def reference_of(name):
    """timm's with random weights, and these."""
    reference = timm.create_model(name, **SMALL_TIMM).eval()
    return reference, fill_whole(reference)


@pytest.mark.parametrize("name", ["xcit_nano_12_p8_224", "xcit_tiny_12_p16_224"])
def test_images_of_any_size(name):
    reference, tensors = reference_of(name)
    model = with_reference(fz.models.get(name, **SMALL), tensors, source="random weights")
    for size in ((40, 75), (64, 33)):
        assert_same(model, reference, (*size, 3))


def test_the_authors_files():
    name = "xcit_tiny_12_p16_224"
    reference, tensors = reference_of(name)
    authors = {key.replace("pos_embed.", "pos_embeder."): value for key, value in tensors.items()}
    for leaf in ("weight", "bias"):
        names = [f"cls_attn_blocks.0.attn.{letter}.{leaf}" for letter in "qkv"]
        qkv = np.concatenate([authors.pop(key) for key in names])
        authors[f"cls_attn_blocks.0.attn.qkv.{leaf}"] = qkv
    theirs = {key: torch.tensor(value) for key, value in authors.items()}
    assert set(xcit.checkpoint_filter_fn(theirs, reference)) == set(tensors)
    model = with_reference(fz.models.get(name, **SMALL), authors, source="the authors' file")
    assert_exports(model, tensors)
