"""Hybrids against timm: images of other sizes, Apple's files."""

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same, load_resized

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
hybrid = pytest.importorskip("timm.models.vision_transformer_hybrid")

pytestmark = pytest.mark.family("vision_transformer_hybrid")

KINDS = {kind.name: kind for kind in FAMILIES["vision_transformer_hybrid"].kinds}


def reference_of(name, size, **options):
    """timm's small network for images of a size."""
    kind = KINDS[name]
    create = kind.create or timm.create_model
    return create(name, num_classes=5, img_size=size, **kind.timm, **options).eval()


def close(model, reference, size):
    assert_same(model, reference, (*size, 3))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("vit_tiny_r_s16_p8_224", (64, 64), (96, 32)),
        ("vit_base_mci_224", (64, 64), (50, 100)),
        ("vit_base_resnet26d_224", (32, 32), (33, 52)),
        ("vit_small_r26_s32_224", (32, 32), (33, 52)),
    ],
)
def test_weights_for_images_of_another_size(name, old, new):
    reference = reference_of(name, old)
    tensors = fill_reference(reference)
    model = fz.models.get(name, input_shape=(*new, 3), num_classes=5, **KINDS[name].fields)
    model = load_resized(model, tensors, (*old, 3))
    fresh = reference_of(name, new)
    state = {key: torch.tensor(value) for key, value in tensors.items()}
    fresh.load_state_dict(hybrid.checkpoint_filter_fn(state, fresh), strict=False)
    close(model, fresh, new)
    # At call, with weights of the old size.
    fields = {"input_shape": (*old, 3), "num_classes": 5, **KINDS[name].fields}
    dynamic = fz.models.get(name, dynamic_size=True, **fields)
    dynamic = with_reference(dynamic, tensors, source="memory")
    free = reference_of(name, old, dynamic_img_size=True)
    free.load_state_dict(state, strict=False)
    # timm takes the sides of its maps as rounded down, of whichever network.
    close(dynamic, free, tuple(side // 8 * 8 for side in new))


def authors(tensors):
    """Apple's names of MobileCLIP-B's tensors, whose projection has no bias."""
    older = {}
    for key, value in tensors.items():
        if key == "head.bias":
            continue
        if key == "head.weight":
            key, value = "classifier.proj", value.T
        elif key == "pos_embed":
            key, value = "pos_embed.pos_embed.pos_embed", value[None]
        for ours, theirs in (
            *(("patch_embed.backbone.", "patch_emb."), (".conv.", ".block.conv.")),
            *((".bn.", ".block.norm."), (".norm1.", ".pre_norm_mha.0.")),
            *((".norm2.", ".pre_norm_ffn.0."), (".attn.proj.", ".attn.out_proj.")),
            *((".qkv.", ".qkv_proj."), (".attn.", ".pre_norm_mha.1.")),
            *((".mlp.fc1.", ".pre_norm_ffn.1."), (".mlp.fc2.", ".pre_norm_ffn.4.")),
        ):
            key = key.replace(ours, theirs)
        for ours, theirs in (("norm.", "post_transformer_norm."), ("blocks.", "transformer.")):
            key = theirs + key.removeprefix(ours) if key.startswith(ours) else key
        older[f"image_encoder.model.{key}"] = value
    return older


def test_the_authors_files():
    name, size = "vit_base_mci_224", (32, 32)
    reference = reference_of(name, size)
    tensors = fill_reference(reference)
    tensors["head.bias"] = np.zeros(5, np.float32)
    file = {**authors(tensors), "text_encoder.scale": np.ones(1, np.float32)}
    assert "image_encoder.model.patch_emb.0.block.conv.weight" in file
    state = {key: torch.tensor(value) for key, value in file.items()}
    assert hybrid.checkpoint_filter_fn(state, reference).keys() == tensors.keys()
    model = fz.models.get(name, input_shape=(*size, 3), num_classes=5, **KINDS[name].fields)
    exported = with_reference(model, file, source="a file").to_torch_state_dict(as_numpy=True)
    for key, value in tensors.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)
