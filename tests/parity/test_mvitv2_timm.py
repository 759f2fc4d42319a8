"""MViT v2 against timm: tables for images of another size, the authors' files."""

import re

import numpy as np
import pytest
from parity.pairs import load_resized, outputs_of

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
mvitv2 = pytest.importorskip("timm.models.mvitv2")

pytestmark = pytest.mark.family("mvitv2")

SMALL = {"layers": (1, 2), "width": 8, "key_stride": 2, "num_classes": 5}


def reference_of(name, size):
    # timm has the sizes in a table, not as keywords.
    usual = mvitv2.model_cfgs[name]
    config = mvitv2.MultiScaleVitCfg(
        depths=(1, 2),
        embed_dim=8,
        stride_q=((1, 1), (2, 2)),
        stride_kv_adaptive=(2, 2),
        expand_attn=usual.expand_attn,
        use_cls_token=usual.use_cls_token,
    )
    reference = mvitv2.MultiScaleVit(config, img_size=size, num_classes=5)
    tensors = fill_reference(reference)
    return reference.eval(), tensors


def check(model, reference):
    images = synthetic_images((2, *model.spec.input_shape), 0)
    expected = outputs_of(reference, images)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)


@pytest.mark.parametrize(("old", "new"), [(32, 48), (48, 24)])
def test_weights_for_images_of_another_size(old, new):
    name = "mvitv2_small_cls"
    _, tensors = reference_of(name, (old, old))
    model = fz.models.get(name, input_shape=(new, new, 3), **SMALL)
    model = load_resized(model, tensors, (old, old, 3))
    reference, _ = reference_of(name, (new, new))
    state = {key: torch.tensor(value) for key, value in tensors.items()}
    reference.load_state_dict(mvitv2.checkpoint_filter_fn(state, reference))
    check(model, reference)


@pytest.mark.parametrize("name", ["mvitv2_tiny", "mvitv2_large"])
def test_the_authors_files(name):
    reference, tensors = reference_of(name, (16, 16))
    blocks = {"stages.0.blocks.0": "blocks.0", "stages.1.blocks.0": "blocks.1"}
    blocks["stages.1.blocks.1"] = "blocks.2"

    def old(key):
        for new, place in blocks.items():
            key = key.replace(f"{new}.", f"{place}.")
        key = re.sub(r"shortcut_proj_(attn|mlp)", "proj", key)
        return key.replace("head.fc", "head.projection")

    authors = {old(key): value for key, value in tensors.items()}
    assert "blocks.2.attn.proj.weight" in authors
    assert set(mvitv2.checkpoint_filter_fn(authors, reference)) == set(tensors)
    fields = {"heads": 1, **SMALL}
    bare = fz.models.get(name, input_shape=(16, 16, 3), **fields)
    exported = with_reference(bare, authors, source="an old file").to_torch_state_dict(
        as_numpy=True
    )
    assert exported.keys() == tensors.keys()
    for key, value in exported.items():
        np.testing.assert_array_equal(value, tensors[key])
