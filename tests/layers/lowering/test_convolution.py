import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from flaxzoo.layers.lowering import conv_cpu
from flaxzoo.layers.lowering.convolution import conv_general_dilated

NHWC = ("NHWC", "HWIO", "NHWC")
BOTH = (conv_general_dilated, jax.lax.conv_general_dilated)


def normal(*shape, dtype=np.float32, seed=0):
    values = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return jnp.asarray(values, dtype)


def assert_close(ours, theirs, tolerance=1e-5):
    """Within ``tolerance`` of the largest value of each array; 0 for equal numbers."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(initial=0))


def directions(convolve, x, kernel, strides=(1, 1), padding="VALID", **options):
    """The value and both gradients for a cotangent that is like no operand."""

    def run(x, kernel):
        return convolve(x, kernel, strides, padding, **{"dimension_numbers": NHWC} | options)

    y, pull = jax.vjp(run, x, kernel)
    cotangent = jnp.cos(jnp.arange(y.size)).reshape(y.shape).astype(y.dtype)
    return y, pull(cotangent)


def compare(x, kernel, *args, tolerance=1e-5, **options):
    both = jax.jit(lambda x, k: [directions(f, x, k, *args, **options) for f in BOTH])
    assert_close(*both(x, kernel), tolerance)


def any_convolution(seed):
    """Shapes and options of any kind: images smaller than the kernel, of one pixel, none at all."""
    rng = np.random.default_rng(seed)
    pick = lambda *values: values[rng.integers(len(values))]  # noqa: E731
    pair = lambda low, high: tuple(rng.integers(low, high, 2, endpoint=True).tolist())  # noqa: E731
    groups = pick(1, 1, 1, 2, 3, 17)
    channels, features = pick(1, 2, 3, 4, 5, 8, 35, 70), pick(1, 2, 5, 8, 64, 65)
    if groups == 17:
        channels = features = 1
    kernel = pick((1, 1), (3, 3), pair(1, 7))
    dilation = pick((1, 1), pair(1, 3))
    # XLA's CPU backend reads beyond an image where its gradient's padding would be negative.
    pads = tuple(pair(0, min(3, (n - 1) * d)) for n, d in zip(kernel, dilation, strict=True))
    return {
        "x": (pick(0, 1, 1, 2, 3), *pair(1, 12), groups * channels),
        "kernel": (*kernel, channels, groups * features),
        "strides": pick((1, 1), (2, 2), pair(1, 3)),
        "padding": pick("SAME", "VALID", pads),
        "rhs_dilation": dilation,
        "feature_group_count": groups,
    }


@pytest.mark.full_compiler
# Seeds, because Hypothesis changes an example a little to get the next one.
@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32).map(any_convolution))
def test_values_and_gradients_are_those_of_jax(convolution):
    x, kernel, *options = convolution.items()
    compare(normal(*x[1]), normal(*kernel[1], seed=1), **dict(options))


# Wide enough for Eigen in every direction, and too narrow in all of them.
WIDE, NARROW = (3, 3, 32, 32), (3, 3, 8, 5)


@pytest.mark.full_compiler
@pytest.mark.parametrize(
    ("x", "kernel", "options"),
    [
        # One product of matrices, the wider operand at either side.
        ((3, 5, 4, 6), (1, 1, 6, 7), {}),
        ((3, 8, 5, 7), (1, 1, 7, 6), {"strides": (3, 2), "padding": "SAME"}),
        ((2, 4, 4, 3), (1, 1, 3, 1), {"rhs_dilation": (2, 2)}),
        ((2, 4, 4, 3), (1, 1, 3, 4), {"padding": ((1, 0), (0, 2))}),
        # Odd ends, gaps and strides that leave pixels unseen, with and without Eigen.
        *(
            ((2, *size, kernel[2]), kernel, options)
            for kernel in (WIDE, NARROW)
            for size, options in (
                ((7, 6), {"padding": "SAME"}),
                ((9, 8), {"strides": (2, 3), "rhs_dilation": (1, 2)}),
                ((12, 13), {"strides": (3, 1), "padding": "SAME", "rhs_dilation": (2, 3)}),
                ((8, 9), {"strides": (3, 3), "padding": ((0, 1), (1, 0))}),
                ((4, 5), {"padding": ((0, 3), (2, 1))}),
                ((1, 3), {"padding": ((1, 1), (1, 1))}),
            )
        ),
        # The stem's 7 x 7 at stride 2.
        ((3, 15, 14, 3), (7, 7, 3, 33), {"strides": (2, 2), "padding": ((3, 3), (3, 3))}),
        # Groups in blocks: several to a block, all in one, each its own.
        ((2, 7, 7, 40), (3, 3, 5, 24), {"feature_group_count": 8, "padding": "SAME"}),
        ((2, 7, 7, 8), (3, 3, 1, 8), {"feature_group_count": 8, "strides": (2, 2)}),
        ((2, 5, 5, 66), (1, 1, 22, 3), {"feature_group_count": 3, "strides": (2, 2)}),
        # Depthwise: sums of shifts, over pixels between windows, over rows in blocks that do not
        # divide them, of places that no window sees.
        ((2, 9, 8, 16), (7, 7, 1, 16), {"feature_group_count": 16, "padding": "SAME"}),
        ((2, 9, 8, 18), (3, 2, 1, 18), {"feature_group_count": 18, "padding": ((2, 0), (1, 1))}),
        ((1, 4, 5, 17), (2, 3, 1, 17), {"feature_group_count": 17, "padding": ((1, 4), (3, 0))}),
        ((2, 7, 7, 16), (3, 3, 1, 16), {"feature_group_count": 16, "strides": (2, 2)}),
        ((2, 7, 7, 16), (3, 3, 1, 16), {"feature_group_count": 16, "rhs_dilation": (2, 1)}),
        *(
            ((2, *size, 16), (*kernel, 1, 16), {"feature_group_count": 16, **options})
            for size, kernel, options in (
                ((7, 6), (5, 3), {"strides": (2, 3), "padding": "SAME"}),
                ((9, 8), (3, 3), {"strides": (2, 1), "rhs_dilation": (1, 2)}),
                ((12, 13), (3, 2), {"strides": (3, 2), "rhs_dilation": (2, 3)}),
                ((9, 7), (2, 1), {"strides": (3, 4)}),
                ((8, 9), (1, 11), {"padding": ((0, 1), (5, 5))}),
                ((37, 5), (3, 3), {"padding": "SAME"}),
                ((35, 8), (5, 5), {"strides": (2, 2), "padding": ((2, 2), (1, 2))}),
                ((1, 2), (3, 3), {"strides": (2, 2), "padding": ((1, 1), (1, 1))}),
                # More elements than the sums are for.
                ((13, 12), (12, 11), {"padding": "SAME"}),
            )
        ),
        # More features than channels.
        ((2, 5, 5, 16), (3, 3, 1, 32), {"feature_group_count": 16, "padding": "SAME"}),
        # Groups that stay, with Eigen in one direction, all, none.
        ((2, 4, 4, 544), (3, 3, 32, 17), {"feature_group_count": 17}),
        ((1, 5, 4, 544), (2, 3, 32, 544), {"feature_group_count": 17, "strides": (1, 2)}),
        ((2, 5, 4, 561), (3, 1, 33, 289), {"feature_group_count": 17, "padding": "SAME"}),
    ],
)
def test_every_formulation(x, kernel, options):
    compare(normal(*x), normal(*kernel, seed=1), **options)


@pytest.mark.parametrize(
    ("channels", "groups", "blocks", "of_kernels"),
    [
        (64, 1, 0, 0),
        # ResNeXt-50's four stages.
        *((4, 32, 8, 8), (8, 32, 16, 16), (16, 32, 16, 16), (32, 32, 0, 0)),
        # RegNetY-3.2GF's and -1.6GF's: what would be one block of 888 channels stays apart.
        *((24, 3, 3, 3), (24, 9, 9, 9), (24, 24, 12, 24), (24, 63, 63, 63), (24, 37, 37, 37)),
        # ResNeSt's, MobileNet's, and groups that none but all together divide.
        *((64, 2, 2, 2), (1, 960, 16, 30), (3, 2, 1, 1), (5, 7, 1, 1), (40, 17, 0, 0)),
    ],
)
def test_groups_become_blocks(channels, groups, blocks, of_kernels):
    window = conv_cpu.Window((1, 1), ((1, 1), (1, 1)), (1, 1), groups)
    shape = (3, 3, channels, 32 * groups)
    assert conv_cpu._block_count(shape, window) == blocks
    most = conv_cpu._MOST_CHANNELS_OF_KERNELS
    assert conv_cpu._block_count(shape, window, most) == of_kernels


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="the text of StableHLO was another")
@pytest.mark.parametrize(
    ("kernel", "strides", "groups"),
    [(WIDE, (1, 1), 1), (WIDE, (2, 2), 1), (NARROW, (2, 1), 1), (WIDE, (1, 1), 17)],
)
def test_the_layout_that_is_fast_within_loops(kernel, strides, groups):
    """XLA convolves others at a hundredth of the speed in the body of a scan."""
    height, width, channels, features = kernel
    shapes = (2, 9, 8, groups * channels), (height, width, channels, groups * features)

    def run(x, kernel):
        options = {"padding": "SAME", "feature_group_count": groups}
        return directions(conv_general_dilated, x, kernel, strides, **options)

    text = lowered(run, "cpu", *shapes)
    assert text.count("stablehlo.convolution") == 3
    assert text.count("dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]") == 3


@pytest.mark.full_compiler
@pytest.mark.parametrize("kernel", [(1, 1, 6, 4), (3, 3, 6, 4), (3, 3, 3, 4)])
def test_other_precisions(kernel):
    groups = 6 // kernel[2]
    options = {"strides": (2, 1), "feature_group_count": groups}
    for dtype in (jnp.bfloat16, jnp.float16):
        x, k = normal(3, 7, 6, 6, dtype=dtype), normal(*kernel, dtype=dtype)
        compare(x, k, tolerance=0, **options)
    with jax.enable_x64(True):
        x, k = normal(3, 7, 6, 6, dtype=np.float64), normal(*kernel, dtype=np.float64)
        assert x.dtype == "float64"
        compare(x, k, tolerance=1e-13, **options)


@pytest.mark.full_compiler
def test_other_precisions_of_depthwise_kernels():
    shapes = (2, 7, 6, 16), (3, 2, 1, 16)
    options = {"padding": "SAME", "feature_group_count": 16}
    for dtype, tolerance in ((jnp.bfloat16, 1e-2), (jnp.float16, 1e-3)):
        compare(*(normal(*shape, dtype=dtype) for shape in shapes), tolerance=tolerance, **options)
    with jax.enable_x64(True):
        x, k = (normal(*shape, dtype=np.float64) for shape in shapes)
        compare(x, k, tolerance=1e-13, **options)


@pytest.mark.parametrize(
    ("x", "kernel", "strides"),
    [
        ((0, 5, 5, 8), (1, 1, 8, 5), (2, 2)),
        ((2, 0, 3, 4), (1, 1, 4, 5), (2, 2)),
        ((2, 0, 3, 4), (3, 3, 4, 5), (1, 1)),
        ((2, 1, 1, 4), (3, 3, 4, 5), (2, 2)),
        ((2, 5, 4, 3), (1, 1, 3, 0), (1, 1)),
        ((1, 1, 1, 1), (1, 1, 1, 1), (1, 1)),
    ],
)
def test_empty_and_smallest_arrays(x, kernel, strides):
    compare(normal(*x), normal(*kernel), strides)


@pytest.mark.parametrize(
    ("x", "kernel", "strides", "padding", "options"),
    [
        (
            (2, 5, 6, 4),
            (3, 3, 4, 5),
            (1, 1),
            "SAME",
            {"lhs_dilation": (2, 1), "padding": ((1, 1), (1, 2))},
        ),
        ((4, 5, 6, 3), (3, 3, 3, 4), (1, 1), "SAME", {"batch_group_count": 2}),
        ((2, 5, 6, 4), (3, 3, 4, 5), (1, 1), "SAME", {"precision": "highest"}),
        ((2, 4, 5, 6), (5, 4, 3, 3), (2, 1), "SAME", {"dimension_numbers": None}),
        ((2, 5, 4), (3, 4, 5), (2,), "SAME", {"dimension_numbers": ("NWC", "WIO", "NWC")}),
        (
            (2, 3, 4, 5, 2),
            (2, 2, 2, 2, 3),
            (1, 1, 1),
            "VALID",
            {"dimension_numbers": ("NDHWC", "DHWIO", "NDHWC")},
        ),
    ],
)
def test_what_is_left_to_jax(x, kernel, strides, padding, options):
    options = {"padding": padding} | options
    compare(normal(*x), normal(*kernel), strides, tolerance=0, **options)


def test_integers_and_wider_sums_are_left_to_jax():
    def run(convolve, dtype, **options):
        x = jnp.arange(2 * 4 * 5 * 3).reshape(2, 4, 5, 3).astype(dtype)
        kernel = jnp.arange(9 * 3 * 2).reshape(3, 3, 3, 2).astype(dtype)
        return convolve(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC, **options)

    assert_close(*(run(f, jnp.int32) for f in BOTH), 0)
    wide = [run(f, jnp.bfloat16, preferred_element_type=jnp.float32) for f in BOTH]
    assert wide[0].dtype == "float32"
    assert_close(*wide, 0)


def test_errors_are_those_of_jax():
    x, kernel = normal(2, 5, 5, 4), normal(3, 3, 6, 4)
    messages = []
    for convolve in BOTH:
        with pytest.raises(ValueError) as error:
            convolve(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC)
        messages.append(str(error.value))
    assert "feature dimension" in messages[0]
    assert messages[0] == messages[1]


def nested(f):
    return jax.vmap(jax.vmap(f, (0, None)), (1, 0))


def gradients(f):
    return jax.grad(lambda *args: jnp.sin(f(*args)).sum(), (0, 1))


def forward_over_reverse(f):
    return lambda *args: jax.jvp(gradients(f), args, tuple(jnp.cos(a) for a in args))


def reverse_over_reverse(f):
    def product(*args):
        return sum((jnp.cos(a) * g).sum() for a, g in zip(args, gradients(f)(*args), strict=True))

    return jax.grad(product, (0, 1))


def linearized(f):
    def run(*args):
        y, tangent = jax.linearize(f, *args)
        moves = [tuple(jnp.cos(i * a) for a in args) for i in (1, 2)]
        return y, [tangent(*move) for move in moves]

    return run


def scanned(f):
    def run(xs, kernel):
        def step(carry, x):
            y = f(x, kernel)
            return carry + y.mean(), y

        return jax.lax.scan(step, 0.0, xs)

    return lambda xs, kernel: jax.grad(lambda *a: jnp.sin(run(*a)[1]).sum(), (0, 1))(xs, kernel)


# For inputs [B, H, W, C] and kernels, with as many more axes in front as given.
TRANSFORMATIONS = {
    "jvp": (lambda f: lambda *a: jax.jvp(f, a, tuple(jnp.cos(v) for v in a)), 0, 0),
    "linearize": (linearized, 0, 0),
    "forward over reverse": (forward_over_reverse, 0, 0),
    "reverse over reverse": (reverse_over_reverse, 0, 0),
    "remat": (lambda f: gradients(jax.checkpoint(f)), 0, 0),
    "vmap of inputs": (lambda f: jax.vmap(gradients(f), (0, None)), 1, 0),
    "vmap of inputs, gradient outside": (lambda f: gradients(jax.vmap(f, (0, None))), 1, 0),
    "vmap along another axis": (lambda f: jax.vmap(f, (1, None), 2), 1, 0),
    "vmap of kernels": (lambda f: jax.vmap(gradients(f), (None, 0)), 0, 1),
    "vmap of kernels, gradient outside": (lambda f: gradients(jax.vmap(f, (None, 0))), 0, 1),
    "vmap of both": (lambda f: jax.vmap(gradients(f)), 1, 1),
    "nested vmap": (lambda f: gradients(nested(f)), 2, 1),
    "vmap of second derivatives": (
        lambda f: jax.vmap(forward_over_reverse(f), (0, None)),
        1,
        0,
    ),
    "scan": (scanned, 1, 0),
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
def test_transformations(name):
    transform, more_x, more_kernel = TRANSFORMATIONS[name]
    shapes = [
        ((2, 6, 5, 6), (3, 3, 6, 4), (1, 1), "SAME", 1),
        ((2, 6, 5, 6), (1, 1, 6, 4), (2, 2), "VALID", 1),
        ((2, 6, 5, 16), (3, 3, 1, 16), (1, 1), "SAME", 16),
    ]
    operands = [
        (normal(*(3, 2)[:more_x], *x), normal(*(2, 3)[-more_kernel or 2 :], *kernel))
        for x, kernel, *_ in shapes
    ]
    if name == "vmap of both":
        operands = [(x, jnp.stack([k[0], k[0] + 1, k[0] * 2])) for x, k in operands]
    elif name == "nested vmap":
        operands = [(x, jnp.stack([k[0], k[0] * 2])) for x, k in operands]

    def run(convolve, operands):
        results = []
        for (_, _, *window, groups), pair in zip(shapes, operands, strict=True):
            options = {"dimension_numbers": NHWC, "feature_group_count": groups}

            def conv(x, kernel, window=window, options=options):
                return convolve(x, kernel, *window, **options)

            results.append(transform(conv)(*pair))
        return results

    assert_close(*jax.jit(lambda operands: [run(f, operands) for f in BOTH])(operands))


@pytest.mark.parametrize("kernel", [(1, 1, 3, 2), (2, 2, 3, 2)])
def test_derivatives_by_differences(kernel):
    with jax.enable_x64(True):
        operands = [normal(1, 4, 3, 3, dtype=np.float64), normal(*kernel, dtype=np.float64)]

        @jax.jit
        def conv(x, kernel):
            return conv_general_dilated(x, kernel, (2, 1), "SAME", dimension_numbers=NHWC)

        check_grads(conv, operands, order=2, rtol=1e-6, atol=1e-6)


def test_outside_of_jit():
    x, kernel = normal(2, 4, 4, 3), normal(3, 3, 3, 2)
    assert_close(*(directions(f, x, kernel) for f in BOTH))
    # NumPy's arrays are taken, too.
    arrays = np.asarray(x), np.asarray(kernel)
    assert_close(*(f(*arrays, (1, 1), "SAME", dimension_numbers=NHWC) for f in BOTH))


@pytest.mark.parametrize("platforms", [["cpu"], ["cpu", "cuda", "tpu"]])
@pytest.mark.parametrize("kernel", [(1, 1, 5, 4), (3, 3, 5, 4), (3, 3, 1, 16)])
def test_exports_of_any_size(platforms, kernel):
    channels = 5 if kernel[2] == 5 else 16
    options = {"dimension_numbers": NHWC, "feature_group_count": channels // kernel[2]}

    def run(x, kernel, convolve=conv_general_dilated):
        pad = kernel.shape[0] // 2
        pads = ((pad, pad), (pad, pad))
        return convolve(x, kernel, (1, 1), pads, **options)

    sizes = jax.export.symbolic_shape("b, h, w", constraints=["h >= 3", "w >= 3"])
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((*sizes, channels), kernel)]
    exported = jax.export.export(jax.jit(run), platforms=platforms)(*arguments)
    backward = exported.vjp()
    assert backward.platforms == tuple(platforms)
    for size in ((2, 5, 6), (3, 4, 7)):
        x, k = normal(*size, channels), normal(*kernel)
        y, pull = jax.vjp(lambda x, k: run(x, k, jax.lax.conv_general_dilated), x, k)
        assert_close(exported.call(x, k), y)
        assert_close(tuple(backward.call(x, k, jnp.cos(y))), pull(jnp.cos(y)))


def test_exports_of_any_batch_with_strides():
    def step(x, kernel, convolve=conv_general_dilated):
        return directions(convolve, x, kernel, (2, 2), "SAME")

    (batch,) = jax.export.symbolic_shape("b")
    for kernel in ((1, 1, 5, 4), (3, 3, 5, 4)):
        shapes = (batch, 7, 6, 5), kernel
        arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        exported = jax.export.export(jax.jit(step))(*arguments)
        x, k = normal(3, 7, 6, 5), normal(*kernel)
        assert_close(exported.call(x, k), step(x, k, jax.lax.conv_general_dilated))


def lowered(function, platform, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.export.export(jax.jit(function), platforms=[platform])(*arguments).mlir_module()


@pytest.mark.parametrize("kernel", [(1, 1, 5, 4), (3, 3, 5, 4), (3, 3, 32, 32)])
def test_each_platform_has_its_lowering(kernel):
    def run(x, kernel):
        return directions(conv_general_dilated, x, kernel)

    shapes = (2, 8, 7, kernel[2]), kernel
    for platform in ("cuda", "tpu"):
        text = lowered(run, platform, *shapes)
        assert text.count("stablehlo.convolution") == 3
        assert "dot_general" not in text
        assert "lhs_dilate = [2, 1]" not in text
    text = lowered(run, "cpu", *shapes)
    matmul, eigen = kernel[0] == 1, kernel[3] == 32
    assert text.count("stablehlo.convolution") == (0 if matmul else 3)
    assert text.count("stablehlo.dot_general") == (3 if matmul else 0)
    assert text.count("lhs_dilate = [2, 1]") == (3 if eigen else 0)


@pytest.mark.parametrize("where", ["around", "inside"])
def test_the_default_precision_is_obeyed(where):
    def run(x, kernel):
        with jax.default_matmul_precision("highest" if where == "inside" else None):
            return conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC)

    with jax.default_matmul_precision("highest" if where == "around" else None):
        if where == "around":
            run = lambda x, k: directions(conv_general_dilated, x, k)  # noqa: E731
        text = lowered(run, "cuda", (2, 5, 5, 4), (3, 3, 4, 5))
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert convolutions
    assert all("HIGHEST" in line for line in convolutions)


@pytest.mark.full_compiler
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"strides": 2, "padding": "VALID"},
        {"padding": ((1, 0), (2, 3)), "use_bias": False},
        {"padding": "CIRCULAR", "kernel_dilation": 2},
        {"padding": 1, "feature_group_count": 3},
        {"input_dilation": 2, "padding": 1},
        {"kernel_size": (1, 1), "strides": (1, 2)},
        {"dtype": jnp.bfloat16},
        {"precision": "highest"},
        {"mask": np.tril(np.ones((18, 12))).reshape(3, 1, 6, 12)},
    ],
)
def test_inside_of_linens_convolution(fields, random_variables):
    x = normal(2, 7, 6, 6)
    fields = {"kernel_size": (3, 1) if "mask" in fields else (3, 2)} | fields
    theirs = nn.Conv(12, **fields)
    ours = nn.Conv(12, **fields, conv_general_dilated=conv_general_dilated)
    variables = random_variables(theirs, x)

    def run(module, variables, x):
        y, pull = jax.vjp(module.apply, variables, x)
        return y, pull(jnp.cos(y))

    both = jax.jit(lambda v, x: (run(ours, v, x), run(theirs, v, x)))(variables, x)
    assert_close(*both, 0 if "dtype" in fields else 1e-5)
    # Linen takes one image, and several axes of batch.
    for images in (x[0], x[None]):
        assert_close(*(jax.jit(m.apply)(variables, images) for m in (ours, theirs)))


DEVICES = """
import flax.linen as nn, jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from flaxzoo.layers.lowering.convolution import conv_general_dilated, dot_general
from flaxzoo.layers.lowering.max_pool import max_pool_2d

