"""EVA against timm: weights for images of another size, the authors' files."""

import numpy as np
import pytest
from parity.pairs import load_resized, outputs_of

import flaxzoo as fz
from flaxzoo.models.eva import Eva
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import fill_reference, with_reference
from flaxzoo.weights.synthetic import synthetic_images

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
eva = pytest.importorskip("timm.models.eva")

pytestmark = pytest.mark.family("eva")

FIELDS = {"num_classes": 5, "width": 24, "depth": 2, "heads": 3}
TIMM = {"num_classes": 5, "embed_dim": 24, "depth": 2, "num_heads": 3}
PE = "vit_pe_core_base_patch16_224"
DINO = "vit_small_plus_patch16_dinov3_qkvb"
SAPIENS = "vit_base_patch16_sapiens2"
POOL = {"attn_pool_num_heads": 2}


def reference_of(name, size, **options):
    """timm's with random weights, and these."""
    reference = timm.create_model(name, img_size=size, **TIMM, **options)
    tensors = fill_reference(reference)
    return reference.eval(), tensors


def check(model, reference, shape=None):
    images = synthetic_images((2, *(shape or model.spec.input_shape)), 0)
    expected = outputs_of(reference, images)
    limit = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=limit)


def loaded(name, tensors, old, new, **fields):
    """Our model for images of one size, with a file's tensors for another."""
    model = fz.models.get(name, input_shape=(*new, 3), **FIELDS, **fields)
    return load_resized(model, tensors, (*old, 3))


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("eva02_tiny_patch14_224", (42, 42), (28, 56)),
        ("vit_small_patch16_rope_ape_224", (32, 32), (48, 64)),
        ("vit_small_patch16_rope_mixed_224", (32, 32), (48, 32)),
        ("vit_medium_patch16_rope_reg1_gap_256", (32, 48), (64, 32)),
    ],
)
def test_weights_for_images_of_another_size(name, old, new):
    reference, tensors = reference_of(name, old)
    model = loaded(name, tensors, old, new)
    reference.set_input_size(new)
    check(model, reference)
    if old[0] == old[1]:
        # What timm makes of a file, whose size it does not know.
        fresh = timm.create_model(name, img_size=new, **TIMM).eval()
        state = {key: torch.tensor(value) for key, value in tensors.items()}
        fresh.load_state_dict(eva.checkpoint_filter_fn(state, fresh))
        check(model, fresh)


@pytest.mark.parametrize("name", [DINO, "vit_small_patch16_rope_ape_224"])
def test_images_of_another_size_at_call(name):
    reference, tensors = reference_of(name, (32, 48), dynamic_img_size=True)
    model = fz.models.get(name, input_shape=(32, 48, 3), dynamic_size=True, **FIELDS)
    model = with_reference(model, tensors, source="random weights")
    check(model, reference, (64, 32, 3))


def swapped(name, pairs):
    for new, old in pairs:
        name = name.replace(new, old)
    return name


