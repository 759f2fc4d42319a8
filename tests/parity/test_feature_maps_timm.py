"""Feature maps in number, order, shape and reduction against timm's, without computing any."""

import jax
import pytest

import flaxzoo as fz

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("resnet50", {"output_stride": 8}),
        ("resnet50d", {"output_stride": 16}),
        ("resnetrs50", {}),
        ("resnetblur50", {}),
        ("seresnextaa101d_32x8d", {}),
        ("resnest50d_4s2x40d", {}),
        ("test_resnet", {}),
        ("convnext_atto_ols", {}),
        ("convnext_tiny_hnf", {"output_stride": 8}),
        ("convnextv2_atto", {"output_stride": 16}),
    ],
)
def test_maps_are_timm_s(name, options):
    shape = (64, 96, 3)
    model = fz.models.get(name, input_shape=shape, features=True, **options)
    x = jax.ShapeDtypeStruct((2, *shape), "float32")
    maps = jax.eval_shape(model.module.apply, model.shapes(), x)
    with torch.device("meta"):
        reference = timm.create_model(name, **options).eval()
        images = torch.empty(2, 3, *shape[:2])
        expected = reference.forward_intermediates(images, intermediates_only=True)
    assert [leaf.shape for leaf in maps.values()] == [
        (m.shape[0], *m.shape[2:], m.shape[1]) for m in expected
    ]
    reductions = model.module.backbone.reductions()
    assert list(reductions) == list(maps)
    assert list(reductions.values()) == [info["reduction"] for info in reference.feature_info]
