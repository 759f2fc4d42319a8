"""Networks that attend: each attention against sums written out, sizes, and what does not fit."""

import functools

import jax
import numpy as np
import pytest
from scipy.special import softmax

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.models.byoanet import (
    BottleneckAttention,
    ByoaNet,
    HaloAttention,
    LambdaLayer,
    RelativeLogits,
    refused,
)

pytestmark = pytest.mark.family("byoanet")

TINY = {
    "attention_fields": None,
    "kinds": ("bottleneck",) * 2,
    "layers": (1, 2),
    "widths": (16, 16),
    "strides": (1, 2),
    "group_sizes": (0, 0),
    "ratios": (0.5, 0.5),
    "attention": (None, "bottleneck"),
    "attending": ((), (1,)),
    "stem_widths": (4, 8),
}


def images(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_relative_logits_are_of_distances(random_variables):
    q = images(1, 3, 2, 1, 4)
    module = RelativeLogits((5, 4))
    variables = random_variables(module, q)
    rows, columns = (variables["params"][name] for name in ("height_rel", "width_rel"))
    assert (rows.shape, columns.shape) == ((9, 4), (7, 4))
    logits = module.apply(variables, q).reshape(3, 2, 5, 4)
    for y, x, down, right in np.ndindex(3, 2, 5, 4):
        expected = q[0, y, x, 0] @ (rows[down - y + 4] + columns[right - x + 3])
        np.testing.assert_allclose(logits[y, x, down, right], expected, rtol=1e-4, atol=1e-5)


def test_a_block_attends_to_its_halo(random_variables):
    x = images(1, 4, 6, 3)
    module = HaloAttention(heads=1, block=2, halo=1, ratio=1.0)
    variables = random_variables(module, x)
    params = variables["params"]
    # Eight channels of queries and keys, the least that there are, and three of values.
    q, kv = (x[0] @ params[name]["kernel"][0, 0] for name in ("q", "kv"))
    padded = np.pad(kv, ((1, 1), (1, 1), (0, 0)))
    window = padded[0:4, 2:6].reshape(16, -1)
    block = q[0:2, 2:4]
    positions = RelativeLogits((4, 4)).apply(
        {"params": params["pos_embed"]}, block[None, :, :, None]
    )
    logits = block.reshape(4, -1) @ window[:, :8].T / np.sqrt(8) + positions[0, 0]
    expected = (softmax(logits, -1) @ window[:, 8:]).reshape(2, 2, 3)
    out = module.apply(variables, x)
    np.testing.assert_allclose(out[0, 0:2, 2:4], expected, rtol=1e-3, atol=1e-4)


def test_a_lambda_of_the_map_is_one_of_near_pixels_that_reaches_as_far(random_variables):
    """Both count the same relative positions where the neighbourhood is twice the map."""
    x = images(1, 3, 3, 8)
    near, whole = LambdaLayer(size=5), LambdaLayer(size=None)
    variables = random_variables(near, x)
    params = dict(variables["params"])
    conv = params.pop("conv_lambda")
    table = conv["kernel"][:, :, 0]
    params["pos_emb"] = table
    other = whole.apply({**variables, "params": params}, x)
    plain = {**params, "conv_lambda": {**conv, "bias": np.zeros_like(conv["bias"])}}
    del plain["pos_emb"]
    np.testing.assert_allclose(
        near.apply({**variables, "params": plain}, x), other, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (HaloAttention(block=4), (1, 4, 6, 8), "take images of a multiple of 128 pixels"),
        (HaloAttention(heads=3, block=2), (1, 4, 4, 8), "not divided by heads=3"),
        (BottleneckAttention(grid=(4, 4)), (1, 4, 6, 8), r"maps of 4 x 4 pixels got \[1, 4, 6"),
        (LambdaLayer(size=None, grid=(4, 4)), (1, 6, 4, 8), "maps of 4 x 4 pixels"),
        (BottleneckAttention(stride=2), (1, 5, 4, 8), "maps of even sides"),
    ],
)
def test_maps_that_do_not_fit(module, shape, message):
    with pytest.raises(ShapeError, match=message):
        jax.eval_shape(module.init, jax.random.key(0), np.zeros(shape, np.float32))


def test_positions_follow_input_shape():
    def shapes(size):
        model = fz.models.get("botnet26t_256", input_shape=(*size, 3), num_classes=2, **TINY)
        return model.shapes()["params"]["backbone"]["stages_1_1"]["self_attn"]["pos_embed"]

    assert shapes((32, 64))["height_rel"].shape == (2 * 4 - 1, 2)
    assert shapes((32, 64))["width_rel"].shape == (2 * 8 - 1, 2)
    # Rows and columns that are no whole steps are rounded up, as maps are.
    assert shapes((33, 64))["height_rel"].shape == (2 * 5 - 1, 2)


def test_positions_of_other_images_are_refused(tmp_path):
    options = {"num_classes": 2, **TINY}
    fz.models.get("botnet26t_256", input_shape=(32, 32, 3), **options).init(rng=0).save(tmp_path)
    with pytest.raises(ShapeError, match="not resampled for those of 48 x 32"):
        fz.models.get("botnet26t_256", input_shape=(48, 32, 3), pretrained=tmp_path, **options)
    halos = np.zeros((7, 2))
    assert refused(halos, (7, 2), None, (32, 32), (48, 32)) is halos


def test_blocks_that_attend_have_no_gate():
    model = fz.models.get("eca_botnext26ts_256", input_shape=(32, 32, 3), num_classes=2, **TINY)
    blocks = model.shapes()["params"]["backbone"]
    assert {name: "attn" in own for name, own in blocks.items() if "stages" in name} == {
        "stages_0_0": True,
        "stages_1_0": True,
        "stages_1_1": False,
    }


def test_a_convolution_before_the_attention():
    fields = {**TINY, "extra_conv": True, "attending": ((), (0, 1))}
    model = fz.models.get("botnet26t_256", input_shape=(32, 32, 3), num_classes=2, **fields)
    block = model.shapes()["params"]["backbone"]["stages_1_0"]
    assert block["conv2_kxk"]["conv"]["kernel"].shape == (3, 3, 8, 8)
    # It is strided, so that the attention sees half of the 8 rows.
    assert block["self_attn"]["pos_embed"]["height_rel"].shape == (2 * 4 - 1, 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention": ("bottleneck",)}, "must be of one length"),
        ({"attending": ((),)}, "must be of one length"),
        ({"attention_fields": ((),)}, "must be of one length"),
        ({"attention_fields": ((), (("heads", 0),))}, "heads must be"),
        ({"attention": (None, "lamda")}, "Did you mean 'lambda'"),
        ({"attending": ((), (2,))}, "got 2 in a stage of 2"),
        ({"stem_kernel_size": 0}, "stem_kernel_size must be"),
        ({"input_shape": (0, 32, 3)}, "input_shape must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        ByoaNet(**{**TINY, **fields})


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (functools.partial(BottleneckAttention, heads=0), "heads must be"),
        (functools.partial(BottleneckAttention, stride=3), "stride must be 1 or 2"),
        (functools.partial(HaloAttention, halo=-1), "halo must be"),
        (functools.partial(LambdaLayer, size=0), "size must be"),
    ],
)
def test_attention_that_does_not_fit(module, message):
    with pytest.raises(ValueError, match=message):
        module()
