"""EVA's positions, tokens and pooling, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.eva import Eva

pytestmark = pytest.mark.family("eva")

TINY = {"width": 16, "depth": 2, "heads": 2, "patch_size": 8, "input_shape": (16, 24, 3)}
MIXED = "vit_small_patch16_rope_mixed_224"
DINO = "vit_small_patch16_dinov3"
IMAGES = np.random.default_rng(0).random((2, 16, 24, 3)).astype(np.float32)


def get(name, **fields):
    return fz.models.get(name, num_classes=3, **{**TINY, **fields})


def test_tokens_and_maps():
    model = get(DINO).init(rng=0)
    assert model.features(IMAGES).shape == (2, 1 + 4 + 6, 16)
    assert [m.shape for m in model.feature_maps(IMAGES).values()] == [(2, 2, 3, 16)] * 2


def test_images_of_any_size():
    model = get(DINO).init(rng=0)
    assert model(np.zeros((1, 24, 8, 3), np.float32)).shape == (1, 3)
    # Coordinates go over the whole image, whatever it has of patches.
    same = get(DINO, input_shape=(24, 8, 3)).with_variables(model.variables)
    large = np.random.default_rng(1).random((1, 24, 8, 3)).astype(np.float32)
    np.testing.assert_array_equal(model(large), same(large))
    fixed = get("vit_small_patch16_rope_224").init(rng=0)
    with pytest.raises(ShapeError, match=r"images must be of 16 x 24.* or dynamic_size=True"):
        fixed(large)
    with pytest.raises(ShapeError, match="multiples of those of patches, 8 and 8"):
        model(np.zeros((1, 20, 8, 3), np.float32))


def test_frequencies_go_with_the_blocks_that_read_them():
    model = get(MIXED).init(rng=0)
    assert model.variables["params"]["backbone"]["rope"]["freqs"].shape == (2, 2, 2, 4)
    assert model.module.backbone.no_weight_decay() == ("cls_token", "rope/freqs")
    tail = fz.transfer.slice_model(model, start="blocks_1")
    assert set(tail.variables["params"]["backbone"]) == {"rope", "blocks_1", "norm"}
    last = fz.transfer.slice_model(tail, start="blocks_1", stop="norm")
    assert set(last.variables["params"]["backbone"]) == {"rope", "blocks_1"}
    front = fz.transfer.slice_model(model, stop="blocks_1")
    np.testing.assert_allclose(tail(front(IMAGES)), model(IMAGES), atol=1e-6)
    # They learn at the head's rate, as timm counts them.
    rates = fz.transfer.layer_decay_rates(model, 1.0, 0.5)
    assert rates["backbone/rope"] == rates["head"] == 1.0


def test_dropped_patches_keep_their_positions():
    model = get(MIXED, patch_dropout=0.5, layer_scale=None).init(rng=0)
    rngs = {"dropout": jax.random.key(1)}
    backbone = model.module.backbone
    variables = {"params": model.variables["params"]["backbone"]}
    run = jax.jit(
        lambda x, start, stop: backbone.apply(
            variables, x, start, stop, train=True, rngs=rngs, method="run_stages"
        ),
        static_argnums=(1, 2),
    )
    whole = run(IMAGES, 0, None)
    assert whole.shape == (2, 1 + 3, 16)
    # The range behind draws the same patches again.
    np.testing.assert_allclose(run(run(IMAGES, 0, 2), 2, None), whole, atol=1e-6)


def test_pooling_by_attention_sees_the_class_token():
    model = get("vit_pe_core_base_patch16_224", pool_heads=2).init(rng=0)
    assert model.module.head.prefix_tokens == 0
    assert model(IMAGES).shape == (2, 3)


def test_half_precision():
    model = get(DINO).init(rng=0)
    half = get(DINO, dtype=jnp.bfloat16).module.apply(model.variables, IMAGES)
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(np.float32), model(IMAGES), atol=0.05)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rope": "polar"}, "rope must be one of 'index', 'centred', 'mixed' or None, got 'polar'"),
        ({"rope": "index", "width": 36}, "a multiple of 4 units, got 3"),
        ({"block": "parallel"}, "block must be one of 'pre', 'post'"),
        ({"key_heads": 6}, "take fused_qkv=False where they are fewer, got 6"),
        ({"key_heads": (6, 6), "fused_qkv": False}, "key_heads must be one int or depth=12"),
        ({"class_token": False, "pooling": "token"}, "pooling='token' takes the class token"),
        ({"patch_dropout": 2.0}, "patch_dropout must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        Eva(**fields)
