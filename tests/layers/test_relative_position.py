import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.errors import ShapeError
from flaxzoo.layers.attention import Attention
from flaxzoo.layers.relative_position import (
    NAME,
    RelativeMap,
    RelativeTable,
    relative_index,
    resample_table,
    table_length,
)

TOKENS = np.random.default_rng(0).standard_normal((2, 7, 8)).astype(np.float32)


def test_equal_displacements_share_a_row():
    grid = (2, 3)
    index = relative_index(grid)
    places = [(row, column) for row in range(2) for column in range(3)]
    rows = {}
    for i, (row, column) in enumerate(places):
        for j, (other_row, other_column) in enumerate(places):
            displacement = (row - other_row, column - other_column)
            assert rows.setdefault(displacement, index[i, j]) == index[i, j]
    assert len(set(rows.values())) == len(rows) == table_length(grid, False) == 15


def test_a_class_token_has_three_rows_of_its_own():
    index = relative_index((2, 3), True)
    np.testing.assert_array_equal(index[1:, 1:], relative_index((2, 3)))
    assert index[0, 0] == 17
    assert set(index[0, 1:]) == {15}
    assert set(index[1:, 0]) == {16}
    assert table_length((2, 3), True) == 18


def test_resampling_keeps_constants_the_middle_and_the_class_token():
    rng = np.random.default_rng(0)
    table = rng.standard_normal((table_length((3, 3), True), 2)).astype(np.float32)
    np.testing.assert_array_equal(resample_table(table, (3, 3), class_token=True), table)
    for grid in ((5, 7), (2, 3), (1, 1)):
        new = resample_table(table, grid, class_token=True)
        count = table_length(grid, True)
        assert new.shape == (count, 2)
        assert new.dtype == np.float32
        np.testing.assert_array_equal(new[-3:], table[-3:])
        # No displacement is none, whatever the grid.
        np.testing.assert_allclose(new[(count - 4) // 2], table[12], rtol=1e-6)
        ones = resample_table(np.ones_like(table), grid, class_token=True)
        np.testing.assert_allclose(ones, 1, rtol=1e-6)
    wide = rng.standard_normal((table_length((2, 4), False), 2)).astype(np.float16)
    assert resample_table(wide, (4, 2), old_grid=(2, 4)).dtype == np.float16
    with pytest.raises(ShapeError, match="21 patches are no square grid"):
        resample_table(wide, (4, 2))
    with pytest.raises(ShapeError, match=r"of a grid of 2 x 3 must have 15 rows, got \[21, 2\]"):
        resample_table(wide, (4, 2), old_grid=(2, 3))


def test_a_map_of_biases_is_read_from_key_to_query():
    table = np.random.default_rng(0).standard_normal((3, 5, 2)).astype(np.float32)
    there = RelativeMap(2).apply({"params": {NAME: table}}, (2, 3))
    back = RelativeTable(2).apply({"params": {NAME: table.reshape(15, 2)}}, (2, 3))
    np.testing.assert_array_equal(there, np.swapaxes(back, 2, 3))
    # From pixel (0, 0) to pixel (1, 2): a row down, two columns to the right.
    np.testing.assert_array_equal(there[0, :, 0, 5], table[2, 4])


@pytest.mark.parametrize("implementation", ["einsum", "xla"])
def test_attention_adds_the_bias_to_its_logits(implementation, random_variables):
    options = {"grid": (2, 3), "class_token": True, "key_bias": False, "qkv_bias": True}
    module = Attention(2, implementation=implementation, **options)
    variables = random_variables(module, TOKENS)
    params = variables["params"]
    assert set(params) == {"qkv", "proj", "q_bias", "v_bias", "relative_position_bias_table"}
    assert set(params["qkv"]) == {"kernel"}
    q, k, v = np.split(TOKENS @ params["qkv"]["kernel"], 3, axis=-1)
    q, v = q + params["q_bias"], v + params["v_bias"]
    q, k, v = (part.reshape(2, 7, 2, 4) for part in (q, k, v))
    bias = params["relative_position_bias_table"][relative_index((2, 3), True)]
    logits = np.einsum("bqhd,bkhd->bhqk", q, k) / 2 + np.moveaxis(np.asarray(bias), -1, 0)
    causal = np.tril(np.ones((7, 7), bool))
    for mask in (None, causal, np.where(causal, 0.0, -1e9).astype(np.float32)):
        seen = logits if mask is None else np.where(causal, logits, -1e9)
        out = np.einsum("bhqk,bkhd->bqhd", nn.softmax(seen), v).reshape(2, 7, 8)
        out = out @ params["proj"]["kernel"] + params["proj"]["bias"]
        given = None if mask is None else jnp.asarray(mask)
        found = module.apply(variables, TOKENS, mask=given)
        np.testing.assert_allclose(found, out, rtol=0, atol=2e-6 * np.abs(out).max())


def test_tokens_of_another_grid_are_refused():
    module = Attention(2, grid=(2, 2), class_token=True)
    message = r"tokens must have shape \[B, 5, C\] for relative positions on a grid of 2 x 2, got"
    with pytest.raises(ShapeError, match=message):
        module.init(jax.random.key(0), TOKENS)
