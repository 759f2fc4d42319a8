"""ResNets whose blocks attend where others convolve: BoTNet, HaloNet, LambdaNetworks.

Names and numbers are those of timm's ``byoanet`` module ("bring your own attention"): networks of
``flaxzoo.models.byobnet`` with attention in some bottlenecks. In ``botnet`` each pixel attends to
the whole map, in ``halonet`` to its block and a halo of neighbours around that; in ``lambda``
queries are multiplied by matrices that the map and each pixel's neighbours are summed up in.
``lamhalobotnet`` and ``halo2botnet`` have one of these in each stage. Letters in front are the
gates of the other blocks, ``t`` and ``ts`` behind a name are a stem that widens step by step, the
latter with SiLU.

References:
  Bottleneck Transformers: https://arxiv.org/abs/2101.11605
  HaloNet: https://arxiv.org/abs/2103.12731
  LambdaNetworks: https://arxiv.org/abs/2102.08602
  Relative positions along rows and columns: https://arxiv.org/abs/1904.09925
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._calls import call_module
from flaxzoo._checks import check_choice, check_lengths, check_size
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.attention import attend, weight_hook
from flaxzoo.layers.checked import Checked
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.gates import EfficientChannelAttention, SqueezeExcite, divisible
from flaxzoo.layers.initializers import FanIn, HeNormal, Normal, plain_bias
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.lowering.derivatives import softmax
from flaxzoo.layers.norm import call_norm, make_norm, normalise_and_activate
from flaxzoo.layers.pool import avg_pool
from flaxzoo.models import byobnet
from flaxzoo.models.byobnet import Bottleneck, SizedByobNet
from flaxzoo.models.registry import Row, row, variants

Grid = tuple[int, int]
# Fields of a module, as pairs: a network's own fields are written to files.
Pairs = Sequence[tuple[str, Any]]

# timm makes no shallow networks of these names: all are compared whole.
CUT: dict[str, str] = {}
_FAN_IN = HeNormal("fan_in", scale=1.0)


@functools.lru_cache(maxsize=64)
def _offsets(queries: int, keys: int) -> np.ndarray:
    """How far a key stands behind a query, counted from the farthest one before, ``[Q, K]``."""
    offsets = np.arange(keys) - np.arange(queries)[:, None] + keys - 1
    offsets = offsets.astype(np.int32)
    offsets.flags.writeable = False
    return offsets


class RelativeLogits(Checked):
    """What queries find at the relative positions of a window's rows and columns.

    Parameters are named as timm's ``PosEmbedRel``: ``height_rel`` and ``width_rel``, a vector for
    each distance.

    Attributes:
      window: the rows and columns of the keys.
      param_dtype: the dtype of the parameters.
    """

    window: Grid
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, q: jax.Array) -> jax.Array:
        """Maps queries ``[B, rows, columns, heads, D]`` to ``[B, heads, rows * columns, K]``."""
        batch, rows, columns, heads, dim = q.shape
        height, width = (
            self._vectors(name, queries, keys, dim).astype(q.dtype)
            for name, queries, keys in zip(
                ("height_rel", "width_rel"), (rows, columns), self.window, strict=True
            )
        )
        down = jnp.einsum("bhwnd,hkd->bnhwk", q, height)
        right = jnp.einsum("bhwnd,wkd->bnhwk", q, width)
        logits = down[..., :, None] + right[..., None, :]
        return logits.reshape(batch, heads, rows * columns, -1)

    @nn.nowrap
    def _vectors(self, name: str, queries: int, keys: int, dim: int) -> jax.Array:
        """The vector of each query's row, or column, and each key's."""
        init = Normal(dim**-0.5)
        table = jnp.asarray(self.param(name, init, (2 * keys - 1, dim), self.param_dtype))
        return table.at[_offsets(queries, keys)].get(mode="promise_in_bounds")


class MapAttention(Layer, kw_only=True):
    """What the layers share that attend over maps: how wide they are, and what becomes smaller.

    Attributes:
      heads: the number of heads.
      head_dim: the channels of the queries and keys of each; None for what ``ratio`` says.
      ratio: the channels of all queries, as a part of the map's, rounded to a multiple of 8.
      stride: by how much maps shrink, 1 or 2.
      use_bias: whether queries, keys and values have biases.
      grid: the rows and columns of the map, where the network's images are of one size.
    """

    heads: int = 4
    head_dim: int | None = None
    ratio: float = 1.0
    stride: int = 1
    use_bias: bool = False
    grid: Grid | None = None

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_size("heads", self.heads)
        check_size("head_dim", self.head_dim, optional=True)
        if self.stride not in (1, 2):
            raise ArgumentError(f"stride must be 1 or 2, got {self.stride!r}")

    @nn.nowrap
    def dims(self, x: jax.Array) -> tuple[int, int]:
        """The channels of each head of queries and keys, and of values.

        Raises:
          ShapeError: the heads do not divide the channels.
        """
        channels = x.shape[-1]
        if channels % self.heads:
            raise ShapeError(f"{channels} channels are not divided by heads={self.heads}")
        inner = self.head_dim or divisible(channels * self.ratio) // self.heads
        return inner, channels // self.heads

    @nn.nowrap
    def layer(self, x: jax.Array, features: int, name: str, stride: int = 1) -> jax.Array:
        """A layer on each pixel."""
        options: dict[str, Any] = {"use_bias": self.use_bias, "kernel_init": _FAN_IN}
        options |= {"bias_init": plain_bias, **self.dtypes}
        return Conv(features, 1, stride, name=name, **options)(x)

    @nn.nowrap
    def smaller(self, y: jax.Array) -> jax.Array:
        """Averages 2 x 2 pixels at stride 2."""
        if self.stride == 1:
            return y
        if any(size % 2 for size in y.shape[1:3]):
            raise ShapeError(
                f"attention of stride 2 takes maps of even sides, got {list(y.shape)}: take images "
                "of a multiple of 32 pixels"
            )
        return avg_pool(y, 2, 2)

    @nn.nowrap
    def check_grid(self, x: jax.Array) -> Grid:
        """Returns the grid that positions are for.

        Raises:
          ShapeError: the map ``x`` is of another one.
        """
        rows, columns = x.shape[1:3] if self.grid is None else self.grid
        if x.shape[1:3] != (rows, columns):
            raise ShapeError(
                f"attention with positions for maps of {rows} x {columns} pixels got "
                f"{list(x.shape)}: take images of the model's size, or make it for yours with "
                "input_shape="
            )
        return rows, columns


class BottleneckAttention(MapAttention):
    """Each pixel attends to all of the map, by content and by relative position.

    Srinivas et al. 2021, https://arxiv.org/abs/2101.11605. Parameters are named as timm's
    ``BottleneckAttn``: ``qkv`` and ``pos_embed``.
    """

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, C]``."""
        grid, (inner, dim) = self.check_grid(x), self.dims(x)
        heads = self.heads
        qkv = self.layer(x, (2 * inner + dim) * heads, "qkv")
        q, k, v = jnp.split(qkv, (inner * heads, 2 * inner * heads), -1)
        q = q.reshape(*x.shape[:3], heads, inner)
        positions = RelativeLogits(grid, name="pos_embed", param_dtype=self.param_dtype)(q)
        tokens = (x.shape[0], x.shape[1] * x.shape[2], heads)
        q, k, v = (part.reshape(*tokens, -1) for part in (q, k, v))
        y = attend(q, k, v, mask=positions, drop=weight_hook(self, 0.0, train))
        return self.smaller(y.reshape(x.shape))


