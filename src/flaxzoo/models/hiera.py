"""Hiera: four stages of plain attention, which learnt where things are by filling in masked units.

The first two stages attend within mask units of 8 x 8 patches, the others among all tokens. The
four tokens that a later stage pools stand one behind the other, so that there are no windows to
cut and to paste. Names and numbers are those of timm's ``hiera`` module.

References:
  Hiera: https://arxiv.org/abs/2306.00989
  Positions in mask units, the ``abswin`` names: https://arxiv.org/abs/2311.05613
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import (
    check_choice,
    check_flag,
    check_kernel,
    check_lengths,
    check_rate,
    check_size,
    check_widths,
)
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.attention import attend, weight_hook
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import drop_path_rates
from flaxzoo.layers.initializers import (
    Constant,
    GlorotUniform,
    LecunNormal,
    Normal,
    plain_bias,
    zeros,
)
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.patch_embed import OverlapPatchEmbed, check_image_size
from flaxzoo.layers.pos_embed import Grid, resample_positions
from flaxzoo.layers.transformer import TransformerBlock
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# Between two patches; between two tokens whose maximum a later stage takes, along one side.
_STRIDE, _POOL = 4, 2
# What a block gets from the network as it is.
_PASSED_ON = (
    *("mlp_ratio", "activation", "layer_scale", "shortcut", "weight_init", "norm", "norm_epsilon"),
    *("implementation", "dtype", "param_dtype"),
)
_SHORTCUTS = ("project", "pool")
_INITS = ("normal", "xavier")
_POSITION_INIT = Normal(0.02)


class MaskUnitAttention(Layer):
    """Self-attention within mask units or among all tokens, whose queries may be pooled.

    Parameters are named as timm's ``MaskUnitAttention``: ``qkv``, ``proj``.

    Attributes:
      features: the width of the output.
      heads: the number of heads.
      pool: how many tokens, one behind the other, each query is the maximum of.
      window: the number of tokens of a mask unit; None for attention among all.
      implementation: ``"einsum"``, ``"xla"`` or ``"cudnn"`` (``flaxzoo.layers.attention.attend``).
      kernel_init: the initialiser of the first layer's kernel.
      proj_init: that of the last layer's.
      bias_init: that of the biases.
    """

    features: int
    heads: int
    pool: int = 1
    window: int | None = None
    implementation: str = "einsum"
    kernel_init: Any = Normal(0.02)
    proj_init: Any = Normal(0.02)
    bias_init: Any = zeros

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens ``[B, N, C]``, in the order of ``unrolled``, to ``[B, N / pool, features]``.

        Args:
          x: tokens.
          train: is of no consequence: nothing is dropped.
        """
        batch, count, _ = x.shape
        window = count if self.window is None else self.window
        qkv = self._dense(3 * self.features, "qkv", self.kernel_init)(x)
        # The first tokens of all units stand before the second ones.
        shape = (count // window, 3, self.heads, self.features // self.heads)
        qkv = qkv.reshape(batch, window, *shape)
        q, k, v = (qkv[:, :, :, i] for i in range(3))
        if self.pool > 1:
            q = _side_by_side(q, self.pool).max(1)
        q, k, v = (
            part.swapaxes(1, 2).reshape(-1, part.shape[1], *part.shape[3:]) for part in (q, k, v)
        )
        drop = weight_hook(self, 0.0, train)
        y = attend(q, k, v, drop=drop, implementation=self.implementation)
        y = y.reshape(batch, count // window, -1, self.features).swapaxes(1, 2)
        y = y.reshape(batch, count // self.pool, self.features)
        return self._dense(self.features, "proj", self.proj_init)(y)

    @nn.nowrap
    def _dense(self, features: int, name: str, kernel_init: Any) -> Dense:
        inits = {"kernel_init": kernel_init, "bias_init": self.bias_init}
        return Dense(features, name=name, **inits, **self.dtypes)


class HieraBlock(TransformerBlock):
    """A transformer's block that may pool its tokens and widen them.

    Parameters are named as timm's ``HieraBlock``: ``norm1``, ``proj``, ``attn``, ``ls1``,
    ``norm2``, ``mlp``, ``ls2``.

    Attributes:
      features: the width of the output.
      pool: how many tokens, one behind the other, become one.
      window: the number of tokens of a mask unit before pooling; None for attention among all.
      shortcut: how tokens are widened: ``"project"``, by a layer and then the maximum of those
        pooled; ``"pool"``, by their maximum and their mean, side by side.
      weight_init: ``"normal"`` or ``"xavier"``, as ``Hiera.weight_init``.
      number: the block's number, from 1: the last layers of later ones begin smaller.
    """

    features: int = 96
    pool: int = 1
    window: int | None = None
    shortcut: str = "project"
    weight_init: str = "normal"
    number: int = 1

    @nn.compact
    # Its positions are the tokens' own.
    def __call__(  # type: ignore[override]
        self, x: jax.Array, train: bool = False
    ) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to ``[B, N / pool, features]``."""
        y = self.normalise(x, "norm1")
        if x.shape[-1] != self.features:
            x = self._widened(x, y)
        y = MaskUnitAttention(
            self.features,
            self.heads,
            self.pool,
            self.window,
            self.implementation,
            name="attn",
            proj_init=self._kernel_init(last=True),
            **self._inits,
            **self.dtypes,
        )(y, train)
        x = x + self.branch(y, "ls1", "drop_path1", train)
        y = self.feed_forward(self.normalise(x, "norm2"), "mlp", train)
        return x + self.branch(y, "ls2", "drop_path2", train)

    def _widened(self, x: jax.Array, normed: jax.Array) -> jax.Array:
        """Computes the shortcut, pooled and of the output's width."""
        if self.shortcut == "pool":
            x = _side_by_side(x, self.pool)
            return jnp.concatenate([x.max(1), x.mean(1)], axis=-1)
        x = Dense(self.features, name="proj", **self._inits, **self.dtypes)(normed)
        return _side_by_side(x, self.pool).max(1)

    @nn.nowrap
    def mlp_options(self) -> dict[str, Any]:
        """Returns how its MLP begins."""
        inits = {**self._inits, "last_init": self._kernel_init(last=True)}
        if self.weight_init == "xavier":
            inits["bias_init"] = Normal(1e-6)
        return inits

    @property
    def _inits(self) -> dict[str, Any]:
        bias = zeros if self.weight_init == "xavier" else Constant(0.02)
        return {"kernel_init": self._kernel_init(), "bias_init": bias}

    @nn.nowrap
    def _kernel_init(self, last: bool = False) -> Any:
        gain = 1 / math.sqrt(2 * self.number) if last else 1.0
        return GlorotUniform(gain) if self.weight_init == "xavier" else Normal(0.02 * gain)


class Hiera(Backbone):
    """A Hiera without its classifier: patches and stages of blocks, each but the first pooling.

    It maps images ``[B, H, W, C]`` to tokens ``[B, H / 32 * W / 32, 8 * width]``.

    Attributes:
      input_shape: ``[H, W, C]`` of the images; the sides are multiples of a mask unit's, which are
        32 for four stages.
      layers: the number of blocks of each stage.
      width: of a token in the first stage; it doubles with each.
      heads: the number of heads in the first stage; it doubles as well.
      window_attention: for each stage, whether it attends within mask units; the first block of a
        stage attends as the stage before.
      mlp_ratio: the hidden units of each MLP, as a multiple of the width.
      activation: of the MLPs, by name or callable.
      position_grid: the rows and columns of positions that are resampled to the image, to which
        those within a mask unit are added; None for one position of each patch.
      shortcut: how a stage's first block widens its tokens, ``"project"`` or ``"pool"``
        (``HieraBlock``).
      layer_scale: what the learnt scales of the branches begin with; None for no scales.
      weight_init: the first weights: ``"normal"``, of one deviation, or ``"xavier"``.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon.
      patch_dropout: rate at which mask units are left out of training.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0.
      implementation: of the attention (``flaxzoo.layers.attention.attend``).
      remat: whether blocks are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    input_shape: tuple[int, int, int] = (224, 224, 3)
    layers: Sequence[int] = (2, 3, 16, 3)
    width: int = 96
    heads: int = 1
    window_attention: Sequence[bool] = (True, True, False, False)
    mlp_ratio: float = 4.0
    activation: str | Callable[[jax.Array], jax.Array] = "gelu"
    position_grid: Grid | None = None
    shortcut: str = "project"
    layer_scale: float | None = None
    weight_init: str = "normal"
    norm: Any = "layer"
    norm_epsilon: float = 1e-6
    patch_dropout: float = 0.0
    drop_path: float = 0.0
    implementation: str = "einsum"
    remat: bool | str = False

    @property
    def grid(self) -> Grid:
        """The rows and columns of patches."""
        return self.input_shape[0] // _STRIDE, self.input_shape[1] // _STRIDE

    @property
    def unit(self) -> int:
        """The rows and columns of patches of a mask unit."""
        return _POOL ** (len(self.layers) - 1)

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The tokens, then the blocks ``blocks_0``, ``blocks_1`` and so on of all stages."""
        owns = ("patch_embed", "pos_embed", *(["pos_embed_win"] if self.position_grid else []))
        yield Part("embed", self._embed, owns=owns, takes="images")
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        rates = drop_path_rates(self.drop_path, sum(self.layers))
        number, window = 0, self.window_attention[0]
        for stage, count in enumerate(self.layers):
            levels = len(self.layers) - 1 - stage
            for i in range(count):
                pools = stage > 0 and i == 0
                tokens = _POOL ** (2 * (levels + pools))
                block = functools.partial(
                    HieraBlock,
                    features=self.width * 2**stage,
                    heads=self.heads * 2**stage,
                    pool=_POOL**2 if pools else 1,
                    window=tokens if window else None,
                    number=number + 1,
                    drop_path=rates[number],
                    **fields,
                )
                window = self.window_attention[stage]
                name, last = f"blocks_{number}", i == count - 1
                rolled = functools.partial(self._map, levels)
                yield Part(
                    name,
                    block,
                    takes="tokens",
                    map=name if last else None,
                    reduction=_STRIDE * 2**stage,
                    view=rolled,
                    remat=self.remat,
                )
                number += 1

    def _embed(self, x: jax.Array, train: bool) -> jax.Array:
        check_image_size(x, self.input_shape)
        numbers = self._kept_units(x.shape[0], train)
        if numbers is not None:
            x = jnp.where(self._seen(numbers), x, jnp.zeros((), x.dtype))
        if self.weight_init == "xavier":
            inits: dict[str, Any] = {"kernel_init": LecunNormal(), "bias_init": zeros}
        else:
            inits = {"kernel_init": Normal(0.02), "bias_init": plain_bias}
        options = {**inits, **self.dtypes}
        x = OverlapPatchEmbed(self.width, 7, _STRIDE, name="patch_embed", **options)(x, train)
        x = unrolled(x + self._positions().astype(x.dtype), len(self.layers) - 1)
        if numbers is None:
            return x
        batch, _, width = x.shape
        x = x.reshape(batch, self.unit**2, -1, width)
        x = jnp.take_along_axis(x, numbers[:, None, :, None], axis=2)
        return x.reshape(batch, -1, width)

    def _positions(self) -> jax.Array:
        """Makes the positions ``[1, rows, columns, width]``."""
        (rows, columns), width = self.grid, self.width
        if self.position_grid is None:
            shape = (1, rows * columns, width)
            table = self.param("pos_embed", _POSITION_INIT, shape, self.param_dtype)
            return table.reshape(1, rows, columns, width)
        old, unit = self.position_grid, self.unit
        table = self.param("pos_embed", _POSITION_INIT, (1, *old, width), self.param_dtype)
        table = table.reshape(1, math.prod(old), width)
        table = resample_positions(table, self.grid, old_grid=old)
        square = (1, unit, unit, width)
        inner = self.param("pos_embed_win", _POSITION_INIT, square, self.param_dtype)
        inner = jnp.tile(inner, (1, rows // unit, columns // unit, 1))
        return table.reshape(inner.shape) + inner

    def _kept_units(self, batch: int, train: bool) -> jax.Array | None:
        """Draws the numbers of the mask units that are seen, ``[B, K]``; None for all."""
        if not (train and self.patch_dropout):
            return None
        count = math.prod(self.grid) // self.unit**2
        kept = max(1, int(count * (1 - self.patch_dropout)))
        noise = jax.random.uniform(self.make_rng("dropout"), (batch, count))
        return jnp.sort(jnp.argsort(noise, axis=1)[:, :kept], axis=1)

    @nn.nowrap
    def _seen(self, numbers: jax.Array) -> jax.Array:
        """Returns which pixels the units of these numbers show, ``[B, H, W, 1]``."""
        rows, columns = (side // self.unit for side in self.grid)
        units = (numbers[:, :, None] == jnp.arange(rows * columns).reshape(1, 1, -1)).any(1)
        units = units.reshape(-1, rows, columns, 1)
        pixels = self.unit * _STRIDE
        return units.repeat(pixels, axis=1).repeat(pixels, axis=2)

    @nn.nowrap
    def _map(self, levels: int, x: jax.Array) -> jax.Array:
        """Returns tokens behind a block as a map."""
        stage = len(self.layers) - 1 - levels
        rows, columns = (side // 2**stage for side in self.grid)
        if x.shape[1] != rows * columns:
            raise ShapeError(
                f"maps are made of all {rows * columns} tokens, got {list(x.shape)}: give no "
                "patch_dropout, or ask for the features"
            )
        return rolled(x, (rows, columns), levels)

    @nn.nowrap
    def pooling_options(self) -> dict[str, Any]:
        """The fields of a ``Head`` that pools these tokens."""
        return {"pooling": "avg"}

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The norm behind the pooling, and a classifier that begins with nothing."""
        norm = {"norm": self.norm, "norm_epsilon": self.norm_epsilon}
        return {**super().head_options(), **norm, "kernel_init": zeros}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the parameters that are not decayed: as in timm, not those of mask units."""
        return ("pos_embed",)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_widths("layers", self.layers)
        check_lengths(layers=self.layers, window_attention=self.window_attention)
        for value in self.window_attention:
            check_flag("window_attention", value)
        for name in ("width", "heads"):
            check_size(name, getattr(self, name))
        for name in ("drop_path", "patch_dropout"):
            check_rate(name, getattr(self, name))
        check_choice("shortcut", self.shortcut, _SHORTCUTS)
        check_choice("weight_init", self.weight_init, _INITS)
        if self.position_grid is not None:
            check_kernel("position_grid", self.position_grid)
        if self.width % self.heads:
            raise ArgumentError(f"width must be a multiple of heads={self.heads}, got {self.width}")
        side = self.unit * _STRIDE
        if len(self.input_shape) != 3 or any(n % side or n < 1 for n in self.input_shape[:2]):
            raise ArgumentError(
                "input_shape must be (height, width, channels), whole mask units of "
                f"{side} x {side}, got {self.input_shape}"
            )
        next(part for part in self.parts() if part.map).run(parent=None).check_fields()


def unrolled(x: jax.Array, levels: int) -> jax.Array:
    """Puts the tokens of a map ``[B, H, W, C]`` into the order in which they are pooled.

    Args:
      x: the map; its sides are multiples of ``2**levels``.
      levels: how often 2 x 2 tokens are pooled.

    Returns:
      ``[B, H * W, C]``: first the place in 2 x 2, then that of these in 2 x 2, at last the number
      of the square of ``2**levels`` rows and columns, by rows.
    """
    batch, rows, columns, width = x.shape
    twos = (_POOL,) * levels
    x = x.reshape(batch, rows // 2**levels, *twos, columns // 2**levels, *twos, width)
    down, right = (tuple(range(start, start + levels + 1)) for start in (1, levels + 2))
    # The last axes are the finest; they come first, down and right in turn.
    order = (axis for pair in zip(down[::-1], right[::-1], strict=True) for axis in pair)
    return x.transpose(0, *order, x.ndim - 1).reshape(batch, rows * columns, width)


def rolled(x: jax.Array, grid: Grid, levels: int) -> jax.Array:
    """Returns the map ``[B, H, W, C]`` of tokens; the inverse of ``unrolled``."""
    (rows, columns), (batch, _, width) = grid, x.shape
    units = (rows // 2**levels, columns // 2**levels)
    x = x.reshape(batch, *(_POOL,) * (2 * levels), *units, width)
    down, right = (range(last, 0, -2) for last in (x.ndim - 3, x.ndim - 2))
    return x.transpose(0, *down, *right, x.ndim - 1).reshape(batch, rows, columns, width)


def _side_by_side(x: jax.Array, count: int) -> jax.Array:
    """Returns tokens ``[B, N, ...]`` with those that become one along axis 1, ``count`` of them."""
    return x.reshape(x.shape[0], count, x.shape[1] // count, *x.shape[2:])


def _convert(tensors: Mapping[str, Any], _backbone: Hiera) -> Mapping[str, Any]:
    """Timm's names for the tensors of the authors' files."""
    prefixes = {"encoder_norm.": "head.norm.", "norm.": "head.norm."}

    def name(old: str) -> str:
        for prefix, new in prefixes.items():
            if old.startswith(prefix):
                return new + old[len(prefix) :]
        old = old.replace("head.projection.", "head.fc.")
        return "pos_embed" if old == "pos_embed_abs" else old

    return {name(old): value for old, value in tensors.items()}


def _resize(table: Any, _shape: Any, _backbone: Hiera, _old: Any, _new: Any) -> Any:
    """Refuses a file of positions for images of another size, as timm does."""
    if table.ndim == 4:
        # A grid of its own, whatever the image's size.
        return table
    raise ShapeError(
        f"input_shape: these weights have a position for each of {table.shape[1]} patches, which "
        "repeat by mask units and cannot be resampled: take their own size, or an abswin name"
    )


REFERENCE = Reference(
    stem=("patch_embed/proj",),
    classifier="head.fc",
    head=(("norm", "head.norm"),),
    layouts=(("*/pos_embed", "map"), ("*/pos_embed_win", "map")),
    convert=_convert,
    resized=(("params/backbone/pos_embed", _resize),),
)
CUT = {"layers": "stages"}

_ABSWIN: dict[str, Any] = {
    "input_shape": (256, 256, 3),
    "layer_scale": 1e-5,
    "weight_init": "xavier",
}
_ABSWIN["paper"] = "https://arxiv.org/abs/2311.05613"
variants(
    Hiera,
    {
        "hiera_tiny_224": row("Hiera-T", layers=(1, 2, 7, 2)),
        "hiera_small_224": row("Hiera-S", layers=(1, 2, 11, 2)),
        "hiera_base_224": row("Hiera-B"),
        "hiera_base_plus_224": row("Hiera-B+", width=112, heads=2),
        "hiera_large_224": row("Hiera-L", layers=(2, 6, 36, 4), width=144, heads=2),
        "hiera_huge_224": row("Hiera-H", layers=(2, 6, 36, 4), width=256, heads=4),
        "hiera_small_abswin_256": row(
            "Hiera-S with positions in mask units",
            layers=(1, 2, 11, 2),
            position_grid=(16, 16),
            shortcut="pool",
            **_ABSWIN,
        ),
        "hiera_base_abswin_256": row(
            "Hiera-B with positions in mask units", position_grid=(14, 14), **_ABSWIN
        ),
    },
    paper="https://arxiv.org/abs/2306.00989",
    reference=REFERENCE,
)
