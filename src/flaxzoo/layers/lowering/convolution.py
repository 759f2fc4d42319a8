"""The convolution and the product of every layer, and the one place that decides their lowering.

A convolution is bilinear, and so are its two gradients: of the three, each one's transposes are
the other two. They are primitives here, so that every transformation of JAX composes with them to
any order while each platform is free to compute them in its own way. Accelerators get XLA's
convolution, as from ``jax.lax``; CPUs get the formulations of
``flaxzoo.layers.lowering.conv_cpu`` where those are faster. ``docs/performance.md`` has the
measurements.

A product ``[N, C] @ [C, features]`` is the convolution whose window has no axis, ``MATMUL``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType, PartitionSpec

from flaxzoo._meshes import DATA, mesh_of_batches
from flaxzoo.layers.lowering import conv_cpu
from flaxzoo.layers.lowering.conv_cpu import DIMENSIONS, plain
from flaxzoo.layers.lowering.switch import is_divided, is_plain
from flaxzoo.layers.lowering.window import MATMUL, Window


def conv_general_dilated(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    **options: Any,
) -> jax.Array:
    """Computes ``jax.lax.conv_general_dilated``, faster on CPUs for two-dimensional NHWC images.

    Values and gradients are those of ``jax.lax`` to rounding. It fits
    ``flax.linen.Conv(conv_general_dilated=...)``. What has no formulation of its own (other
    layouts or ranks, dilated inputs, batch groups, mixed precisions) goes to ``jax.lax`` as it is.

    Args:
      lhs: inputs ``[N, H, W, C]``.
      rhs: kernel ``[h, w, C / feature_group_count, features]``.
      window_strides: the distances between windows, along height and width.
      padding: ``"SAME"``, ``"VALID"`` or the numbers of zeros before and after each axis.
      lhs_dilation: as ``jax.lax``'s.
      rhs_dilation: the distances between the kernel's elements.
      dimension_numbers: as ``jax.lax``'s; the formulations are for ``("NHWC", "HWIO", "NHWC")``.
      feature_group_count: the number of groups that the channels are split into.
      batch_group_count: as ``jax.lax``'s.
      precision: as ``jax.lax``'s.
      preferred_element_type: as ``jax.lax``'s.
      **options: further arguments of ``jax.lax``'s.

    Returns:
      ``[N, H', W', features]``.
    """
    strides = tuple(window_strides)
    dilation = (1, 1) if rhs_dilation is None else tuple(rhs_dilation)
    ours = (
        not is_plain()
        and lhs.ndim == rhs.ndim == 4
        and _is_nhwc(dimension_numbers)
        and (lhs_dilation is None or set(lhs_dilation) == {1})
        and batch_group_count == 1
        and precision is None
        and preferred_element_type is None
        and not options
        and _are_usual(lhs, rhs)
        and 0 not in (*lhs.shape[1:], *rhs.shape)
    )
    by_device = _is_divided_by_hand(lhs, rhs, dimension_numbers, feature_group_count)
    if not ours or by_device:
        convolve: Callable[..., Any] = functools.partial(
            jax.lax.conv_general_dilated,
            window_strides=strides,
            padding=padding,
            lhs_dilation=lhs_dilation,
            rhs_dilation=rhs_dilation,
            dimension_numbers=dimension_numbers,
            feature_group_count=feature_group_count,
            batch_group_count=batch_group_count,
            precision=precision,
            preferred_element_type=preferred_element_type,
            **options,
        )
        return _by_device(convolve)(lhs, rhs) if by_device else convolve(lhs, rhs)
    if isinstance(padding, str):
        sizes = [(n - 1) * d + 1 for n, d in zip(rhs.shape[:2], dilation, strict=True)]
        padding = jax.lax.padtype_to_pads(lhs.shape[1:3], sizes, strides, padding)
    pads = tuple((low, high) for low, high in padding)
    window = Window(strides, pads, dilation, feature_group_count)
    return _conv_p.bind(lhs, rhs, window=window)


def _is_divided_by_hand(lhs: Any, rhs: Any, dimension_numbers: Any, groups: int) -> bool:
    """Whether each device is told to convolve its own images.

    XLA's partitioner brings all images to every device for groups of several channels
    (https://github.com/openxla/xla/issues/47945).
    """
    mesh = mesh_of_batches()
    return (
        mesh is not None
        and groups > 1
        and lhs.ndim == rhs.ndim == 4
        and rhs.shape[2] > 1
        and lhs.shape[0] % mesh.shape[DATA] == 0
        and _is_nhwc(dimension_numbers)
        and not _is_sharded_by_type(lhs)
    )


def _by_device(convolve: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """The convolution of each device's images with the whole kernel."""
    rows, whole = PartitionSpec(DATA), PartitionSpec()
    return jax.shard_map(
        convolve,
        mesh=mesh_of_batches(),
        in_specs=(rows, whole),
        out_specs=rows,
        axis_names={DATA},
    )


def dot_general(
    lhs: jax.Array,
    rhs: jax.Array,
    dimension_numbers: Any,
    precision: Any = None,
    preferred_element_type: Any = None,
    **options: Any,
) -> jax.Array:
    """Computes ``jax.lax.dot_general``, with faster gradients on CPUs for inputs times a kernel.

    Values and gradients are those of ``jax.lax`` to rounding. It fits
    ``flax.linen.Dense(dot_general=...)``. What is not the product of the last axis of ``lhs`` with
    the first of a matrix goes to ``jax.lax`` as it is.

    Args:
      lhs: inputs ``[..., C]``.
      rhs: kernel ``[C, features]``.
      dimension_numbers: as ``jax.lax``'s.
      precision: as ``jax.lax``'s.
      preferred_element_type: as ``jax.lax``'s.
      **options: further arguments of ``jax.lax``'s.

    Returns:
      ``[..., features]``.
    """
    (contracted, batch) = dimension_numbers
    ours = (
        not is_plain()
        and rhs.ndim == 2
        and [[int(i) for i in axes] for axes in contracted] == [[lhs.ndim - 1], [0]]
        and not any(map(len, batch))
        and precision is None
        and preferred_element_type is None
        and not options
        and _are_usual(lhs, rhs)
        and 0 not in (*lhs.shape, *rhs.shape)
    )
    if not ours:
        return jax.lax.dot_general(
            lhs, rhs, dimension_numbers, precision, preferred_element_type, **options
        )
    y = _conv_p.bind(lhs.reshape(-1, lhs.shape[-1]), rhs, window=MATMUL)
    return y.reshape(*lhs.shape[:-1], rhs.shape[-1])


def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes ``x @ kernel`` by the faster formulation, which keeps the axes of ``x`` apart.

    ``dot_general`` makes one axis of them, which takes an axis apart that is divided among devices
    and is not the first.

    Args:
      x: inputs ``[..., C]``.
      kernel: kernel ``[C, features]``.

    Returns:
      ``[..., features]``.
    """
    if is_plain() or not _are_usual(x, kernel) or 0 in (*x.shape, *kernel.shape):
        return x @ kernel
    return _conv_p.bind(x, kernel, window=MATMUL)


def _are_usual(lhs: Any, rhs: Any) -> bool:
    """Whether the operands are of one floating dtype, and nothing else is asked of XLA."""
    return (
        lhs.dtype == rhs.dtype
        and jnp.issubdtype(lhs.dtype, jnp.floating)
        and jax.config.jax_default_matmul_precision is None  # type: ignore[attr-defined]
        and not _is_sharded_by_type(lhs)
        and not _is_sharded_by_type(rhs)
    )


def _is_nhwc(dimension_numbers: Any) -> bool:
    # By letters, or by jax.lax.ConvDimensionNumbers: batch and channels first.
    indices = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
    return dimension_numbers is not None and tuple(dimension_numbers) in (DIMENSIONS, indices)


def _is_sharded_by_type(x: Any) -> bool:
    # Inside shard_map, and on meshes of explicit axes, types carry what only jax.lax propagates.
    return any(kind != AxisType.Auto for kind in jax.typeof(x).sharding.mesh.axis_types)


def _primitive(
    name: str,
    default: Callable[..., Any],
    cpu: Callable[..., Any],
    divided: Callable[..., Any] | None = None,
) -> Primitive:
    """Makes a primitive of two arrays that accelerators and CPUs lower in their own ways.

    Args:
      name: its name.
      default: what accelerators compute.
      cpu: what CPUs compute.
      divided: what they compute in a program for several devices, if not ``cpu``.
    """
    primitive = Primitive(f"flaxzoo_{name}")

    @functools.partial(jax.jit, static_argnames=("window", "shape"))
    def compiled(a: jax.Array, b: jax.Array, **params: Any) -> jax.Array:
        return primitive.bind(a, b, **params)

    def alone(a: jax.Array, b: jax.Array, **params: Any) -> jax.Array:
        # With jit disabled, and where jax looks for the origin of a NaN, the compiled one would
        # come back here.
        config: Any = jax.config
        eager = config.jax_disable_jit or config.jax_debug_nans or config.jax_debug_infs
        return default(a, b, **params) if eager else compiled(a, b, **params)

    def shape_of(a: Any, b: Any, **params: Any) -> Any:
        # Gradients are told theirs; a trace of the default would be longer than all the rest.
        shape = params.get("shape")
        if shape is None:
            shape = jax.eval_shape(functools.partial(default, **params), a, b).shape
        return a.update(shape=shape, weak_type=False)

    primitive.def_impl(alone)
    primitive.def_abstract_eval(shape_of)
    mlir.register_lowering(primitive, mlir.lower_fun(default, multiple_results=False))

    def on_cpu(context: Any, *operands: Any, **params: Any) -> Any:
        function = divided if divided is not None and is_divided(context) else cpu
        return mlir.lower_fun(function, multiple_results=False)(context, *operands, **params)

    mlir.register_lowering(primitive, on_cpu, platform="cpu")
    return primitive


_conv_p = _primitive("conv", plain, conv_cpu.conv, conv_cpu.conv_divided)
_input_gradient_p = _primitive(
    "conv_input_gradient",
    conv_cpu.plain_input_gradient,
    conv_cpu.input_gradient,
    conv_cpu.input_gradient_divided,
)
_kernel_gradient_p = _primitive(
    "conv_kernel_gradient",
    conv_cpu.plain_kernel_gradient,
    conv_cpu.kernel_gradient,
    conv_cpu.kernel_gradient_divided,
)


def _conv(x: Any, kernel: Any, window: Window) -> Any:
    return _conv_p.bind(x, kernel, window=window)


def _input_gradient(gradient: Any, kernel: Any, window: Window, shape: tuple[int, ...]) -> Any:
    return _input_gradient_p.bind(gradient, kernel, window=window, shape=shape)


def _kernel_gradient(x: Any, gradient: Any, window: Window, shape: tuple[int, ...]) -> Any:
    return _kernel_gradient_p.bind(x, gradient, window=window, shape=shape)


# Each rule gets the cotangent and both operands; of the one to transpose, only the shape is known.
ad.defbilinear(
    _conv_p,
    lambda ct, x, kernel, window: _input_gradient(ct, kernel, window, x.aval.shape),
    lambda ct, x, kernel, window: _kernel_gradient(x, ct, window, kernel.aval.shape),
)
ad.defbilinear(
    _input_gradient_p,
    lambda ct, gradient, kernel, window, shape: _conv(ct, kernel, window),
    lambda ct, gradient, kernel, window, shape: _kernel_gradient(
        ct, gradient, window, kernel.aval.shape
    ),
)
ad.defbilinear(
    _kernel_gradient_p,
    lambda ct, x, gradient, window, shape: _input_gradient(gradient, ct, window, x.aval.shape),
    lambda ct, x, gradient, window, shape: _conv(x, ct, window),
)


def _batch(primitive: Primitive, default: Callable[..., Any], merges: bool) -> None:
    """Under ``vmap``, images of a batch of batches are more images of one batch.

    That holds while the kernel is shared. A kernel or a kernel's gradient for each is left to XLA,
    whose convolution has groups for it.
    """

    def rule(operands: Any, dims: Any, *, window: Window, shape: Any = None) -> Any:
        params: dict[str, Any] = {"window": window}
        if shape is not None:
            params["shape"] = shape
        if not merges or dims[1] is not None:
            return jax.vmap(functools.partial(default, **params), dims)(*operands), 0
        images, kernel = operands
        images = jnp.moveaxis(images, dims[0], 0)
        size, count = images.shape[:2]
        if shape is not None:
            params["shape"] = (size * count, *shape[1:])
        merged = images.reshape(size * count, *images.shape[2:])
        result = primitive.bind(merged, kernel, **params)
        return result.reshape(size, count, *result.shape[1:]), 0

    batching.primitive_batchers[primitive] = rule


_batch(_conv_p, plain, True)
_batch(_input_gradient_p, conv_cpu.plain_input_gradient, True)
_batch(_kernel_gradient_p, conv_cpu.plain_kernel_gradient, False)


def is_product(primitive: Any) -> bool:
    """Whether a primitive is this module's convolution, which dense layers are as well."""
    return primitive is _conv_p


def convolution_flops(eqn: Any) -> int:
    """Returns the floating-point operations of an equation whose primitive is of this module.

    The convolution and its two gradients have the same number: two for each pair of an output's
    element and an element that it is a sum over, padding included.
    """
    a, b = (operand.aval.shape for operand in eqn.invars)
    if eqn.primitive is _conv_p:
        output, kernel = eqn.outvars[0].aval.shape, b
    else:
        output, kernel = (a, b) if eqn.primitive is _input_gradient_p else (b, eqn.params["shape"])
    return 2 * math.prod(output) * math.prod(kernel[:-1])