class HaloAttention(MapAttention):
    """The pixels of a block attend to the block and a halo around it.

    Vaswani et al. 2021, https://arxiv.org/abs/2103.12731. Parameters are named as timm's
    ``HaloAttn``: ``q``, ``kv`` and ``pos_embed``. Zeros around the map are seen as well.

    Attributes:
      block: the height and width of a block. One of an even size has fewer queries at stride 2.
      halo: how far the halo reaches.
    """

    heads: int = 8
    block: int = 8
    halo: int = 3

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        check_size("block", self.block)
        check_size("halo", self.halo, minimum=0)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, C]``.

        Raises:
          ShapeError: ``block`` does not divide the height and the width.
        """
        (batch, height, width), block = x.shape[:3], self.block
        if height % block or width % block:
            raise ShapeError(
                f"attention of blocks of {block} x {block} takes maps whose sides these divide, "
                f"got {list(x.shape)}: take images of a multiple of {32 * block} pixels"
            )
        inner, dim = self.dims(x)
        # Where the stride divides the block, queries are of every second pixel.
        skipped = self.stride if block % self.stride == 0 else 1
        rows, columns, size = height // block, width // block, block // skipped
        q = self.layer(x, inner * self.heads, "q", skipped)
        q = q.reshape(batch, rows, size, columns, size, -1).transpose(0, 1, 3, 2, 4, 5)
        q = q.reshape(-1, size, size, self.heads, inner)
        window = block + 2 * self.halo
        options: dict[str, Any] = {"name": "pos_embed", "param_dtype": self.param_dtype}
        positions = RelativeLogits((window, window), **options)(q)
        kv = self._windows(self.layer(x, (inner + dim) * self.heads, "kv"))
        kv = kv.reshape(q.shape[0], window**2, self.heads, inner + dim)
        k, v = jnp.split(kv, (inner,), -1)
        q = q.reshape(q.shape[0], size**2, self.heads, inner)
        y = attend(q, k, v, mask=positions, drop=weight_hook(self, 0.0, train))
        y = y.reshape(batch, rows, columns, size, size, -1).transpose(0, 1, 3, 2, 4, 5)
        y = y.reshape(batch, rows * size, columns * size, -1)
        return self.smaller(y) if skipped < self.stride else y

    @nn.nowrap
    def _windows(self, x: jax.Array) -> jax.Array:
        """The blocks with their halos, ``[B, rows, columns, window, window, C]``."""
        around = (self.halo, self.halo)
        padded = jnp.pad(x, ((0, 0), around, around, (0, 0)))
        rows, columns = (_windows(size, self.block, self.halo) for size in x.shape[1:3])
        padded = padded.at[:, rows].get(mode="promise_in_bounds")
        padded = padded.at[:, :, :, columns].get(mode="promise_in_bounds")
        return padded.transpose(0, 1, 3, 2, 4, 5)


@functools.lru_cache(maxsize=64)
def _windows(size: int, block: int, halo: int) -> np.ndarray:
    """The places of each block and its halo on a padded axis, ``[blocks, window]``."""
    places = np.arange(0, size, block)[:, None] + np.arange(block + 2 * halo)
    places = places.astype(np.int32)
    places.flags.writeable = False
    return places


class LambdaLayer(MapAttention):
    """Queries are multiplied by matrices: one of the whole map, and one of each pixel's positions.

    Bello 2021, https://arxiv.org/abs/2102.08602. Parameters are named as timm's ``LambdaLayer``:
    ``qkv``, ``norm_q``, ``norm_v``, and ``conv_lambda`` or ``pos_emb``.

    Attributes:
      size: of the neighbourhood whose relative positions count; None for the whole map, whose size
        is then fixed.
      norm: of queries and values, by name or module (``flaxzoo.layers.norm``).
    """

    head_dim: int | None = 16
    size: int | None = 9
    norm: Any = "batch"

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        check_size("size", self.size, optional=True)

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H / stride, W / stride, C]``."""
        inner, dim = self.dims(x)
        batch, height, width, channels = x.shape
        qkv = self.layer(x, (self.heads + 1) * inner + dim, "qkv")
        q, k, v = jnp.split(qkv, (inner * self.heads, inner * (self.heads + 1)), -1)
        q = call_norm(make_norm(self.norm, "norm_q", **self.dtypes), q, train=train)
        v = call_norm(make_norm(self.norm, "norm_v", **self.dtypes), v, train=train)
        wide = jnp.promote_types(k.dtype, jnp.float32)
        tokens = (batch, height * width, -1)
        shares = softmax(jnp.swapaxes(k.reshape(tokens).astype(wide), 1, 2)).astype(v.dtype)
        q = q.reshape(batch, height * width, self.heads, inner)
        content = jnp.einsum("bkm,bmv->bkv", shares, v.reshape(tokens))
        positions = self._of_map(v, inner) if self.size is None else self._of_near(v, inner)
        y = jnp.einsum("bmnk,bkv->bmnv", q, content)
        y = y + jnp.einsum("bmnk,bmkv->bmnv", q, positions)
        return self.smaller(y.reshape(batch, height, width, channels))

    @nn.nowrap
    def _of_near(self, v: jax.Array, inner: int) -> jax.Array:
        """The matrices ``[B, pixels, inner, V]`` of each pixel's neighbours."""
        options: dict[str, Any] = {"use_bias": True, "bias_init": plain_bias, "dtype": self.dtype}
        options |= {"kernel_init": Normal(inner**-0.5), "param_dtype": self.param_dtype}
        maps = jnp.moveaxis(v, -1, 1)[..., None]
        conv = Conv(inner, self.size or 1, name="conv_lambda", **options)
        return jnp.moveaxis(conv(maps), 1, -1).reshape(v.shape[0], -1, inner, v.shape[-1])

    @nn.nowrap
    def _of_map(self, v: jax.Array, inner: int) -> jax.Array:
        """The same of all pixels."""
        rows, columns = self.check_grid(v)
        shape = (2 * rows - 1, 2 * columns - 1, inner)
        table = self.param("pos_emb", Normal(0.02), shape, self.param_dtype)
        down, right = _offsets(rows, rows), _offsets(columns, columns)
        index = (down[:, None, :, None], right[None, :, None, :])
        table = jnp.asarray(table, v.dtype).at[index].get(mode="promise_in_bounds")
        table = table.reshape(rows * columns, rows * columns, inner)
        return jnp.einsum("mjk,bjv->bmkv", table, v.reshape(v.shape[0], -1, v.shape[-1]))


