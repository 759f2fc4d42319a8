"""Sequencer: LSTMs along the rows and columns of a map in the place of attention.

Each block runs one LSTM down and up every column and one along every row in both directions, and
mixes what both have found. Names and numbers are those of timm's ``sequencer`` module.

References:
  Sequencer: https://arxiv.org/abs/2205.01972
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_lengths, check_number, check_widths
from flaxzoo.errors import ShapeError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import DropPath
from flaxzoo.layers.initializers import GlorotUniform, LecunNormal, Normal, Uniform, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.lowering.recurrence import run_recurrence
from flaxzoo.layers.mlp import Mlp
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# timm's functions of some names take no other number of blocks.
CUT: dict[str, str] = {}
# What a block gets from the network as it is.
_PASSED_ON = (
    *("activation", "norm", "norm_epsilon", "block_dropout", "drop_path", "custom_gradient"),
    *("dtype", "param_dtype"),
)


class BidirectionalLSTM(Layer):
    """One LSTM from the first step to the last and one from the last to the first, side by side.

    Parameters are named and numbered as those of ``torch.nn.LSTM``, two biases included, with
    transposed weights: ``weight_ih_l0`` ``[C, 4 * units]``, ``weight_hh_l0``
    ``[units, 4 * units]``, ``bias_ih_l0``, ``bias_hh_l0``, and the same with ``_reverse``.

    Attributes:
      units: of each direction.
      custom_gradient: the hand-written reverse pass; False for forward-mode or second derivatives.
    """

    units: int
    custom_gradient: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps steps ``[T, N, C]`` to ``[T, N, 2 * units]``."""
        return jnp.concatenate([self.run(x, "l0"), self.run(x, "l0_reverse")], axis=-1)

    def run(self, x: jax.Array, suffix: str) -> jax.Array:
        """Runs one direction."""
        size, init = self.units, Uniform(1 / math.sqrt(self.units))

        def param(name: str, *shape: int) -> Any:
            return self.param(f"{name}_{suffix}", init, (*shape, 4 * size), self.param_dtype)

        arrays = [param("weight_ih", x.shape[-1]), param("weight_hh", size)]
        arrays += [param("bias_ih"), param("bias_hh")]
        x, inner, outer, first, second = nn.dtypes.promote_dtype(x, *arrays, dtype=self.dtype)
        steps, count, width = x.shape
        z = (x.reshape(steps * count, width) @ inner).reshape(steps, count, 4 * size)
        start = jnp.zeros((count, size), x.dtype)
        arguments = (z, outer, first + second, start, start, None, suffix == "l0_reverse", 1)
        return run_recurrence(*arguments, custom_gradient=self.custom_gradient)[0]


class CrossLSTM(Layer):
    """LSTMs along columns and rows of a map, and a layer that mixes what both return.

    Tatsunami and Taki 2022, https://arxiv.org/abs/2205.01972, section 3.2. Parameters are named as
    timm's ``LSTM2d``: ``rnn_v``, ``rnn_h``, ``fc``.

    The attributes are those of ``BidirectionalLSTM``.
    """

    units: int
    custom_gradient: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""
        batch, height, width, channels = x.shape
        lstm = functools.partial(
            BidirectionalLSTM, self.units, custom_gradient=self.custom_gradient, **self.dtypes
        )
        columns = x.transpose(1, 0, 2, 3).reshape(height, batch * width, channels)
        columns = lstm(name="rnn_v")(columns).reshape(height, batch, width, -1)
        rows = x.transpose(2, 0, 1, 3).reshape(width, batch * height, channels)
        rows = lstm(name="rnn_h")(rows).reshape(width, batch, height, -1)
        both = [columns.transpose(1, 0, 2, 3), rows.transpose(1, 2, 0, 3)]
        options: dict[str, Any] = {
            "kernel_init": GlorotUniform(),
            "bias_init": zeros,
            **self.dtypes,
        }
        return Dense(channels, name="fc", **options)(jnp.concatenate(both, axis=-1))


class SequencerBlock(Layer):
    """LSTMs along columns and rows, then an MLP on each pixel, each behind a norm and added.

    Parameters are named as timm's ``Sequencer2dBlock``.

    Attributes:
      units: those of each direction of an LSTM.
      mlp_ratio: the hidden units of the MLP, as a multiple of the channels.
      activation: of the MLP, by name or callable.
      norm: the kind of the norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      custom_gradient: see ``Sequencer``.
      block_dropout: the rate at which units of the MLP are dropped.
      drop_path: the rate at which a branch is dropped for a whole example.
    """

    units: int
    mlp_ratio: float = 3.0
    activation: Any = "gelu"
    norm: Any = "layer"
    norm_epsilon: float | None = None
    custom_gradient: bool = True
    block_dropout: float = 0.0
    drop_path: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to the same shape."""

        def normalise(x: jax.Array, name: str) -> jax.Array:
            norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
            return call_norm(norm, x, train=train)

        def drop(y: jax.Array, name: str) -> jax.Array:
            return DropPath(self.drop_path, name=name)(y, deterministic=not train)

        options: dict[str, Any] = {"custom_gradient": self.custom_gradient, **self.dtypes}
        y = CrossLSTM(self.units, name="rnn_tokens", **options)(normalise(x, "norm1"))
        x = x + drop(y, "drop_path1")
        fields: dict[str, Any] = {"activation": self.activation, "dropout": self.block_dropout}
        fields |= {"kernel_init": GlorotUniform(), "bias_init": Normal(1e-6), **self.dtypes}
        mlp = Mlp(int(self.mlp_ratio * x.shape[-1]), name="mlp_channels", **fields)
        return x + drop(mlp(normalise(x, "norm2"), train), "drop_path2")


class Patches(Layer):
    """A convolution of patches, a submodule of the name that timm gives it.

    Attributes:
      features: the channels.
      size: the rows and columns of a patch; what is left over at the end is left out.
      inner: the submodule's name.
    """

    features: int
    size: int
    inner: str = "proj"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / size, W / size, features]``, rounded down."""
        options: dict[str, Any] = {"use_bias": True, "kernel_init": LecunNormal()}
        options |= {**self.dtypes, "name": self.inner}
        return Conv(self.features, self.size, stride=self.size, padding=0, **options)(x)


