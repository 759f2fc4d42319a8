import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError, UnknownArgumentError
from flaxzoo.models.heads import Head
from flaxzoo.models.vision_transformer import VisionTransformer

pytestmark = pytest.mark.family("vision_transformer")

TINY = {"width": 8, "depth": 2, "heads": 2, "patch_size": 8, "input_shape": (16, 24, 3)}


def test_tokens_maps_and_pooling():
    model = fz.models.get("test_vit2", num_classes=3, **TINY).init(rng=0)
    x = jnp.asarray(np.random.default_rng(0).random((2, 16, 24, 3)), jnp.float32)
    tokens = model.features(x)
    assert tokens.shape == (2, 1 + 6, 8)
    maps = model.feature_maps(x)
    assert {name: value.shape for name, value in maps.items()} == {
        "blocks_0": (2, 2, 3, 8),
        "blocks_1": (2, 2, 3, 8),
    }
    # The last norm stands behind the pooling.
    np.testing.assert_array_equal(tokens[:, 1:].reshape(2, 2, 3, 8), maps["blocks_1"])
    head = fz.Classifier(backbone=model.module.backbone, head=Head(2)).head
    assert (head.pooling, head.prefix_tokens) == ("avg", 1)


@pytest.mark.parametrize("pooling", ["token", "max", "avg+max", "attention", None])
def test_another_pooling(pooling):
    model = fz.models.get("test_vit", pooling=pooling, num_classes=3, **TINY).init(rng=0)
    shape = (2, 7, 3) if pooling is None else (2, 3)
    assert model(jnp.zeros((2, 16, 24, 3))).shape == shape


def test_softmax_is_float32_in_bfloat16():
    fields = {"num_classes": 3, **TINY}
    model = fz.models.get("test_vit", **fields).init(rng=0)
    half = fz.models.get("test_vit", dtype=jnp.bfloat16, **fields)
    x = jnp.asarray(np.random.default_rng(0).random((2, 16, 24, 3)), jnp.float32)
    out = half.module.apply(model.variables, x)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(out.astype(jnp.float32), model(x), atol=0.05)
    jaxpr = jax.make_jaxpr(half.module.apply)(model.variables, x)
    exponentials = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "exp"]
    assert all(eqn.invars[0].aval.dtype == jnp.float32 for eqn in exponentials)


def test_images_of_another_size():
    model = fz.models.get("vit_tiny_patch16_224", num_classes=3, **TINY).init(rng=0)
    message = r"images must be of 16 x 24, got \[1, 24, 16, 3\]: .*dynamic_size=True"
    with pytest.raises(ShapeError, match=message):
        model(jnp.zeros((1, 24, 16, 3)))


def test_timms_keywords_are_translated():
    with pytest.raises(UnknownArgumentError, match="timm's 'embed_dim' is called 'width' here"):
        fz.models.get("test_vit", embed_dim=8)


def test_fields_are_checked():
    for fields, message in (
        ({"width": 10, "heads": 4}, "width must be a multiple of heads=4, got 10"),
        ({"depth": 0}, "depth must be"),
        ({"block": "pro"}, "block must be one of"),
        ({"mlp": "glue"}, "mlp must be one of"),
        ({"class_token": False}, "takes the class token, and class_token is False"),
        ({"input_shape": (8, 224, 3)}, "at least one patch of 16 x 16"),
        ({"patch_dropout": 1.5}, "patch_dropout must be"),
    ):
        with pytest.raises(ValueError, match=message):
            VisionTransformer(**fields)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_vit", r"whole patches of patch_size=16, got \[1, 40, 48, 3\]: crop or resize them"),
        ("vit_tiny_patch16_224", r"must be of 32 x 48, got \[1, 40, 48, 3\]: give get\(\) their"),
        ("deit_tiny_patch16_224", r"must be of 32 x 48, got .*input_shape=, or dynamic_size=True"),
        ("beit_base_patch16_224", r"must be of 32 x 48, got .*: give get\(\) their input_shape="),
    ],
)
def test_what_is_no_image_of_its(name, message):
    """Of a size that patches do not divide, and tokens instead of images."""
    fields = {"width": 8, "depth": 1, "heads": 2, "num_classes": 3}
    model = fz.models.get(name, input_shape=(32, 48, 3), **fields).init(rng=0)
    with pytest.raises(ShapeError, match=message):
        model(jnp.zeros((1, 40, 48, 3)))
    with pytest.raises(ShapeError, match=r"images must have shape \[B, H, W, C\], got \[1, 7, 8\]"):
        model(jnp.zeros((1, 7, 8)))