ATTENTION: Mapping[str, Callable[..., nn.Module]] = {
    "bottleneck": BottleneckAttention,
    "halo": HaloAttention,
    "lambda": LambdaLayer,
}


def as_attention(attention: str | Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Returns the attention that a name stands for; a module class is returned as it is.

    Args:
      attention: ``"bottleneck"``, ``"halo"``, ``"lambda"``, or a Linen module class (or partial)
        that takes ``stride``, ``grid``, ``name``, ``dtype`` and ``param_dtype``.

    Raises:
      ArgumentError: no attention has that name, or what was passed makes no module.
    """
    if not isinstance(attention, str) and callable(attention):
        return attention
    return ATTENTION[check_choice("attention", attention, ATTENTION, " or a module for each stage")]


class AttentionBlock(Bottleneck, kw_only=True):
    """A bottleneck that attends, ``self_attn``, where others convolve, and has no gate.

    With ``extra_conv`` the convolution ``conv2_kxk`` stays before it, and has the stride.

    Attributes:
      attention: as ``as_attention`` takes it.
      attention_fields: its fields, as pairs.
      grid: the rows and columns of the map that the block gets.
    """

    attention: Any = "bottleneck"
    attention_fields: Pairs = ()
    grid: Grid | None = None

    def branch(self, x: jax.Array, middle: int, train: bool) -> jax.Array:
        """Computes the layers, of so many channels inside."""
        y, stride, grid = self.layer(x, middle, 1, "conv1_1x1", train), self.stride, self.grid
        options: dict[str, Any]
        if self.extra_conv:
            options = {"stride": stride, "dilation": self.first_dilation, "grouped": True}
            y = self.layer(y, middle, 3, "conv2_kxk", train, **options)
            if grid is not None:
                grid = (-(-grid[0] // stride), -(-grid[1] // stride))
            stride = 1
        options = {"stride": stride, "grid": grid, **dict(self.attention_fields), **self.dtypes}
        options["name"] = "self_attn"
        y = call_module(as_attention(self.attention)(**options), y, train=train)
        act = as_activation(self.activation)
        y = normalise_and_activate(self.norm, "post_attn", y, act, train=train, **self.dtypes)
        return self.last(y, 1, "conv3_1x1", train, scale_init=self.last_init(x))


class ByoaNet(SizedByobNet):
    """A network of given blocks, of which some attend.

    It maps images ``[B, H, W, C]`` to the last map, ``[B, H / 32, W / 32, C']`` by default. The
    size of images is that of ``input_shape`` where attention is over the whole map; blocks divide
    the maps otherwise, or images may be of any even size.

    Attributes:
      attention: of each stage, ``"bottleneck"``, ``"halo"``, ``"lambda"`` or a module, as
        ``as_attention`` takes it; whatever it is, where no block of the stage attends.
      attention_fields: of each stage, fields of that attention, as pairs: ``(("halo", 2),)``; None
        for its own in all stages.
      attending: the numbers of the blocks of each stage that attend; the others are of the stage's
        kind.
    """

    layers: Sequence[int] = (2, 2, 2, 2)
    attention: Sequence[Any] = ("bottleneck",) * 4
    attention_fields: Sequence[Pairs] | None = None
    attending: Sequence[Sequence[int]] = ((), (), (1,), (0, 1))

    @nn.nowrap
    def _block(
        self,
        kind: str,
        stage: int,
        number: int,
        channels: int,
        dilations: tuple[int, int],
        place: dict[str, Any],
        reduction: int,
    ) -> Callable[..., nn.Module]:
        """A block by its place in the network."""
        if number not in self.attending[stage]:
            return super()._block(kind, stage, number, channels, dilations, place, reduction)
        block = super()._block("bottleneck", stage, number, channels, dilations, place, reduction)
        height, width = (-(-size // reduction) for size in self.input_shape[:2])
        fields = {**getattr(block, "keywords", {}), "gate": None, "grid": (height, width)}
        fields |= {"attention": self.attention[stage], "attention_fields": self._fields(stage)}
        return functools.partial(AttentionBlock, **fields)

    @nn.nowrap
    def _fields(self, stage: int) -> Pairs:
        return () if self.attention_fields is None else self.attention_fields[stage]

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        super().check_fields()
        lists = {"layers": self.layers, "attending": self.attending, "attention": self.attention}
        if self.attention_fields is not None:
            lists["attention_fields"] = self.attention_fields
        check_lengths(**lists)
        for i, (count, numbers) in enumerate(zip(self.layers, self.attending, strict=True)):
            if numbers:
                as_attention(self.attention[i])(parent=None).clone(**dict(self._fields(i)))
            for number in numbers:
                if not 0 <= number < count:
                    raise ArgumentError(
                        f"attending must have numbers of blocks of each stage, got {number!r} in a "
                        f"stage of {count}"
                    )


def refused(
    table: Any,
    shape: tuple[int, ...],
    _backbone: ByoaNet,
    old: tuple[int, int] | None,
    new: tuple[int, int],
) -> Any:
    """Relative positions for images of another size: they are not resampled, as not by timm."""
    if tuple(table.shape) == shape:
        return table
    of = "another size" if old is None else f"{old[0]} x {old[1]} pixels"
    raise ShapeError(
        f"the weights' relative positions are for images of {of}, and are not resampled for those "
        f"of {new[0]} x {new[1]}: take input_shape of the weights' size"
    )


REFERENCE = dataclasses.replace(
    byobnet.REFERENCE,
    layouts=(("*/conv_lambda/kernel", "volume"),),
    resized=(("*/pos_embed/*_rel", refused), ("*/pos_emb", refused)),
    convert=None,
)

# One object each: partials of equal arguments are different keys to jit.
_ECA = functools.partial(EfficientChannelAttention, kernel_init=FanIn())
_SE_QUARTER = functools.partial(SqueezeExcite, ratio=0.25)


def _26(title: str, attention: str, groups: int = 0, own: Pairs = (), **more: Any) -> Row:
    """A row of a network of two blocks a stage; ``own`` are fields of the attention."""
    fields: dict[str, Any] = {"attention": (attention,) * 4, "group_sizes": (groups,) * 4}
    fields["attention_fields"] = (own,) * 4 if own else None
    return row(title, stem_pool="max", **fields, **more)


def _33(title: str, attention: str) -> Row:
    """A row of a network of three blocks in the middle, and a last layer."""
    return row(
        title,
        layers=(2, 3, 3, 2),
        widths=(256, 512, 1024, 1536),
        ratios=(0.25, 0.25, 0.25, 0.333),
        attention=(attention,) * 4,
        attending=((), (2,), (2,), (0, 1)),
        gate="se",
        activation="silu",
        final_width=1280,
    )


def _50(title: str, *attention: str, second: Sequence[int] = (3,), **more: Any) -> Row:
    """A row of a network as deep as ResNet-50, with one attention or one of each stage."""
    attention = attention if len(attention) > 1 else attention * 4
    fields: dict[str, Any] = {"layers": (3, 4, 6, 3), "attending": ((), second, (1, 3, 5), (1,))}
    return row(title, attention=attention, activation="silu", **fields, **more)


variants(
    ByoaNet,
    {
        "botnet26t_256": _26("BoTNet-26-T", "bottleneck"),
        "sebotnet33ts_256": _33("SE-BoTNet-33-TS", "bottleneck"),
        "botnet50ts_256": _50("BoTNet-50-TS", "bottleneck", stem_pool="max"),
        "eca_botnext26ts_256": _26(
            "ECA-BoTNeXt-26-TS",
            "bottleneck",
            16,
            own=(("head_dim", 16),),
            gate=_ECA,
            activation="silu",
        ),
    },
    paper="https://arxiv.org/abs/2101.11605",
    reference=REFERENCE,
    input_shape=(256, 256, 3),
)
variants(
    ByoaNet,
    {
        "halonet_h1": row(
            "HaloNet-H1",
            layers=(3, 3, 10, 3),
            widths=(64, 128, 256, 512),
            ratios=(1.0,) * 4,
            attention=("halo",) * 4,
            attending=tuple(tuple(range(count)) for count in (3, 3, 10, 3)),
            stem_widths=(64,),
            stem_kernel_size=7,
            stem_pool="max",
        ),
        "halonet26t": _26("HaloNet-26-T", "halo", own=(("halo", 2),)),
        "sehalonet33ts": _33("SE-HaloNet-33-TS", "halo"),
        "halonet50ts": _50(
            "HaloNet-50-TS",
            "halo",
            attention_fields=((), (("heads", 4),), (), ()),
            stem_pool="max",
        ),
        "eca_halonext26ts": _26(
            "ECA-HaloNeXt-26-TS",
            "halo",
            16,
            own=(("halo", 2), ("head_dim", 16)),
            gate=_ECA,
            activation="silu",
        ),
        "haloregnetz_b": row(
            "RegNetZ-B with halos",
            input_shape=(224, 224, 3),
            layers=(2, 6, 12, 2),
            widths=(48, 96, 192, 288),
            strides=(2, 2, 2, 2),
            group_sizes=(16,) * 4,
            ratios=(3.0,) * 4,
            attention=("halo",) * 4,
            attention_fields=((("block", 7), ("halo", 2), ("ratio", 0.33)),) * 4,
            attending=((), (), (3, 7, 11), (0, 1)),
            stem_widths=(32,),
            shortcut=None,
            gate=_SE_QUARTER,
            expand_inputs=True,
            last_activation=False,
            activation="silu",
            final_width=1536,
        ),
        "halo2botnet50ts_256": _50(
            "BoTNet-50-TS with halos in two stages",
            *("halo", "halo", "halo", "bottleneck"),
            second=(1, 3),
        ),
    },
    paper="https://arxiv.org/abs/2103.12731",
    reference=REFERENCE,
    input_shape=(256, 256, 3),
)
variants(
    ByoaNet,
    {
        "lambda_resnet26t": _26("Lambda-ResNet-26-T", "lambda"),
        "lambda_resnet50ts": _50("Lambda-ResNet-50-TS", "lambda", stem_pool="max"),
        "lambda_resnet26rpt_256": _26(
            "Lambda-ResNet-26-T of positions on the map", "lambda", own=(("size", None),)
        ),
        "lamhalobotnet50ts_256": _50(
            "Lambda, halo and bottleneck attention in a ResNet-50-TS",
            *("lambda", "lambda", "halo", "bottleneck"),
            attention_fields=((), (("size", 13),), (), ()),
            second=(1, 3),
        ),
    },
    paper="https://arxiv.org/abs/2102.08602",
    reference=REFERENCE,
    input_shape=(256, 256, 3),
)
