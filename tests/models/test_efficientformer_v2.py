"""EfficientFormer V2: which blocks attend, its attentions, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.efficientformer_v2 import EfficientFormerV2, MixedAttention

pytestmark = pytest.mark.family("efficientformer_v2")

NAME = "efficientformerv2_s0"
TINY = {
    "layers": (1, 1, 2, 2),
    "widths": (4, 4, 8, 8),
    "mlp_ratios": (2, 2, (3, 2), 2),
    "attending": 1,
    "heads": 2,
    "input_shape": (32, 64, 3),
}


def test_which_blocks_attend():
    params = fz.models.get(NAME, num_classes=3, **TINY).shapes()["params"]["backbone"]
    attending = {name for name, tree in params.items() if "token_mixer" in tree}
    assert attending == {"stages_2_blocks_1", "stages_3_blocks_1"}
    assert "attn" in params["stages_3_downsample"]
    assert "attn" not in params["stages_2_downsample"]
    # The third stage attends at half the resolution, the way to the last one at its own.
    assert "stride_conv" in params["stages_2_blocks_1"]["token_mixer"]
    tables = [
        params["stages_2_blocks_1"]["token_mixer"],
        params["stages_3_downsample"]["attn"],
        params["stages_3_blocks_1"]["token_mixer"],
    ]
    assert [tree["attention_biases"].shape for tree in tables] == [(2, 2), (2, 8), (2, 2)]
    assert params["stages_2_blocks_0"]["mlp"]["fc1"]["conv"]["kernel"].shape == (1, 1, 8, 24)


def test_the_softmax_is_float32():
    module = MixedAttention(heads=2, key_width=4, dtype=jnp.bfloat16)
    x = jax.ShapeDtypeStruct((1, 2, 3, 8), jnp.bfloat16)
    variables = jax.eval_shape(module.init, jax.random.key(0), x)
    program = str(jax.make_jaxpr(lambda v, x: module.apply(v, x))(variables, x))
    assert "f32[1,6,6,2] = exp" in program
    assert jax.eval_shape(module.apply, variables, x).dtype == jnp.bfloat16


def test_images_and_fields_that_do_not_fit():
    model = fz.models.get(NAME, num_classes=3, **TINY)
    with pytest.raises(ShapeError, match=r"images must be of 32 x 64, got .*input_shape="):
        jax.eval_shape(
            model.module.apply, model.shapes(), jax.ShapeDtypeStruct((1, 64, 32, 3), "float32")
        )
    for fields, message in (
        ({"mlp_ratios": (2, 2, (3, 2), (2,))}, "one for each of 2 blocks, got"),
        ({"mlp_ratios": (2, 2, 2)}, "must be of one length"),
        ({"mlp_ratios": (2, 2, 0, 2)}, "mlp_ratios must be a finite number above 0"),
        ({"input_shape": (40, 64, 3)}, "multiples of 32, got"),
        ({"heads": 0}, "heads must be"),
        ({"norm": "layr"}, "norm must be one of"),
        ({"drop_path": 1.5}, "drop_path must be"),
        ({"implementation": "flash"}, "implementation must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            EfficientFormerV2(**{**TINY, **fields})


def test_two_classifiers_read_the_mean():
    head = fz.models.get(NAME, num_classes=3, distilled_training=True, **TINY).module.head
    x = np.random.default_rng(0).random((2, 1, 2, 8)).astype(np.float32)
    variables = head.init(jax.random.key(0), x)
    both = head.apply(variables, x, train=True)
    np.testing.assert_allclose(head.apply(variables, x), (both[0] + both[1]) / 2, atol=1e-6)
