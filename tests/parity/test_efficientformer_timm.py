"""EfficientFormer against timm: the size of its weights, the authors' files."""

import re

import numpy as np
import pytest
from parity.pairs import load_into

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.verify import fill_reference, with_reference

pytest.importorskip("torch")
timm = pytest.importorskip("timm")
efficientformer = pytest.importorskip("timm.models.efficientformer")

pytestmark = pytest.mark.family("efficientformer")

NAME = "efficientformer_l1"
SMALL = {"layers": (1, 1, 1, 3), "widths": (8, 12, 16, 24), "num_classes": 5}
SMALL_TIMM = {"depths": (1, 1, 1, 3), "embed_dims": (8, 12, 16, 24), "num_classes": 5}


def reference_of():
    reference = timm.create_model(NAME, **SMALL_TIMM)
    tensors = fill_reference(reference)
    return reference, tensors


def test_biases_are_for_one_size():
    _, tensors = reference_of()
    model = fz.models.get(NAME, input_shape=(224, 256, 3), **SMALL)
    with pytest.raises(ShapeError, match="attend on a grid of 7 x 7, which is of images of 224"):
        load_into(model, tensors, image_sizes=((224, 224, 3), (224, 256, 3)))


def test_the_authors_files():
    reference, tensors = reference_of()
    stem = {"conv1": 0, "norm1": 1, "conv2": 3, "norm2": 4}

    def old(key):
        key = re.sub(r"^stem\.(\w+)", lambda m: f"patch_embed.{stem[m[1]]}", key)
        key = re.sub(r"^stages\.(\d)\.blocks", lambda m: f"network.{2 * int(m[1])}", key)
        key = re.sub(
            r"^stages\.(\d)\.downsample\.(conv|norm)",
            lambda m: f"network.{2 * int(m[1]) - 1}.{'proj' if m[2] == 'conv' else 'norm'}",
            key,
        )
        return re.sub(r"ls(\d)\.gamma", r"layer_scale_\1", key).replace("head_dist", "dist_head")

    authors = {old(key): value for key, value in tensors.items()}
    assert {"patch_embed.3.weight", "network.5.proj.bias", "network.6.3.layer_scale_1"} <= set(
        authors
    )
    assert set(efficientformer.checkpoint_filter_fn(authors, reference)) == set(tensors)
    authors["network.6.3.token_mixer.attention_bias_idxs"] = np.zeros((49, 49), np.int64)
    bare = fz.models.get(NAME, **SMALL)
    exported = with_reference(bare, authors, source="an old file").to_torch_state_dict(
        as_numpy=True
    )
    for key, value in tensors.items():
        np.testing.assert_array_equal(exported[key], value)
