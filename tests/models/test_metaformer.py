"""MetaFormers: what mixes the pixels, sizes of images, refusals."""

import jax
import pytest

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.errors import ShapeError
from flaxzoo.models.metaformer import MetaFormer

pytestmark = pytest.mark.family("metaformer")

TINY = {"layers": (1, 1), "widths": (8, 12), "residual_scales": (None, 1.0), "head_dim": 4}


def tiny(name="caformer_s18", **fields):
    return fz.models.get(name, num_classes=3, **{**TINY, "mixers": ("conv", "attention"), **fields})


def parameters(model):
    return flatten(model.shapes()["params"]["backbone"])


def test_what_mixes_the_pixels():
    leaves = parameters(tiny())
    first, second = "stages_0_blocks_0", "stages_1_blocks_0"
    assert leaves[f"{first}/token_mixer/dwconv/kernel"].shape == (7, 7, 1, 16)
    assert leaves[f"{first}/mlp/fc1/kernel"].shape == (1, 1, 8, 32)
    assert leaves[f"{second}/token_mixer/qkv/kernel"].shape == (12, 36)
    # timm's stages of attention have linear layers.
    assert leaves[f"{second}/mlp/fc1/kernel"].shape == (12, 48)
    assert leaves[f"{second}/res_scale1/scale"].shape == (12,)
    assert f"{first}/res_scale1/scale" not in leaves
    pooled = parameters(tiny(mixers=("pool", "pool")))
    assert not any("token_mixer" in path for path in pooled)


def test_images_of_any_size():
    model = tiny(mixers=("pool", "conv"))
    shapes = jax.tree.map(lambda leaf: leaf.shape, model.shapes())
    for size, maps in (((3, 5), [(1, 1), (1, 1)]), ((17, 40), [(4, 10), (2, 5)])):
        images = jax.ShapeDtypeStruct((2, *size, 3), "float32")
        backbone = model.module.backbone.clone(feature_maps=True)
        variables = {"params": model.shapes()["params"]["backbone"]}
        out = jax.eval_shape(backbone.apply, variables, images)
        assert [leaf.shape[1:3] for leaf in out.values()] == maps
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, tiny(mixers=("pool", "conv")).shapes())
    with pytest.raises(ShapeError, match=r"images must be of at least 3 x 3, got \[2, 2, 40, 3\]"):
        jax.eval_shape(backbone.apply, variables, jax.ShapeDtypeStruct((2, 2, 40, 3), "float32"))


def test_the_hidden_layer_belongs_to_the_classifier():
    model = tiny()
    head = model.shapes()["params"]["head"]
    assert set(head) == {"norm", "dense_0", "norm_0", "fc"}
    assert head["dense_0"]["kernel"].shape == (12, 48)
    bare = fz.models.get("caformer_s18", num_classes=0, mixers=("conv", "attention"), **TINY)
    assert set(bare.shapes()["params"]["head"]) == {"norm"}
    plain = fz.models.get("poolformerv2_s12", num_classes=3, mixers=("pool", "pool"), **TINY)
    assert set(plain.shapes()["params"]["head"]) == {"norm", "fc"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mixers": ("conv", "attn")}, "mixer must be one of 'pool', 'conv', 'attention'"),
        ({"mixers": ("conv",)}, "mixers and residual_scales must be of one length"),
        ({"head_dim": 5}, "must be multiples of head_dim=5, got 12"),
        ({"residual_scales": (None, "1")}, "residual_scales must be"),
        ({"activation": "star"}, "unknown activation 'star'"),
        ({"norm": "groups"}, "norm must be one of"),
        ({"downsample_norm": "layr"}, "norm must be one of"),
        ({"drop_path": 1.5}, "drop_path must be"),
        ({"implementation": "flash"}, "implementation must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises((ValueError, KeyError), match=message):
        MetaFormer(**{**TINY, "mixers": ("conv", "attention"), **fields})
