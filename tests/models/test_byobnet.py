"""Networks of given blocks: stems, gates, positions, files of CLIP, and what does not fit."""

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.byobnet import BilinearAttention, ByobNet, ClipResNet, convert, convert_gap

pytestmark = pytest.mark.family("byobnet")

TINY = {
    "kinds": ("bottleneck", "rep"),
    "layers": (1, 1),
    "widths": (8, 16),
    "strides": (1, 2),
    "group_sizes": (0, 0),
    "ratios": (1.0, 1.0),
}
CLIP = {**TINY, "kinds": ("bottleneck",) * 2, "widths": (8, 64), "stem_widths": (4, 4, 8)}


@pytest.mark.parametrize(
    ("fields", "names", "maps"),
    [
        ({"stem_widths": (4, 8)}, {"stem_conv1", "stem_conv2"}, {"stem": 2}),
        ({"stem_widths": (8,), "stem_pool": "max"}, {"stem_conv1"}, {"stem": 2}),
        ({"stem_widths": (8,)}, {"stem"}, {}),
        ({"stem_widths": (8,), "stem": "rep", "strides": (2, 2)}, {"stem"}, {"stem": 2}),
    ],
)
def test_stems(fields, names, maps):
    network = ByobNet(**{**TINY, **fields})
    stages = network.stages()
    assert set(stages["stem"]) == names
    assert {k: v for k, v in network.reductions().items() if k == "stem"} == maps


def test_gates_of_the_last_blocks_alone():
    fields = {**TINY, "kinds": ("one", "one"), "layers": (2, 4), "strides": (2, 2)}
    fields |= {"stem": "one", "stem_widths": (4,), "gate": "se", "gated": (0, 2)}
    model = fz.models.get("mobileone_s4", input_shape=(32, 32, 3), num_classes=2, **fields)
    blocks = model.shapes()["params"]["backbone"]
    assert [name for name, own in blocks.items() if "attn" in own] == ["stages_1_2", "stages_1_3"]


def test_positions_follow_the_images():
    def model(size, **options):
        shape = (*size, 3)
        return fz.models.get("resnet50_clip", input_shape=shape, num_classes=2, **CLIP, **options)

    first = model((32, 32)).init(rng=0)
    assert first.variables["params"]["head"]["attn_pool"]["pos_embed"].shape == (1 + 16, 64)
    assert first(np.zeros((1, 48, 64, 3), np.float32)).shape == (1, 2)
    assert model((48, 64)).shapes()["params"]["head"]["attn_pool"]["pos_embed"].shape[0] == 49


def test_weights_are_resampled_for_images_of_another_size(tmp_path):
    options = {"num_classes": 2, **CLIP}
    first = fz.models.get("resnet50_clip", input_shape=(32, 32, 3), **options).init(rng=0)
    first.save(tmp_path)
    options |= {"input_shape": (48, 64, 3), "pretrained": tmp_path}
    second = fz.models.get("resnet50_clip", **options)
    images = np.random.default_rng(0).random((1, 48, 64, 3), np.float32)
    np.testing.assert_allclose(second(images), first(images), atol=1e-5)


def test_openai_s_files():
    names = {
        "visual.conv1.weight": "stem.conv1.conv.weight",
        "visual.bn3.bias": "stem.conv3.bn.bias",
        "visual.layer2.0.conv3.weight": "stages.1.0.conv3_1x1.conv.weight",
        "visual.layer4.1.bn2.running_var": "stages.3.1.conv2_kxk.bn.running_var",
        "visual.layer1.0.downsample.0.weight": "stages.0.0.shortcut.conv.conv.weight",
        "visual.layer1.0.downsample.1.weight": "stages.0.0.shortcut.conv.bn.weight",
        "visual.attnpool.positional_embedding": "head.pos_embed",
        "visual.attnpool.k_proj.bias": "head.k.bias",
        "visual.attnpool.c_proj.weight": "head.proj.weight",
        "transformer.resblocks.0.attn.in_proj_weight": None,
    }
    tensors = {name: np.zeros(1) for name in names}
    expected = {name for name in names.values() if name}
    assert set(convert(tensors, None)) == expected
    assert set(convert_gap(tensors, None)) == {n for n in expected if not n.startswith("head.")}
    today = {"stem.conv1.conv.weight": np.zeros(1)}
    assert convert(today, None) is convert_gap(today, None) is today


def test_bilinear_attention_takes_whole_blocks():
    module = BilinearAttention(blocks=4)
    with pytest.raises(ShapeError, match="multiple of 256 pixels"):
        module.init(jax.random.key(0), np.zeros((1, 6, 8, 16), np.float32))


@pytest.mark.parametrize(
    ("network", "fields", "message"),
    [
        (ByobNet, {"kinds": ("rep", "botleneck")}, "Did you mean 'bottleneck'"),
        (ByobNet, {"layers": (1,)}, "must be of one length"),
        (ByobNet, {"gated": (1,)}, "must be of one length"),
        (ByobNet, {"gated": (-1, 0)}, "gated must be"),
        (ByobNet, {"group_sizes": (0, -1)}, "group_sizes must be"),
        (ByobNet, {"ratios": (1.0, 0.0)}, "ratios must be"),
        (ByobNet, {"stem": "rep"}, "it takes one of stem_widths"),
        (ByobNet, {"shortcut": "none at all"}, "shortcut must be"),
        (ByobNet, {"output_stride": 4}, "output_stride must be 8, 16 or 32"),
        (ByobNet, {"kinds": ("edge", "dark"), "fused": True}, "of kind 'rep' or 'one'"),
        (ByobNet, {"final_width": 0}, "final_width must be"),
        (ClipResNet, {"input_shape": (8, 4, 3)}, "at least 1 x 1 pixels"),
        (ClipResNet, {"implementation": "flash"}, "implementation must be one of"),
    ],
)
def test_fields_that_do_not_fit(network, fields, message):
    with pytest.raises(ValueError, match=message):
        network(**{**TINY, **fields})
