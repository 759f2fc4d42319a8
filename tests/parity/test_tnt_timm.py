"""TNT against timm: other sizes and poolings, the authors' files."""

import numpy as np
import pytest
from parity.pairs import assert_exports, assert_same, load_resized

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
tnt = pytest.importorskip("timm.models.tnt")

pytestmark = pytest.mark.family("tnt")

NAMES = ("tnt_s_patch16_224", "tnt_s_legacy_patch16_224")
SMALL = {"num_classes": 5, "depth": 1}
# Of the authors' files: today's names, and theirs of what today's hold.
OLD = (
    ("patch_pos", "outer_pos"),
    ("pixel_pos", "inner_pos"),
    ("pixel_embed", "patch_embed"),
    ("norm_mlp_in", "inner_norm2"),
    ("norm_in", "inner_norm1"),
    ("attn_in", "inner_attn"),
    ("mlp_in", "inner_mlp"),
    ("norm_mlp.", "outer_norm2."),
    ("norm_out", "outer_norm1"),
    ("attn_out", "outer_attn"),
    (".mlp.", ".outer_mlp."),
    ("norm1_proj", "proj_norm1"),
    ("norm2_proj", "proj_norm2"),
)


def reference_of(name, size, **options):
    """timm's with random weights, and these."""
    reference = timm.create_model(name, img_size=size, **SMALL, **options).eval()
    return reference, fill_reference(reference)


@pytest.mark.parametrize(
    ("name", "size", "fields", "options", "pooling"),
    [
        # Neither images nor patches are whole.
        (NAMES[0], (37, 50), {"patch_size": 18}, {"patch_size": 18}, "avg"),
        (NAMES[0], (32, 48), {"pixel_size": 8}, {"first_stride": 8}, "token"),
        # Where the last pixels, but no more, are left out.
        (NAMES[1], (36, 55), {"qkv_bias": True}, {"qkv_bias": True}, "token"),
    ],
)
def test_other_sizes_and_poolings(name, size, fields, options, pooling):
    reference, tensors = reference_of(name, size, global_pool=pooling, **options)
    model = fz.models.get(name, input_shape=(*size, 3), **SMALL, **fields)
    model = with_reference(model, tensors, source="random weights")
    head = model.module.head.clone(pooling=pooling)
    model = fz.Model(model.module.clone(head=head), model.variables, model.spec)
    assert_same(model, reference, (*size, 3))
    assert_exports(model, tensors)


@pytest.mark.parametrize("name", NAMES)
def test_the_authors_files(name):
    reference, tensors = reference_of(name, (32, 48))
    authors = {"outer_tokens": np.zeros((1, 6, 384), np.float32)}
    for key, value in tensors.items():
        if key == "pixel_pos" and name == NAMES[0]:
            value = value.reshape(1, 24, 16).swapaxes(1, 2)
        for today, old in OLD:
            key = key.replace(today, old)
        authors[key] = value
    converted = tnt.checkpoint_filter_fn(
        {key: torch.tensor(value) for key, value in authors.items()}, reference
    )
    assert converted.keys() == tensors.keys()
    model = fz.models.get(name, input_shape=(32, 48, 3), **SMALL)
    model = with_reference(model, authors, source="the authors' file")
    exported = model.to_torch_state_dict(as_numpy=True)
    for key, value in tensors.items():
        np.testing.assert_array_equal(exported[key], value, err_msg=key)
        np.testing.assert_array_equal(converted[key], value, err_msg=key)


@pytest.mark.parametrize(("old", "new"), [((64, 64), (96, 112)), ((48, 48), (112, 96))])
def test_positions_for_images_of_another_size(old, new):
    _, tensors = reference_of(NAMES[0], old)
    reference, _ = reference_of(NAMES[0], new)
    model = fz.models.get(NAMES[0], input_shape=(*new, 3), **SMALL)
    model = load_resized(model, tensors, (*old, 3))
    expected = tnt.checkpoint_filter_fn(
        {key: torch.tensor(value) for key, value in tensors.items()}, reference
    )["patch_pos"]
    positions = flatten(model.variables)["params/backbone/patch_pos"]
    np.testing.assert_allclose(positions, expected.numpy(), rtol=0, atol=1e-6)