assert len(jax.devices()) == 4

NHWC = ("NHWC", "HWIO", "NHWC")

def loss(x, k3, k1, kd, w, conv=conv_general_dilated, pool=max_pool_2d, dot=dot_general):
    y = conv(x, k3, (1, 1), "SAME", dimension_numbers=NHWC)
    y = pool(y, (3, 3), (2, 2), ((1, 1), (1, 1)))
    y = conv(jnp.sin(y), k1, (2, 2), "VALID", dimension_numbers=NHWC)
    y = conv(y, kd, (1, 1), "SAME", dimension_numbers=NHWC, feature_group_count=16)
    return (dot(y, w, (((3,), (0,)), ((), ()))) ** 2).sum()

rng = np.random.default_rng(0)
shapes = (8, 7, 8, 6), (3, 3, 6, 5), (1, 1, 5, 16), (3, 3, 1, 16), (16, 3)
host = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
ALL = tuple(range(5))
step = jax.value_and_grad(loss, ALL)
plain = lambda *a: loss(*a, jax.lax.conv_general_dilated, nn.max_pool, jax.lax.dot_general)
expected = jax.jit(jax.value_and_grad(plain, ALL))(*host)

def check(name, result):
    for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        error = np.abs(a - b).max() / np.abs(b).max()
        assert a.shape == b.shape and error < 1e-5, (name, error)
    print(name)