class Sequencer(Backbone):
    """A Sequencer without its classifier: patches, stages of blocks, and the last norm.

    Maps are those behind each stage, before the last norm.

    Attributes:
      layers: the number of blocks of each stage.
      widths: the channels of each stage.
      units: those of each direction of an LSTM, in each stage.
      patch_sizes: the size and stride of the convolution before each stage.
      mlp_ratios: the hidden units of the MLPs of each stage, as a multiple of the channels.
      activation: of the MLPs, by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      custom_gradient: whether LSTMs have the fast hand-written reverse pass, which has first
        derivatives in reverse mode only; set False for ``jax.jvp``, ``jax.hessian`` and the like.
      block_dropout: the rate at which units of the MLPs are dropped.
      drop_path: the rate of stochastic depth, of all blocks.
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (4, 3, 8, 3)
    widths: Sequence[int] = (192, 384, 384, 384)
    units: Sequence[int] = (48, 96, 96, 96)
    patch_sizes: Sequence[int] = (7, 2, 1, 1)
    mlp_ratios: Sequence[float] = (3.0, 3.0, 3.0, 3.0)
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    custom_gradient: bool = True
    block_dropout: float = 0.0
    drop_path: float = 0.0
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The patches, the blocks ``stages_0_blocks_0`` and so on, and the last norm."""
        patches = functools.partial(self._patches, 0, "proj")
        yield Part("stem", patches, owns=("stem",), takes="images")
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        for stage, count in enumerate(self.layers):
            last = f"stages_{stage}_blocks_0"
            if stage > 0:
                down = functools.partial(self._patches, stage, "down")
                yield Part(last, down, owns=(f"stages_{stage}_downsample",))
            fields.update(units=self.units[stage], mlp_ratio=self.mlp_ratios[stage])
            for i in range(count):
                last = f"stages_{stage}_blocks_{i}"
                yield Part(
                    last,
                    functools.partial(SequencerBlock, **fields),
                    map=f"stages_{stage}" if i == count - 1 else None,
                    reduction=math.prod(self.patch_sizes[: stage + 1]),
                    remat=self.remat,
                )
        yield Part("norm", self._norm, owns=("norm",), depth=last)

    def _patches(self, stage: int, inner: str, x: jax.Array, _train: bool) -> jax.Array:
        size = self.patch_sizes[stage]
        if min(x.shape[1:3]) < size:
            raise ShapeError(
                f"maps before stage {stage} must be of {size} x {size} pixels at least, got "
                f"{x.shape[1]} x {x.shape[2]}: give larger images"
            )
        name = f"stages_{stage}_downsample" if stage else "stem"
        fields: dict[str, Any] = {"inner": inner, "name": name, **self.dtypes}
        return Patches(self.widths[stage], size, **fields)(x)

    def _norm(self, x: jax.Array, train: bool) -> jax.Array:
        norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=train)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The classifier begins with zeros."""
        return {**super().head_options(), "kernel_init": zeros}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        lists = {name: getattr(self, name) for name in ("layers", "widths", "units", "patch_sizes")}
        for name, value in lists.items():
            check_widths(name, value)
        check_lengths(**lists, mlp_ratios=self.mlp_ratios)
        for ratio in self.mlp_ratios:
            check_number("mlp_ratios", ratio, above=0)


def _convert(tensors: Mapping[str, Any], _backbone: Sequencer) -> Mapping[str, Any]:
    """Today's names for the tensors of the authors' files."""
    if "stages.0.blocks.0.norm1.weight" in tensors:
        return tensors
    return {_today(name): value for name, value in tensors.items()}


def _today(name: str) -> str:
    """Returns timm's name for one of the authors', whose stages end with what leads to the next."""
    name = re.sub(
        r"^blocks\.(\d+)\.\d+\.down", lambda m: f"stages.{int(m[1]) + 1}.downsample.down", name
    )
    name = re.sub(r"^blocks\.(\d+)\.(\d+)", r"stages.\1.blocks.\2", name)
    return re.sub(r"^head\.", "head.fc.", name)


variants(
    Sequencer,
    {
        "sequencer2d_s": row("Sequencer2D-S"),
        "sequencer2d_m": row("Sequencer2D-M", layers=(4, 3, 14, 3)),
        "sequencer2d_l": row("Sequencer2D-L", layers=(8, 8, 16, 4)),
    },
    paper="https://arxiv.org/abs/2205.01972",
    reference=Reference(
        stem=("stem/proj",),
        classifier="head.fc",
        layouts=(("params/backbone/*/weight_?h_l0*", "kernel"),),
        convert=_convert,
    ),
)
