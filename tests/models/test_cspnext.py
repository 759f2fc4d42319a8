"""CSPNeXt: windows over windows, what passes by, dilation, older names, wrong fields."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.layers.pool import max_pool
from flaxzoo.models.cspnext import CspNext, CspNextBlock, PyramidPool
from flaxzoo.models.registry import MODELS

pytestmark = pytest.mark.family("cspnext")

TINY = {"layers": (2, 1), "widths": (8, 12)}


def shapes(module, *size):
    """The output of a module, and its parameters, without numbers."""
    x = jax.ShapeDtypeStruct((1, *size), "float32")
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    return y, variables["params"]


def test_windows_of_5_over_windows_of_5_are_larger_windows():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 9, 14, 3)), jnp.float32)
    y = max_pool(x, 5, 1, 2)
    np.testing.assert_array_equal(max_pool(y, 5, 1, 2), max_pool(x, 9, 1, 4))
    np.testing.assert_array_equal(max_pool(max_pool(y, 5, 1, 2), 5, 1, 2), max_pool(x, 13, 1, 6))
    _, params = shapes(PyramidPool(), 4, 5, 8)
    assert params["conv2"]["conv"]["kernel"].shape == (1, 1, 16, 8)


def test_a_block_alone_and_beside_its_input():
    x = jnp.ones((2, 4, 4, 8))
    variables = CspNextBlock().init(jax.random.key(0), x)
    kernels = {name: leaf.shape for name, leaf in _kernels(variables["params"])}
    assert kernels == {
        "conv1": (3, 3, 8, 8),
        "conv2/depthwise_conv": (5, 5, 1, 8),
        "conv2/pointwise_conv": (1, 1, 8, 8),
    }
    alone = CspNextBlock(residual=False).apply(variables, x)
    np.testing.assert_allclose(CspNextBlock().apply(variables, x), x + alone, rtol=1e-6)
    options = {"rngs": {"dropout": jax.random.key(0)}, "mutable": ["batch_stats"]}
    dropped = CspNextBlock(drop_path=0.999).apply(variables, x, True, **options)[0]
    np.testing.assert_array_equal(dropped, x)


def _kernels(params, place=()):
    for name, leaf in params.items():
        if "conv" in leaf:
            yield "/".join((*place, name)), leaf["conv"]["kernel"]
        elif "kernel" not in leaf:
            yield from _kernels(leaf, (*place, name))


def test_the_last_stage_pools_and_has_no_shortcuts():
    _, params = shapes(CspNext(**TINY), 32, 48, 3)
    assert {name for name in params if name.startswith("stages_1")} == {
        "stages_1_0",
        "stages_1_1",
        *(f"stages_1_2_{name}_conv" for name in ("main", "short", "final")),
        "stages_1_2_blocks_0",
        "stages_1_2_attention",
    }
    assert "stages_0_1_blocks_1" in params
    # What passes by has as many channels as what goes through the blocks.
    assert params["stages_0_1_short_conv"]["conv"]["kernel"].shape == (1, 1, 8, 4)
    assert "stages_0_1_attention" not in shapes(CspNext(gated=False, **TINY), 32, 32, 3)[1]


@pytest.mark.parametrize(("stride", "size"), [(32, (3, 4)), (16, (6, 8)), (8, (12, 16))])
def test_output_stride(stride, size):
    net = CspNext(layers=(1, 1, 1, 1), widths=(4, 4, 4, 4), output_stride=stride)
    assert shapes(net, 96, 128, 3)[0].shape[1:3] == size
    assert list(net.reductions().values())[-1] == stride


def test_names_of_openmmlab_s_files():
    tensors = {"backbone.stage4.2.final_conv.bn.bias": 1, "stem.0.bn.bias": 2, "head.fc.bias": 3}
    convert = MODELS.architecture("cspnext_s").reference.convert
    assert convert(tensors, None) == {
        "stages.3.2.final_conv.bn.bias": 1,
        "stem.0.bn.bias": 2,
        "head.fc.bias": 3,
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (8,)}, "must be of one length"),
        ({"widths": (2, 8)}, "widths must begin with 4 or more"),
        ({"ratio": 0}, "ratio must be"),
        ({"output_stride": 4}, "output_stride must be 8, 16 or 32"),
        ({"gated": "ese"}, "gated must be"),
        ({"norm": "batches"}, "norm must be one of"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises((ValueError, TypeError), match=message):
        CspNext(**{**TINY, **fields})
