"""Weights of another patch size against timm: kernels, and the positions of the new grid."""

import numpy as np
import pytest
from parity.pairs import load_into, outputs_of

import flaxzoo as fz
from flaxzoo.layers.patch_embed import resample_kernel
from flaxzoo.weights.synthetic import synthetic_images, synthetic_tensors

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
patch_embed = pytest.importorskip("timm.layers.patch_embed")
safetensors = pytest.importorskip("safetensors.torch")

SMALL = {"depth": 1, "num_classes": 5}
METHODS = {
    "bicubic": {"interpolation": "bicubic", "antialias": True},
    "bilinear": {"interpolation": "bilinear", "antialias": False},
}


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("old", "new"),
    [((16, 16), (32, 32)), ((16, 16), (8, 8)), ((14, 14), (16, 16)), ((12, 8), (7, 20))],
)
def test_kernels(old, new, method):
    kernel = np.random.default_rng(0).standard_normal((*old, 3, 4)).astype(np.float32)
    theirs = patch_embed.resample_patch_embed(
        torch.tensor(kernel.transpose(3, 2, 0, 1)), new, **METHODS[method]
    )
    assert_close(resample_kernel(kernel, new, method=method), theirs.numpy().transpose(2, 3, 1, 0))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("vit_tiny_patch16_224", marks=pytest.mark.family("vision_transformer")),
        pytest.param("flexivit_small", marks=pytest.mark.family("vision_transformer")),
        pytest.param("deit_tiny_distilled_patch16_224", marks=pytest.mark.family("deit")),
        pytest.param("beit_base_patch16_224", marks=pytest.mark.family("beit")),
    ],
)
@pytest.mark.parametrize(("patch", "size"), [(8, (48, 32)), (20, (80, 60))])
def test_models(name, patch, size, tmp_path):
    """The file of a square grid of 16 x 16 patches, as ``pretrained`` of both."""
    file = tmp_path / "weights.safetensors"
    before = timm.create_model(name, img_size=64, **SMALL)
    shapes = {key: tuple(value.shape) for key, value in before.state_dict().items()}
    tensors = synthetic_tensors(shapes, 0)
    safetensors.save_file({key: torch.tensor(value) for key, value in tensors.items()}, file)
    reference = timm.create_model(
        name,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(file), "num_classes": 5},
        patch_size=patch,
        img_size=size,
        **SMALL,
    ).eval()
    model = fz.models.get(
        name, pretrained=str(file), patch_size=patch, input_shape=(*size, 3), **SMALL
    )
    images = synthetic_images((2, *size, 3), 0)
    expected = outputs_of(reference, images)
    assert_close(model(images), expected)


@pytest.mark.family("vision_transformer")
def test_a_grid_that_is_not_square():
    """What is known of the weights' images says how their patches lie."""
    name, old, new = "vit_tiny_patch16_224", (96, 32), (96, 64)
    before = timm.create_model(name, img_size=old, **SMALL)
    shapes = {key: tuple(value.shape) for key, value in before.state_dict().items()}
    tensors = synthetic_tensors(shapes, 0)
    after = timm.create_model(name, img_size=new, patch_size=8, **SMALL).eval()
    after.pretrained_cfg = {**after.pretrained_cfg, "input_size": (3, *old)}
    state = {key: torch.tensor(value) for key, value in tensors.items()}
    after.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(state, after))
    model = fz.models.get(name, input_shape=(*new, 3), patch_size=8, **SMALL)
    variables, _ = load_into(model, tensors, image_sizes=((*old, 3), (*new, 3)))
    images = synthetic_images((2, *new, 3), 0)
    expected = outputs_of(after, images)
    assert_close(model.with_variables(variables)(images), expected)
