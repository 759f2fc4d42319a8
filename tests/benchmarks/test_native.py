import shutil
import subprocess

import jax
import numpy as np
import pytest
from native import kernels

from flaxzoo.layers.lowering import depthwise_cpu
from flaxzoo.layers.lowering.convolution import conv_general_dilated
from flaxzoo.layers.lowering.window import Window

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        kernels.compiler() is None or jax.default_backend() != "cpu", reason="no C++ compiler"
    ),
]
LAYOUT = ("NHWC", "HWIO", "NHWC")
# Height, width, channels, kernel, stride, padding: whole tiles and rests, of pixels and channels.
CASES = [
    (14, 14, 32, 3, 1, ((1, 1), (1, 1))),
    (9, 11, 40, 3, 2, ((0, 1), (1, 0))),
    (8, 17, 16, 5, 2, ((2, 2), (2, 2))),
    (5, 3, 24, 5, 1, ((0, 4), (5, 2))),
    (7, 7, 72, 7, 1, ((3, 3), (3, 3))),
    (15, 8, 17, 7, 2, ((4, 1), (3, 3))),
]


@pytest.fixture(scope="module", autouse=True)
def _built_quickly(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "BUILD", tmp_path_factory.mktemp("build"))
        patch.setenv("CXXFLAGS", "-O1")
        kernels.load()
        yield


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_of_xla(case):
    height, width, channels, size, stride, padding = case
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, height, width, channels), np.float32)
    kernel = rng.standard_normal((size, size, 1, channels), np.float32)

    def ours(x, kernel):
        return kernels.convolve(x, kernel, Window((stride, stride), padding, (1, 1), channels))

    def theirs(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, None, None, LAYOUT, channels
        )

    with jax.enable_x64(True):
        exact = (x.astype(np.float64), kernel.astype(np.float64))
        expected, back = jax.vjp(jax.jit(theirs), *exact)
        gradient = rng.standard_normal(expected.shape)
        expected_dx, expected_dk = back(gradient)
    found, back = jax.vjp(jax.jit(ours), x, kernel)
    dx, dk = back(gradient.astype(np.float32))
    for a, b in ((found, expected), (dx, expected_dx), (dk, expected_dk)):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6 * np.abs(b).max())


def test_it_takes_the_place_of_the_loops(monkeypatch):
    for name in ("conv", "input_gradient", "kernel_gradient"):
        monkeypatch.setattr(depthwise_cpu, name, getattr(depthwise_cpu, name))
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 8, 8, 16)), rng.standard_normal((3, 3, 1, 16))
    x, kernel = x.astype(np.float32), kernel.astype(np.float32)

    def loss(kernel, dilation):
        # A function of its own, that no cache knows.
        pads = ((dilation, dilation),) * 2
        twice = (dilation, dilation)
        y = conv_general_dilated(x, kernel, (1, 1), pads, None, twice, LAYOUT, 16)
        return (y**2).sum()

    def compiled(dilation):
        return jax.jit(jax.grad(lambda kernel: loss(kernel, dilation))).lower(kernel).compile()

    plain = compiled(1)
    kernels.put_into_lowering()
    native, dilated = compiled(1), compiled(2)
    for name in ("depthwise_forward", "depthwise_to_kernel"):
        assert name in native.as_text()
        assert name not in plain.as_text()
        assert name not in dilated.as_text()
    np.testing.assert_allclose(native(kernel), plain(kernel), rtol=1e-4, atol=1e-3)


def test_what_does_not_build_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(kernels, "BUILD", tmp_path)
    monkeypatch.setenv("CXXFLAGS", "-include missing.h")
    with pytest.raises(subprocess.CalledProcessError) as failure:
        kernels.build()
    assert "missing.h" in failure.value.stderr
    assert not list(tmp_path.iterdir())
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(OSError, match="set CXX"):
        kernels.build()
