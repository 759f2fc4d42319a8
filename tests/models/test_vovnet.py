"""VoVNet: what a block joins, which blocks have gates and sums, and fields that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.models.vovnet import OsaBlock, VovNet

pytestmark = pytest.mark.family("vovnet")

TINY = {
    "layers": (1, 2),
    "convs": 2,
    "widths": (8, 12),
    "block_widths": (6, 10),
    "stem_widths": (4, 6, 8),
}


def shapes(module, *size):
    """The output of a module, and its parameters."""
    x = jax.ShapeDtypeStruct((1, *size), "float32")
    y, variables = jax.eval_shape(module.init_with_output, jax.random.key(0), x)
    return y, variables["params"]


def test_a_block_joins_its_input_and_all_maps():
    params = shapes(OsaBlock(10, 6, 3), 4, 5, 8)[1]
    assert params["conv_concat"]["conv"]["kernel"].shape == (1, 1, 8 + 3 * 6, 10)
    kernels = [params[f"conv_mid_{i}"]["conv"]["kernel"].shape for i in range(3)]
    assert kernels == [(3, 3, 8, 6), (3, 3, 6, 6), (3, 3, 6, 6)]


def test_a_depthwise_block_narrows_its_input_first_but_joins_all_of_it():
    params = shapes(OsaBlock(10, 6, 2, depthwise=True), 4, 5, 8)[1]
    assert params["conv_reduction"]["conv"]["kernel"].shape == (1, 1, 8, 6)
    assert params["conv_mid_0"]["conv_dw"]["kernel"].shape == (3, 3, 1, 6)
    assert params["conv_concat"]["conv"]["kernel"].shape == (1, 1, 8 + 2 * 6, 10)
    assert "conv_reduction" not in shapes(OsaBlock(10, 8, 2, depthwise=True), 4, 5, 8)[1]


def test_gates_end_stages_and_sums_begin_behind_their_first_block():
    maps, params = shapes(VovNet(feature_maps=True, **TINY), 31, 48, 3)
    assert {name: leaf.shape[1:] for name, leaf in maps.items()} == {
        "stem": (16, 24, 6),
        "stages_0": (8, 12, 8),
        "stages_1": (4, 6, 12),
    }
    gated = {name for name, block in params.items() if "attn" in block}
    assert gated == {"stages_0_blocks_0", "stages_1_blocks_1"}
    sums = {part.name for part in VovNet(**TINY).parts() if "residual=True" in str(part.run)}
    assert sums == {"stages_1_blocks_1"}


def test_a_sum_is_the_input_where_the_branch_is_dropped():
    x = np.ones((2, 4, 4, 8), np.float32)
    block = OsaBlock(8, 4, 1, residual=True, drop_path=0.999)
    variables = block.init(jax.random.key(0), x)
    options = {"rngs": {"dropout": jax.random.key(0)}, "mutable": ["batch_stats"]}
    np.testing.assert_array_equal(block.apply(variables, x, True, **options)[0], x)


def test_half_precision():
    model = VovNet(dtype=jnp.bfloat16, **TINY)
    y, params = shapes(model, 32, 32, 3)
    assert y.dtype == jnp.bfloat16
    assert params["stem_0"]["conv"]["kernel"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"widths": (8,)}, "must be of one length"),
        ({"stem_widths": (8, 8)}, "stem_widths must be three, got"),
        ({"convs": 0}, "convs must be"),
        ({"gate": "see"}, "gate must be one of"),
        ({"norm": "batches"}, "norm must be one of"),
        ({"drop_path": 1.5}, "drop_path must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        VovNet(**{**TINY, **fields})
