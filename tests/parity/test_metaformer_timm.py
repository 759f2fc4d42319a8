"""MetaFormers against timm: images of odd sizes, the authors' files, features."""

import re

import numpy as np
import pytest
from parity.pairs import assert_exports, load_into, outputs_of

import flaxzoo as fz
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
metaformer = pytest.importorskip("timm.models.metaformer")

pytestmark = pytest.mark.family("metaformer")

NAME = "caformer_s18"
SMALL = {"layers": (1, 1, 1, 1), "widths": (8, 16, 32, 64), "num_classes": 5}
SMALL_TIMM = {"depths": (1, 1, 1, 1), "dims": (8, 16, 32, 64), "num_classes": 5}
CONV, ATTENTION = metaformer.SepConv, metaformer.Attention
KINDS = {
    "caformer_s18": {
        "token_mixers": [CONV, CONV, ATTENTION, ATTENTION],
        "norm_layers": [metaformer.LayerNorm2dNoBias] * 2 + [metaformer.LayerNormNoBias] * 2,
    },
    "poolformer_s12": {
        "norm_layers": metaformer.GroupNorm1,
        "mlp_act": torch.nn.GELU,
        "mlp_bias": True,
        "downsample_norm": None,
        "layer_scale_init_values": 1e-5,
        "res_scale_init_values": None,
        "use_mlp_head": False,
    },
}


def reference_of(name, **options):
    # timm's functions of these names take neither depths nor widths.
    reference = metaformer._create_metaformer(name, **{**KINDS[name], **SMALL_TIMM, **options})
    tensors = fill_reference(reference)
    return reference.eval(), tensors


@pytest.mark.parametrize("size", [(37, 61), (3, 40)])
def test_images_of_any_size(size):
    reference, tensors = reference_of(NAME)
    model = with_reference(fz.models.get(NAME, **SMALL), tensors, source="random weights")
    images = synthetic_images((2, *size, 3), 0)
    expected = outputs_of(reference, images)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)


def test_without_classes_the_hidden_layer_is_gone():
    reference, tensors = reference_of(NAME)
    bare = fz.models.get(NAME, **{**SMALL, "num_classes": 0})
    loaded = load_into(bare, tensors, fresh_classifier=True)
    assert loaded[1] == ()
    model = bare.with_variables(loaded[0])
    reference.reset_classifier(0)
    assert model.to_torch_state_dict(as_numpy=True).keys() == reference.state_dict().keys()
    images = synthetic_images((2, 32, 32, 3), 0)
    expected = outputs_of(reference, images)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)


def first_authors_names(key):
    """PoolFormer's: what leads to a stage stands between the stages, in one list."""
    key = re.sub(r"^stem\.conv", "patch_embed.proj", key)
    key = re.sub(
        r"^stages\.(\d)\.downsample\.conv", lambda m: f"network.{2 * int(m[1]) - 1}.proj", key
    )
    key = re.sub(r"^stages\.(\d)\.blocks", lambda m: f"network.{2 * int(m[1])}", key)
    key = re.sub(r"layer_scale(\d)\.scale", r"layer_scale_\1", key)
    return re.sub(r"^head\.(fc\.|(?=norm))", lambda m: "head." if m[1] else "", key)


def later_authors_names(key):
    key = re.sub(r"^stem\.", "downsample_layers.0.", key)
    key = key.replace("downsample_layers.0.norm", "downsample_layers.0.post_norm")
    key = re.sub(r"^stages\.(\d)\.downsample\.norm", r"downsample_layers.\1.pre_norm", key)
    key = re.sub(r"^stages\.(\d)\.downsample", r"downsample_layers.\1", key)
    key = re.sub(r"^stages\.(\d)\.blocks", r"stages.\1", key)
    return re.sub(r"^head\.(fc\.|(?=norm))", lambda m: "head." if m[1] else "", key)


@pytest.mark.parametrize(
    ("name", "rename"),
    [("poolformer_s12", first_authors_names), (NAME, later_authors_names)],
)
def test_the_authors_files(name, rename):
    reference, tensors = reference_of(name)
    old = {rename(key): value for key, value in tensors.items()}
    if name == NAME:
        # Theirs are linear layers everywhere.
        old = {
            key: value[:, :, 0, 0] if re.search(r"(pwconv|fc)\d\.weight", key) and value.ndim == 4
            else value
            for key, value in old.items()
        }  # fmt: skip
    assert "stem.conv.weight" not in old
    state = {key: torch.tensor(value) for key, value in old.items()}
    assert set(metaformer.checkpoint_filter_fn(state, reference)) == set(tensors)
    bare = fz.models.get(name, **SMALL)
    assert_exports(with_reference(bare, old, source="an old file"), tensors)