def perception(tensors):
    """The authors' names of the Perception Encoder's tensors."""
    names = (
        *(("patch_embed.proj", "conv1"), ("pos_embed", "positional_embedding")),
        *(("norm_pre", "ln_pre"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj")),
        *(("cls_token", "class_embedding"), ("attn.proj", "attn.out_proj")),
        *(("attn.qkv.", "attn.in_proj_"), ("blocks.", "transformer.resblocks.")),
        *((".norm1", ".ln_1"), (".norm2", ".ln_2")),
    )
    pool = (
        ("attn_pool.proj", "attn_pool.attn.out_proj"),
        ("attn_pool.norm", "attn_pool.layernorm"),
    )
    pool = (*pool, ("latent", "probe"), ("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"))
    old = {}
    for key, value in tensors.items():
        if key.startswith("attn_pool."):
            old[swapped(key, pool)] = value
        elif key.startswith("norm."):
            old[key.replace("norm", "ln_post")] = value
        else:
            old[swapped(key, names)] = value
    old["class_embedding"] = old["class_embedding"][0, 0]
    old["positional_embedding"] = old["positional_embedding"][0]
    old["proj"] = old.pop("head.weight").T.copy()
    del old["head.bias"]
    for kind in ("weight", "bias"):
        parts = [old.pop(f"attn_pool.{name}.{kind}") for name in ("q", "kv")]
        old[f"attn_pool.attn.in_proj_{kind}"] = np.concatenate(parts)
    return {f"visual.{key}": value for key, value in old.items()} | {"text.proj": np.zeros(3)}


def dino(tensors):
    """The authors' names of DINOv3's tensors."""
    names = (("reg_token", "storage_tokens"), ("gamma_", "ls"), ("fc1_g", "w1"), ("fc1_x", "w2"))
    old = {}
    for key, value in tensors.items():
        name = swapped(key, (*names, ("mlp.fc2", "mlp.w3")))
        old[f"{name}.gamma" if ".ls" in name else name] = value
    for i in range(2):
        q, v = (old.pop(f"blocks.{i}.attn.{part}_bias") for part in "qv")
        old[f"blocks.{i}.attn.qkv.bias"] = np.concatenate([q, np.zeros_like(q), v])
        old[f"blocks.{i}.attn.qkv.bias_mask"] = np.zeros(72, np.float32)
    return {**old, "mask_token": np.zeros((1, 24), np.float32), "rope_embed.periods": np.ones(2)}


def sapiens(tensors):
    """The authors' names of Sapiens2's tensors."""
    names = (
        *(("patch_embed.proj", "patch_embed.projection"), ("reg_token", "storage_tokens")),
        *(("q_proj", "wq"), ("k_proj", "wk"), ("v_proj", "wv"), (".mlp.fc1", ".ffn.w12")),
        *((".mlp.fc2", ".ffn.w3"), (".norm1.", ".ln1."), (".norm2.", ".ln2.")),
        ("gamma_1", "attn.gamma.weight"),
    )
    old = {swapped(key, names): value for key, value in tensors.items()}
    return {("ln1" + k[4:] if k.startswith("norm.") else k): v for k, v in old.items()}


def masked(tensors):
    """A file of EVA-02's pretraining."""
    old = {
        key.replace("fc_norm", "norm").replace("mlp.norm", "mlp.ffn_ln"): value
        for key, value in tensors.items()
    }
    names = (("fc1_g", "w1"), ("fc1_x", "w2"), ("mlp.fc2", "mlp.w3"), ("q_proj.bias", "q_bias"))
    old = {swapped(key, (*names, ("v_proj.bias", "v_bias"))): v for key, v in old.items()}
    extra = {"mask_token": np.zeros((1, 1, 24), np.float32), "lm_head.bias": np.zeros(3)}
    return {**old, **extra, "rope.freqs_cos": np.zeros((4, 8), np.float32)}


@pytest.mark.parametrize(
    ("name", "older", "fields", "options"),
    [
        (PE, perception, {"pool_heads": 2}, POOL),
        (DINO, dino, {}, {}),
        (SAPIENS, sapiens, {"key_heads": 3}, {"num_kv_heads": 3}),
        ("eva02_base_patch14_224", masked, {}, {}),
    ],
)
def test_the_authors_files(name, older, fields, options):
    size = (28, 28) if "patch14" in name else (32, 32)
    reference, tensors = reference_of(name, size, **options)
    old = older(tensors)
    state = {key: torch.tensor(value) for key, value in old.items()}
    reference.load_state_dict(eva.checkpoint_filter_fn(state, reference), strict=True)
    check(loaded(name, old, size, size, **fields), reference)


def test_qkv_without_bias_takes_files_that_have_zeros():
    tensors = {"storage_tokens": np.zeros((1, 4, 8)), "blocks.0.attn.qkv.bias": np.zeros(24)}
    convert = MODELS.architecture(DINO).reference.convert
    assert set(convert(tensors, Eva(qkv_bias=False))) == {"reg_token"}
    assert set(convert(tensors, Eva())) == {
        "reg_token",
        "blocks.0.attn.q_bias",
        "blocks.0.attn.v_bias",
    }