specs = P("data"), P(), P(), P(), P()

def placed(mesh):
    return [jax.device_put(a, NamedSharding(mesh, s)) for a, s in zip(host, specs)]

auto = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
explicit = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
check("jit", jax.jit(step)(*placed(auto)))
for mesh in (auto, explicit):
    with jax.set_mesh(mesh):
        check("set_mesh", jax.jit(step)(*placed(mesh)))
mapped = dict(in_specs=specs, mesh=auto)
for checked in (True, False):
    part = jax.shard_map(
        lambda *a: jax.lax.psum(loss(*a), "data"), out_specs=P(), check_vma=checked, **mapped
    )
    check("shard_map", jax.jit(jax.value_and_grad(part, ALL))(*host))
inside = jax.shard_map(
    lambda *a: (jax.lax.psum(loss(*a), "data"), jax.grad(loss, ALL)(*a)),
    out_specs=(P(), specs), **mapped,
)
check("gradient inside of shard_map", jax.jit(inside)(*host))
"""


@pytest.mark.slow
def test_several_devices(tmp_path):
    script = tmp_path / "devices.py"
    script.write_text(DEVICES)
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
    }
    command = [sys.executable, str(script)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 6


def test_disabled_jit_computes_the_same():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 2))

    def conv(x, kernel):
        return conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NHWC)

    with jax.disable_jit():
        value, gradient = jax.value_and_grad(lambda kernel: conv(x, kernel).sum())(kernel)
    assert value == conv(x, kernel).sum()
    np.testing.assert_allclose(gradient, jax.grad(lambda k: conv(x, k).sum())(kernel))
