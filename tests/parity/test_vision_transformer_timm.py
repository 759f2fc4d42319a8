"""Vision transformers against timm: positions for other images, old files, names."""

import numpy as np
import pytest
from parity.pairs import load_resized

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.models import catalog
from flaxzoo.models.registry import MODELS
from flaxzoo.weights.names import reference_name
from flaxzoo.weights.synthetic import synthetic_images, synthetic_tensors

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
vision_transformer = pytest.importorskip("timm.models.vision_transformer")

SMALL = {"depth": 2}


def tensors_of(reference):
    shapes = {key: tuple(value.shape) for key, value in reference.state_dict().items()}
    return synthetic_tensors(shapes, 0)


def outputs(reference, images):
    with torch.no_grad():
        return reference.eval()(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize(
    "name",
    [
        "test_vit",
        "test_vit2",
        "flexivit_small",
        "deit_tiny_distilled_patch16_224",
        "deit3_small_patch16_224",
    ],
)
@pytest.mark.parametrize("new", [(48, 96), (96, 96)])
def test_weights_for_images_of_another_size(name, new):
    """Also of as many patches: 96 x 48 to 48 x 96."""
    old = (96, 48)
    before = timm.create_model(name, img_size=old, num_classes=5, **SMALL)
    after = timm.create_model(name, img_size=new, num_classes=5, **SMALL)
    tensors = tensors_of(before)
    state = {key: torch.tensor(value) for key, value in tensors.items()}
    method = {"interpolation": "bilinear", "antialias": False} if "flexi" in name else {}
    positions = vision_transformer.resample_abs_pos_embed(
        state["pos_embed"],
        new_size=[size // 16 for size in new],
        old_size=[size // 16 for size in old],
        num_prefix_tokens=0 if after.no_embed_class else after.num_prefix_tokens,
        **method,
    )
    after.load_state_dict({**state, "pos_embed": positions})
    model = fz.models.get(name, num_classes=5, input_shape=(*new, 3), **SMALL)
    images = synthetic_images((2, *new, 3), 0)
    assert_close(load_resized(model, tensors, (*old, 3))(images), outputs(after, images))


@pytest.mark.parametrize("size", [(80, 48), (32, 160)])
def test_a_dynamic_size(size):
    reference = timm.create_model("test_vit", num_classes=5, **SMALL)
    model = fz.models.get("test_vit", num_classes=5, **SMALL)
    model = load_resized(model, tensors_of(reference), None)
    reference.load_state_dict({k: torch.tensor(v) for k, v in tensors_of(reference).items()})
    images = synthetic_images((2, *size, 3), 0)
    assert_close(model(images), outputs(reference, images))
    maps = model.feature_maps(images)
    with torch.no_grad():
        _, expected = reference.forward_intermediates(torch.tensor(images.transpose(0, 3, 1, 2)))
    assert len(maps) == len(expected)
    for ours, theirs in zip(maps.values(), expected, strict=True):
        assert_close(np.asarray(ours), theirs.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("registers", [0, 4])
def test_files_of_dinov2_itself(registers):
    name = "vit_small_patch14_reg4_dinov2" if registers else "vit_small_patch14_dinov2"
    options = {"num_classes": 0, "depth": 1}
    reference = timm.create_model(name, img_size=28, **options)
    rng = np.random.default_rng(0)
    tensors = {"mask_token": np.zeros((1, 384), np.float32), **tensors_of(reference)}
    if registers:
        tensors["register_tokens"] = tensors.pop("reg_token")
        tensors["pos_embed"] = rng.standard_normal((1, 5, 384)).astype(np.float32)
    state = {key: torch.tensor(value) for key, value in tensors.items()}
    reference.load_state_dict(vision_transformer.checkpoint_filter_fn(state, reference))
    model = fz.models.get(name, input_shape=(28, 28, 3), **options)
    images = synthetic_images((2, 28, 28, 3), 0)
    assert_close(load_resized(model, tensors, None)(images), outputs(reference, images))


def test_linear_patches_and_representations_of_older_files():
    reference = timm.create_model("test_vit", num_classes=5, img_size=32, **SMALL)
    tensors = tensors_of(reference)
    reference.load_state_dict({key: torch.tensor(value) for key, value in tensors.items()})
    tensors["pre_logits.fc.weight"] = np.zeros((64, 64), np.float32)
    tensors["patch_embed.proj.weight"] = tensors["patch_embed.proj.weight"].reshape(64, -1)
    model = fz.models.get("test_vit", num_classes=5, input_shape=(32, 32, 3), **SMALL)
    images = synthetic_images((2, 32, 32, 3), 0)
    assert_close(load_resized(model, tensors, None)(images), outputs(reference, images))


def test_names_are_timms_in_both_directions():
    for name in ("test_vit3", "vit_so400m_patch14_siglip_384", "beit3_base_patch16_224"):
        model = fz.models.get(name, **SMALL)
        reference = MODELS.architecture(name).reference
        with torch.device("meta"):
            theirs = timm.create_model(name, num_classes=1000, **SMALL).state_dict()
        ours = [reference_name(path, reference) for path in flatten(model.shapes())]
        assert sorted(ours) == sorted(theirs)


def test_images_of_no_whole_patches():
    """SigLIP's at 384 have patches of 14, and what is left over is not seen."""
    name, size = "vit_so400m_patch14_siglip_gap_384", (30, 44)
    fields = {"width": 16, "depth": 1, "heads": 2}
    reference = vision_transformer.VisionTransformer(
        img_size=size,
        patch_size=14,
        embed_dim=16,
        depth=1,
        num_heads=2,
        mlp_ratio=3.7362,
        class_token=False,
        global_pool="avg",
        fc_norm=False,
        num_classes=5,
    )
    tensors = tensors_of(reference)
    reference.load_state_dict({key: torch.tensor(value) for key, value in tensors.items()})
    model = fz.models.get(name, num_classes=5, input_shape=(*size, 3), **fields)
    images = synthetic_images((1, *size, 3), 0)
    assert_close(load_resized(model, tensors, None)(images), outputs(reference, images))


@pytest.mark.parametrize("size", [(64, 64), (96, 48)])
@pytest.mark.parametrize("name", ["vit_base_patch16_radio_v3", "vit_so400m_patch16_radio_v4"])
def test_files_of_radio_itself(name, size, tmp_path):
    """The grid is resampled for a square, with corners aligned or not, and cut."""
    registers = 7 if name.endswith("v3") else 9
    fields = {"width": 16, "heads": 2, "depth": 1}
    reference = timm.create_model(
        name, img_size=size, embed_dim=16, num_heads=2, depth=1, num_classes=0
    )
    rng = np.random.default_rng(0)
    prefix = "radio_model.model."
    tensors = {
        f"{prefix}patch_generator.embedder.weight": rng.standard_normal((16, 3 * 16 * 16)) * 0.05,
        f"{prefix}patch_generator.pos_embed": rng.standard_normal((1, 128 * 128, 16)),
        f"{prefix}patch_generator.cls_token.token": rng.standard_normal((1 + registers, 16)),
        "radio_model.input_conditioner.norm_mean": np.zeros((3, 1, 1)),
        "radio_model.summary_idxs": np.arange(3),
    }
    for key, value in tensors_of(reference).items():
        if key.startswith("blocks."):
            tensors[prefix + key.replace(".gamma", ".grandma")] = value
    tensors = {
        key: value if "idxs" in key else value.astype(np.float32) for key, value in tensors.items()
    }
    state = {key: torch.tensor(value) for key, value in tensors.items()}
    method = {
        "interpolation": "bilinear",
        "antialias": False,
        "align_corners": "v3" in name,
    }
    reference.load_state_dict(vision_transformer.checkpoint_filter_fn(state, reference, **method))
    file = tmp_path / "radio.npz"
    np.savez(file, **tensors)
    model = fz.models.get(
        name, pretrained=str(file), num_classes=0, input_shape=(*size, 3), **fields
    )
    images = synthetic_images((2, *size, 3), 0)
    assert_close(model(images), outputs(reference, images))


@pytest.mark.parametrize("align", [False, True])
def test_positions_of_radio_in_timm_s_names(align):
    """They are resampled directly, bilinearly."""
    name = "vit_base_patch16_radio_v3" if align else "vit_large_patch16_radio_v3"
    positions = np.random.default_rng(0).standard_normal((1, 32 * 32, 8)).astype(np.float32)
    ((_, resize),) = MODELS.architecture(name).reference.resized
    backbone = fz.models.get(name).module.backbone
    theirs = vision_transformer.resample_abs_pos_embed(
        torch.tensor(positions),
        new_size=(20, 9),
        num_prefix_tokens=0,
        interpolation="bilinear",
        antialias=False,
        align_corners=align,
    )
    ours = resize(positions, (1, 180, 8), backbone, (512, 512), (320, 144))
    assert_close(ours, theirs.numpy())


def test_towers_return_their_embeddings():
    """CLIP's as wide as its projection, SigLIP's what its attention pools; timm's heads."""
    for key, width, options in (
        ("vit_base_patch16_clip_224.openai", 512, {"img_size": 32, "num_classes": 512}),
        ("vit_base_patch16_siglip_224.webli", 768, {"img_size": 32, "num_classes": 0}),
    ):
        name = key.partition(".")[0]
        reference = timm.create_model(name, depth=1, **options)
        tensors = tensors_of(reference)
        reference.load_state_dict({k: torch.tensor(value) for k, value in tensors.items()})
        model = fz.models.get(key, input_shape=(32, 32, 3), depth=1)
        assert model.spec.task == "features"
        images = synthetic_images((2, 32, 32, 3), 0)
        model = load_resized(model, tensors, None)
        embeddings = model.predict(images)
        assert embeddings.shape == (2, width)
        assert_close(embeddings, outputs(reference, images))


def test_every_embedding_is_as_wide_as_timm_s():
    """CLIP's, SigLIP's and all others that are no classifiers."""
    keys = [key for key, family in catalog.weights() if family == "vision_transformer"]
    towers = [k for k in keys if ("clip" in k or "siglip" in k) and "_ft_" not in k]
    assert len(towers) > 90
    for key in towers:
        config = timm.models.get_pretrained_cfg(key)
        model = fz.models.get(key)
        assert model.spec.task == "features", key
        assert model.module.head.num_classes == config.num_classes, key
