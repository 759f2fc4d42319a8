"""FastViT against timm: images that are not square, the authors' files."""

import functools

import numpy as np
import pytest
from parity.pairs import assert_exports, assert_same, fill_whole

import flaxzoo as fz
from flaxzoo.verify import with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
fastvit = pytest.importorskip("timm.models.fastvit")

pytestmark = pytest.mark.family("fastvit")

SMALL = {
    "layers": (1, 1, 1),
    "widths": (8, 16, 32),
    "mlp_ratios": (2, 2, 2),
    "mixers": ("convolution", "convolution", "attention"),
    "gated": (False, False, True),
    "num_classes": 5,
}
POSITIONS = functools.partial(fastvit.RepConditionalPosEnc, spatial_shape=(7, 7))
SMALL_TIMM = {
    "layers": (1, 1, 1),
    "embed_dims": (8, 16, 32),
    "mlp_ratios": (2, 2, 2),
    "token_mixers": ("repmixer", "repmixer", "attention"),
    "se_downsamples": (False, False, True),
    "downsamples": (False, True, True),
    "pos_embs": (None, None, POSITIONS),
    "num_classes": 5,
}


def reference_of(name):
    """timm's with random weights, and these."""
    reference = timm.create_model(name, **SMALL_TIMM).eval()
    return reference, fill_whole(reference)


@pytest.mark.parametrize("name", ["fastvit_mci0", "fastvit_mci3"])
def test_images_that_are_not_square(name):
    reference, tensors = reference_of(name)
    model = fz.models.get(name, input_shape=(45, 70, 3), **SMALL)
    model = with_reference(model, tensors, source="random weights")
    assert_same(model, reference, (45, 70, 3))


def authors(tensors, prefix):
    """The names of the authors' files: one list of blocks, positions and reductions."""
    starts = {"stages.0.blocks": 0, "stages.1.downsample": 1, "stages.1.blocks": 2}
    starts |= {"stages.2.downsample": 3, "stages.2.pos_emb": 4, "stages.2.blocks": 5}
    older = {}
    for key, value in tensors.items():
        for start, number in starts.items():
            key = key.replace(start, f"network.{number}")
        for ours, theirs in (
            *(("stem", "patch_embed"), ("conv_kxk", "rbr_conv"), ("conv_scale", "rbr_scale")),
            *(("identity", "rbr_skip"), ("final_conv", "conv_exp"), ("mlp", "convffn")),
            *(("large_conv", "lkb_origin"), ("pos_enc", "pe"), ("se.fc1", "se.reduce")),
            *(("se.fc2", "se.expand"), (".gamma", ""), ("head.fc.", "head.")),
        ):
            key = key.replace(ours, theirs)
        older[f"{prefix}{key}"] = value
    return older


@pytest.mark.parametrize(
    ("name", "prefix"), [("fastvit_sa12", ""), ("fastvit_mci0", "image_encoder.model.")]
)
def test_names_of_the_authors(name, prefix):
    reference, tensors = reference_of(name)
    file = authors(tensors, prefix)
    if prefix:
        # CLIP's projection has no bias.
        del file[f"{prefix}head.bias"]
        file[f"{prefix}head.proj"] = file.pop(f"{prefix}head.weight").T
        tensors["head.fc.bias"] = np.zeros(5, np.float32)
    assert f"{prefix}patch_embed.0.rbr_conv.0.conv.weight" in file
    named = {key: torch.tensor(value) for key, value in file.items()}
    assert fastvit.checkpoint_filter_fn(named, reference).keys() == tensors.keys()
    model = fz.models.get(name, input_shape=(32, 32, 3), **SMALL)
    assert_exports(with_reference(model, file, source="a file"), tensors)


def test_names_of_openclip():
    name = "fastvit_mci0"
    _, tensors = reference_of(name)
    file = {f"module.visual.trunk.{key}": value for key, value in tensors.items()}
    file["module.text.positions"] = np.zeros(3, np.float32)
    model = fz.models.get(name, input_shape=(32, 32, 3), **SMALL)
    exported = with_reference(model, file, source="a file").to_torch_state_dict(as_numpy=True)
    for key, value in exported.items():
        np.testing.assert_array_equal(value, tensors[key], err_msg=key)
