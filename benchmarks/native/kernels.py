"""Native kernels for convolutions on CPUs: built here, registered with XLA, tried out.

They are prototypes, not part of flaxzoo: ``docs/performance.md`` has what they would give, and
``docs/design.md`` why they do not ship. The C++ files beside this one are compiled by the system's
compiler (``CXX``, ``CXXFLAGS``) into ``build/``, once for each processor and version of the source,
command and jaxlib.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from flaxzoo.layers.lowering import depthwise_cpu
from flaxzoo.layers.lowering.window import Window

FOLDER = Path(__file__).parent
BUILD = FOLDER / "build"
FLAGS = ("-std=c++17", "-O3", "-march=native", "-DNDEBUG", "-shared", "-fPIC")
# What the kernel knows: sizes, strides, and the channels of AVX-512's vectors.
SIZES, STRIDES, FEWEST = (3, 5, 7), (1, 2), 16


def compiler() -> list[str] | None:
    """The command of a C++ compiler: ``CXX``, or the first one found, or None."""
    told = os.environ.get("CXX")
    if told:
        return told.split()
    found = next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)
    return [found] if found else None


def build(source: str = "depthwise") -> Path:
    """Compiles a file of this directory unless that is done, and returns the library.

    Args:
      source: the file's name without ``.cc``.

    Raises:
      OSError: there is no compiler.
      subprocess.CalledProcessError: it fails; ``stderr`` says why.
    """
    command = compiler()
    if command is None:
        raise OSError("no C++ compiler was found: set CXX")
    file = FOLDER / f"{source}.cc"
    flags = [*FLAGS, *os.environ.get("CXXFLAGS", "").split()]
    key = hashlib.sha256(file.read_bytes() + (FOLDER / "parallel.h").read_bytes())
    key.update("\0".join([*command, *flags, jaxlib.__version__, _processor()]).encode())
    library = BUILD / f"{source}-{key.hexdigest()[:16]}.so"
    if not library.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        # Another process may be at the same: each writes its own, and the last one stays.
        part = library.with_suffix(f".{os.getpid()}")
        whole = [*command, *flags, "-isystem", jax.ffi.include_dir(), str(file), "-o", str(part)]
        subprocess.run(whole, check=True, capture_output=True, text=True)
        part.replace(library)
    return library


@functools.cache
def load(source: str = "depthwise") -> ctypes.CDLL:
    """Builds a library, loads it and returns it."""
    return ctypes.CDLL(str(build(source)))


@functools.cache
def _register(name: str, source: str = "depthwise") -> str:
    jax.ffi.register_ffi_target(
        f"flaxzoo_{name}", jax.ffi.pycapsule(getattr(load(source), name)), platform="cpu"
    )
    return f"flaxzoo_{name}"


def version() -> str:
    """The compiler's name and version, as it says them."""
    command = [*(compiler() or ["c++"]), "--version"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")[0]


def _processor() -> str:
    """What ``-march=native`` follows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def serves(dtype: Any, kernel: Sequence[int], window: Window) -> bool:
    """Whether the kernel computes a depthwise convolution; it does not know any other."""
    rows, columns, width, features = kernel
    return (
        dtype == jnp.float32
        and rows == columns in SIZES
        and width == 1
        and features == window.groups >= FEWEST
        and window.strides[0] == window.strides[1] in STRIDES
        and set(window.dilation) == {1}
        and min(low for low, _ in window.padding) >= 0
    )


def forward(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Convolves each channel of ``[N, H, W, C]`` with its own of ``[h, w, 1, C]``."""
    sizes = [
        (n + low + high - k) // s + 1
        for n, k, s, (low, high) in zip(
            x.shape[1:3], kernel.shape[:2], window.strides, window.padding, strict=True
        )
    ]
    shape = (x.shape[0], *sizes, x.shape[3])
    return _call("depthwise_forward", shape, x, kernel, window, kernel.shape[0])


def to_input(
    gradient: jax.Array, kernel: jax.Array, window: Window, shape: Sequence[int]
) -> jax.Array:
    """Computes the gradient for an input of ``shape``."""
    return _call("depthwise_to_input", shape, gradient, kernel, window, kernel.shape[0])


def to_kernel(x: jax.Array, gradient: jax.Array, window: Window, shape: Sequence[int]) -> jax.Array:
    """Computes the gradient for a kernel of ``shape``."""
    return _call("depthwise_to_kernel", shape, x, gradient, window, shape[0])


def _call(
    name: str, shape: Sequence[int], a: jax.Array, b: jax.Array, window: Window, size: int
) -> jax.Array:
    (top, _), (left, _) = window.padding
    result = jax.ShapeDtypeStruct(tuple(shape), a.dtype)
    numbers = {"size": size, "stride": window.strides[0], "top": top, "left": left}
    call = jax.ffi.ffi_call(_register(name), result, vmap_method="sequential")
    return call(a, b, **{key: np.int64(value) for key, value in numbers.items()})


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    """Computes ``forward`` with the two gradients by the kernel; on CPUs only."""
    return forward(x, kernel, window)


convolve.defvjp(
    lambda x, kernel, window: (forward(x, kernel, window), (x, kernel)),
    lambda window, kept, gradient: (
        to_input(gradient, kept[1], window, kept[0].shape),
        to_kernel(kept[0], gradient, window, kept[1].shape),
    ),
)


def conv_general_dilated(
    x: jax.Array,
    kernel: jax.Array,
    strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
) -> jax.Array:
    """``convolve`` in the form of ``jax.lax``'s, for what compares them."""
    del dimension_numbers
    return convolve(x, kernel, Window(tuple(strides), tuple(padding), (1, 1), feature_group_count))


def dense_general_dilated(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """The forward pass of ``dense.cc``: 3 x 3, stride 1, the sizes and channels of ResNets."""
    result = jax.ShapeDtypeStruct((*x.shape[:3], kernel.shape[3]), x.dtype)
    return jax.ffi.ffi_call(_register("dense_forward", "dense"), result)(x, kernel)


def put_into_lowering() -> None:
    """Makes flaxzoo's depthwise convolutions this kernel's, in programs that are traced later."""
    plain = depthwise_cpu.conv, depthwise_cpu.input_gradient, depthwise_cpu.kernel_gradient

    def conv(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
        ours = serves(x.dtype, kernel.shape, window)
        return (forward if ours else plain[0])(x, kernel, window)

    def input_gradient(g: jax.Array, kernel: jax.Array, window: Window, shape: Any) -> jax.Array:
        ours = serves(g.dtype, kernel.shape, window)
        return (to_input if ours else plain[1])(g, kernel, window, shape)

    def kernel_gradient(x: jax.Array, g: jax.Array, window: Window, shape: Any) -> jax.Array:
        ours = serves(x.dtype, shape, window)
        return (to_kernel if ours else plain[2])(x, g, window, shape)

    depthwise_cpu.conv = conv
    depthwise_cpu.input_gradient = input_gradient
    depthwise_cpu.kernel_gradient = kernel_gradient
