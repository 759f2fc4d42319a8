import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.layers.transformer import BLOCKS, TransformerBlock

TOKENS = (4, 5, 8)


def normal(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_drops_in_training_alone(kind):
    rates = {"attention_dropout": 0.5, "block_dropout": 0.5, "drop_path": 0.5}
    block, x = BLOCKS[kind](2, layer_scale=0.5, **rates), normal(*TOKENS)
    variables = block.init(jax.random.key(0), x)
    quiet = BLOCKS[kind](2, layer_scale=0.5).apply(variables, x, True)
    np.testing.assert_array_equal(block.apply(variables, x), quiet)
    drawn = block.apply(variables, x, True, rngs={"dropout": jax.random.key(1)})
    assert drawn.shape == x.shape
    assert not np.allclose(drawn, quiet)
    sure = BLOCKS[kind](2, layer_scale=0.5, drop_path=0.999999)
    dropped = sure.apply(variables, x, True, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_array_equal(dropped, x)


@pytest.mark.parametrize("kind", BLOCKS)
def test_dtypes(kind):
    block, x = BLOCKS[kind](2, qkv_bias=False, dtype=jnp.bfloat16), normal(*TOKENS)
    out, variables = block.init_with_output(jax.random.key(0), x)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    expected = BLOCKS[kind](2, qkv_bias=False).apply(variables, x)
    np.testing.assert_allclose(out.astype(np.float32), expected, atol=0.05)


def test_a_post_norm_block_begins_small():
    block, x = BLOCKS["post"](2, layer_scale=1e-5), normal(*TOKENS)
    out, variables = block.init_with_output(jax.random.key(0), x)
    np.testing.assert_array_equal(variables["params"]["norm1"]["scale"], np.full(8, 1e-5, "f"))
    np.testing.assert_allclose(out, x, atol=1e-4)


def test_fields_are_checked():
    for fields, message in (
        ({"heads": 0}, "heads must be"),
        ({"mlp": "mpl"}, "mlp must be .*got 'mpl'"),
        ({"mlp": None}, "mlp must be one of 'mlp', 'glu', 'swiglu', got None"),
        ({"drop_path": 1.5}, "drop_path must be"),
        ({"implementation": "flash"}, "implementation must be"),
        ({"activation": "gleu"}, "gleu"),
        ({"norm": "leyer"}, "norm must be one of"),
    ):
        with pytest.raises((ValueError, KeyError), match=message):
            TransformerBlock(**{"heads": 2, **fields})
