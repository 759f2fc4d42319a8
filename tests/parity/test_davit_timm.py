"""DaViT against timm: sizes, names, Microsoft's files."""

import numpy as np
import pytest
from parity.pairs import outputs_of, pair_of

from flaxzoo._trees import flatten
from flaxzoo.models.davit import _convert
from flaxzoo.models.registry import MODELS
from flaxzoo.weights.names import reference_name
from flaxzoo.weights.synthetic import synthetic_images

pytest.importorskip("torch")
timm = pytest.importorskip("timm")
davit = pytest.importorskip("timm.models.davit")

pytestmark = pytest.mark.family("davit")

SMALL = {"widths": (8, 12), "heads": (1, 2), "layers": (1, 2), "window_size": 4}
SMALL_TIMM = {"embed_dims": (8, 12), "num_heads": (1, 2), "depths": (1, 2), "window_size": 4}
both = pytest.mark.parametrize("name", ["davit_tiny", "davit_base_fl"])


def pair(name):
    """Ours and timm's with the same random weights, and these."""
    return pair_of(name, SMALL, SMALL_TIMM, classes=5)


@both
def test_images_of_any_size(name):
    model, reference, _ = pair(name)
    for size in ((32, 48), (37, 30), (64, 20)):
        images = synthetic_images((2, *size, 3), 0)
        expected = outputs_of(reference, images)
        limit = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)


@both
def test_names_are_timms_in_both_directions(name):
    model, _, tensors = pair(name)
    rules = MODELS.architecture(name).reference
    assert sorted(reference_name(path, rules) for path in flatten(model.shapes())) == sorted(
        tensors
    )
    for key, value in model.to_torch_state_dict(as_numpy=True).items():
        np.testing.assert_array_equal(value, tensors[key])


def renamed(tensors, pairs):
    """The tensors with parts of their names exchanged, one after the other."""
    files = {}
    for key, value in tensors.items():
        for ours, theirs in pairs:
            key = key.replace(ours, theirs)
        files[key] = value
    return files


def test_the_authors_files():
    _, reference, tensors = pair("davit_tiny")
    files = renamed(
        tensors,
        (
            *(("stem.", "patch_embeds.0."), ("stages.1.downsample.", "patch_embeds.1.")),
            *(("s.0.conv.", "s.0.proj."), ("s.1.conv.", "s.1.proj."), ("head.norm.", "norms.")),
            *(("stages.0.blocks", "main_blocks.0"), ("stages.1.blocks", "main_blocks.1")),
            *(("cpe1", "cpe.0"), ("cpe2", "cpe.1"), ("head.fc.", "head.")),
        ),
    )
    assert "main_blocks.1.0.1.cpe.0.proj.weight" in files
    assert _convert(files, None).keys() == tensors.keys()
    assert davit.checkpoint_filter_fn(files, reference).keys() == tensors.keys()


def test_the_tower_in_florence_s_files():
    _, reference, tensors = pair("davit_base_fl")
    tower = {key: value for key, value in tensors.items() if not key.startswith("head")}
    files = {}
    for key, value in tower.items():
        mixes = "window_attn" if "spatial" in key else "channel_attn"
        (key,) = renamed(
            {key: value},
            (
                *(("stem.conv", "convs.0.proj"), ("stem.", "convs.0.")),
                *(("stages.1.downsample.conv", "convs.1.proj"), ("stages.1.downsample", "convs.1")),
                *(("stages.0.blocks", "blocks.0"), ("stages.1.blocks", "blocks.1")),
                *(("norm1.", f"{mixes}.norm."), (".attn.", f".{mixes}.fn.")),
                *(("norm2.", "ffn.norm."), ("mlp.", "ffn.fn.net.")),
                *(("cpe1.proj", "conv1.fn.dw"), ("cpe2.proj", "conv2.fn.dw")),
            ),
        )
        files[f"vision_tower.{key}"] = value
    files["language_model.lm_head.weight"] = np.zeros((2, 2))
    assert "vision_tower.blocks.1.0.channel_block.channel_attn.fn.qkv.weight" in files
    assert _convert(files, None).keys() == tower.keys()
    assert davit.checkpoint_filter_fn(files, reference).keys() == tower.keys()
