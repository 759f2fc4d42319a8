"""Multi-head self-attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_size
from flaxzoo.errors import ArgumentError, ShapeError, did_you_mean
from flaxzoo.layers.channels import per_channel
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.initializers import Normal, zeros
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.lowering.derivatives import softmax
from flaxzoo.layers.lowering.switch import is_plain
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.pos_embed import Grid
from flaxzoo.layers.relative_position import relative_bias
from flaxzoo.layers.rotary import Rotation

IMPLEMENTATIONS = ("einsum", "xla", "cudnn")


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    mask: jax.Array | None = None,
    is_causal: bool = False,
    drop: Callable[[jax.Array], jax.Array] | None = None,
    implementation: str = "einsum",
) -> jax.Array:
    """Scaled dot-product attention (https://arxiv.org/abs/1706.03762, section 3.2.1).

    The softmax is float32 at least.

    Args:
      q: queries ``[B, Q, H, D]``.
      k: keys ``[B, K, H, D]``.
      v: values ``[B, K, H, D]``.
      mask: an array that broadcasts to ``[B, H, Q, K]``: bool, False for what is not seen, or
        floating, which is added to the logits.
      is_causal: whether a query sees no key of a later position.
      drop: a function that drops from the weights ``[B, H, Q, K]``, for ``"einsum"`` alone
        (``weight_hook`` makes a module's).
      implementation: ``"einsum"`` for two products and a softmax between them; ``"xla"`` or
        ``"cudnn"`` for ``jax.nn.dot_product_attention`` of that name, of which the latter stores no
        weights and is for half precision on NVIDIA's GPUs.

    Returns:
      ``[B, Q, H * D]``.

    Raises:
      ValueError: there is no such implementation, or it can't drop weights.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation must be one of {', '.join(map(repr, IMPLEMENTATIONS))}, got "
            f"{implementation!r}.{did_you_mean(str(implementation), IMPLEMENTATIONS)}"
        )
    if mask is not None:
        # Users may forbid that ranks are promoted.
        mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
    if implementation == "einsum":
        out = _by_einsum(q, k, v, _bias(mask, is_causal, q.shape[1], k.shape[1]), drop)
        return out.reshape(*out.shape[:2], -1)
    if drop is not None:
        raise ValueError(f"implementation={implementation!r} can't drop weights, 'einsum' can")
    options: dict[str, Any] = {"is_causal": is_causal, "implementation": implementation}
    if mask is not None:
        options["mask" if mask.dtype == bool else "bias"] = mask
    out = jax.nn.dot_product_attention(q, k, v, **options)
    return out.reshape(*out.shape[:2], -1)


def weight_hook(module: Any, rate: float, train: bool) -> Callable[[jax.Array], jax.Array] | None:
    """Returns what a module has ``attend`` do to its weights: to show them, and to drop some.

    Weights ``[B, H, Q, K]`` are sown as ``attention`` where the collection ``"intermediates"`` is
    asked for, as ``Model.attention_weights`` does. Dropout is the submodule ``attn_drop``.

    Args:
      module: a bound module; one with a field ``implementation`` shows those of ``"einsum"``.
      rate: at which weights are dropped.
      train: whether they are.

    Returns:
      A function of the weights, or None where there is nothing to do.
    """
    drops = bool(rate) and train
    einsum = getattr(module, "implementation", "einsum") == "einsum"
    shows = einsum and module.is_mutable_collection("intermediates")
    if not drops and not shows:
        return None
    dropout = nn.Dropout(rate, deterministic=False, name="attn_drop") if drops else None

    def hook(weights: jax.Array) -> jax.Array:
        if shows:
            module.sow("intermediates", "attention", weights)
        return weights if dropout is None else dropout(weights)

    return hook


def _by_einsum(q: Any, k: Any, v: Any, bias: Any, drop: Any) -> jax.Array:
    wide = jnp.promote_types(q.dtype, jnp.float32)
    q = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
    # On CPUs both products take half the time where the heads stand before the tokens; other
    # backends choose the layout themselves.
    tokens, summed = ("bqhd,bkhd->bhqk", "bhqk,bkhd->bqhd")
    if not is_plain():
        q, k, v = (jnp.moveaxis(part, 2, 1) for part in (q, k, v))
        tokens, summed = ("bhqd,bhkd->bhqk", "bhqk,bhkd->bhqd")
    logits = jnp.einsum(tokens, q, k, preferred_element_type=wide)
    if bias is not None:
        logits = logits + bias.astype(wide)
    weights = softmax(logits).astype(q.dtype)
    if drop is not None:
        weights = drop(weights)
    out = jnp.einsum(summed, weights, v)
    return out if is_plain() else jnp.moveaxis(out, 1, 2)


def _bias(mask: Any, is_causal: bool, queries: int, keys: int) -> jax.Array | None:
    """Returns what is added to the logits; None for nothing."""
    # Finite, so that a query which sees nothing averages all values instead of none.
    unseen = jnp.finfo(jnp.float32).min / 2
    if mask is not None and mask.dtype == bool:
        mask = jnp.where(mask, 0.0, unseen)
    if not is_causal:
        return mask
    later = jnp.where(jnp.tril(jnp.ones((1, 1, queries, keys), bool)), 0.0, unseen)
    return later if mask is None else jnp.maximum(mask + later, unseen)


class Attention(Layer):
    """Self-attention of several heads; one layer makes queries, keys and values.

    Vaswani et al. 2017, https://arxiv.org/abs/1706.03762. Parameters are named as timm's
    ``Attention``: ``qkv``, ``q_norm``, ``k_norm``, ``norm``, ``gate``, ``proj``; those of BEiT's
    biases ``q_bias``, ``v_bias`` and ``relative_position_bias_table``.

    Attributes:
      heads: the number of heads.
      head_dim: the width of a head; None for the width of the tokens over ``heads``.
      features: the width of the output; None for that of the tokens.
      qkv_bias: whether queries, keys and values have biases.
      key_bias: whether the keys have one of these; without, those of queries and values are
        parameters by themselves.
      proj_bias: whether the last layer has one.
      grid: the rows and columns of a grid of tokens whose relative positions add a learnt bias to
        the logits (``flaxzoo.layers.relative_position``); None for none.
      class_token: whether a token stands before the grid's.
      table_init: the initialiser of these biases.
      qk_norm: whether queries and keys are normalised, head by head.
      scale_norm: whether what is attended to is normalised before the last layer.
      gated: whether what is attended to is scaled by the sigmoid of another layer, ``gate``.
      norm: the kind of these normalisations, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      attention_dropout: the rate at which attention's weights are dropped.
      dropout: the rate at which outputs are dropped.
      implementation: ``"einsum"``, ``"xla"`` or ``"cudnn"`` (see ``attend``).
      kernel_init: the initialiser of all kernels.
      proj_init: that of the last layer's; None for the same.
      bias_init: that of the layers' biases.
    """

    heads: int = 8
    head_dim: int | None = None
    features: int | None = None
    qkv_bias: bool = True
    key_bias: bool = True
    proj_bias: bool = True
    grid: Grid | None = None
    class_token: bool = False
    table_init: Any = zeros
    qk_norm: bool = False
    scale_norm: bool = False
    gated: bool = False
    norm: Any = "layer"
    norm_epsilon: float | None = None
    attention_dropout: float = 0.0
    dropout: float = 0.0
    implementation: str = "einsum"
    kernel_init: Any = Normal(0.02)
    proj_init: Any = None
    bias_init: Any = zeros

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        train: bool = False,
        *,
        mask: jax.Array | None = None,
        is_causal: bool = False,
        positions: Rotation | None = None,
    ) -> jax.Array:
        """Maps tokens ``[B, N, C]`` to ``[B, N, features]``.

        Args:
          x: tokens.
          train: whether weights and outputs are dropped.
          mask: what may be seen, as ``attend`` takes it.
          is_causal: whether a token sees no later one.
          positions: by what queries and keys are turned (``flaxzoo.layers.rotary``).

        Raises:
          ShapeError: ``x`` is not of rank 3, its width no multiple of ``heads``, or its tokens are
            not those of ``grid`` or ``positions``.
        """
        width = x.shape[-1]
        head_dim = head_width(x, self.heads) if self.head_dim is None else self.head_dim
        inner = self.heads * head_dim
        q, k, v = self.project(x, head_dim)
        q, k = self.comparable(q, k)
        if positions is not None:
            q, k = positions.turn(q), positions.turn(k)
        k, v = self.for_every_head(k), self.for_every_head(v)
        if self.grid is not None:
            mask = self.positioned(x, mask)
        y = self.attended(q, k, v, train, mask=mask, is_causal=is_causal)
        if self.scale_norm:
            y = self.normalise(y, "norm")
        if self.gated:
            y = y * nn.sigmoid(self.dense(inner, "gate", self.qkv_bias)(x))
        features = width if self.features is None else self.features
        y = self.dense(features, "proj", self.proj_bias)(y)
        if self.dropout:
            y = nn.Dropout(self.dropout, name="proj_drop")(y, deterministic=not train)
        return y

    def project(self, x: jax.Array, head_dim: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns queries, keys and values ``[B, N, heads, head_dim]`` of the tokens."""
        inner = self.heads * head_dim
        qkv = self.dense(3 * inner, "qkv", self.qkv_bias and self.key_bias)(x)
        if self.qkv_bias and not self.key_bias:
            q_bias, v_bias = (
                self.param(name, zeros, (inner,), self.param_dtype) for name in ("q_bias", "v_bias")
            )
            bias = jnp.concatenate([q_bias, jnp.zeros_like(q_bias), v_bias])
            qkv = qkv + per_channel(bias, qkv).astype(qkv.dtype)
        q, k, v = (
            part.reshape(*x.shape[:2], self.heads, head_dim) for part in jnp.split(qkv, 3, axis=-1)
        )
        return q, k, v

    def comparable(self, q: jax.Array, k: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns queries and keys ``[B, N, heads, D]`` as they are multiplied."""
        if not self.qk_norm:
            return q, k
        return self.normalise(q, "q_norm"), self.normalise(k, "k_norm")

    def for_every_head(self, x: jax.Array) -> jax.Array:
        """Returns keys or values ``[B, N, heads, D]``, where several heads share one."""
        shared = self.heads // x.shape[2]
        return x if shared <= 1 else jnp.repeat(x, shared, axis=2)

    def attended(
        self, q: jax.Array, k: jax.Array, v: jax.Array, train: bool, **options: Any
    ) -> jax.Array:
        """Returns what is attended to, ``[B, N, heads * D]``; ``options`` are ``attend``'s."""
        drop = weight_hook(self, self.attention_dropout, train)
        return attend(q, k, v, drop=drop, implementation=self.implementation, **options)

    def positioned(self, x: jax.Array, mask: jax.Array | None) -> jax.Array:
        """Returns the bias of the relative positions, with the mask."""
        rows, columns = self.grid or (0, 0)
        if x.shape[1] != self.class_token + rows * columns:
            raise ShapeError(
                f"tokens must have shape [B, {self.class_token + rows * columns}, C] for relative "
                f"positions on a grid of {rows} x {columns}, got {list(x.shape)}"
            )
        bias = self.position_bias()
        if mask is None:
            return bias
        mask = mask.reshape((1,) * (4 - mask.ndim) + mask.shape)
        if mask.dtype == bool:
            return jnp.where(mask, bias, jnp.finfo(jnp.float32).min / 2)
        return bias + mask

    def position_bias(self) -> jax.Array:
        """Returns what the grid's relative positions add to the logits, ``[1, heads, N, N]``."""
        options: dict[str, Any] = {"init": self.table_init, "param_dtype": self.param_dtype}
        grid = self.grid or (0, 0)
        return relative_bias(self, grid, self.heads, class_token=self.class_token, **options)

    @nn.nowrap
    def dense(self, features: int, name: str, use_bias: bool) -> Dense:
        """Makes a dense layer in the module's dtypes."""
        last = name == "proj" and self.proj_init is not None
        return Dense(
            features,
            use_bias=use_bias,
            kernel_init=self.proj_init if last else self.kernel_init,
            bias_init=self.bias_init,
            name=name,
            **self.dtypes,
        )

    def normalise(self, x: jax.Array, name: str) -> jax.Array:
        """Normalises the last axis."""
        norm = make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)
        return call_norm(norm, x, train=False)


class SeparateAttention(Attention):
    """An ``Attention`` whose queries, keys and values are made by three layers.

    They are named ``q_proj``, ``k_proj`` and ``v_proj``, as in timm's ``AttentionRope``. Several
    heads may share keys and values (Ainslie et al. 2023, https://arxiv.org/abs/2305.13245).

    Attributes:
      key_heads: the number of heads of keys and values, which divides ``heads``; None for
        ``heads``.
    """

    key_heads: int | None = None

    def project(self, x: jax.Array, head_dim: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns queries ``[B, N, heads, head_dim]``, keys and values of ``key_heads``.

        Raises:
          ArgumentError: ``key_heads`` does not divide ``heads``.
        """
        fewer = self.heads if self.key_heads is None else self.key_heads
        check_size("key_heads", fewer)
        if self.heads % fewer:
            raise ArgumentError(f"key_heads must divide heads={self.heads}, got {fewer}")
        q, k, v = (
            self.dense(heads * head_dim, name, use_bias)(x).reshape(*x.shape[:2], heads, head_dim)
            for name, heads, use_bias in (
                ("q_proj", self.heads, self.qkv_bias),
                ("k_proj", fewer, self.qkv_bias and self.key_bias),
                ("v_proj", fewer, self.qkv_bias),
            )
        )
        return q, k, v


class SeparateValueAttention(Attention):
    """An ``Attention`` whose values are made by a layer of their own.

    Queries and keys come of ``qk``, values of ``v``, as in timm's ``GPSA`` of ``convit`` and
    ``Attention`` of ``tnt``.
    """

    def project(self, x: jax.Array, head_dim: int) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns queries, keys and values ``[B, N, heads, head_dim]`` of the tokens."""
        inner = self.heads * head_dim
        both = self.dense(2 * inner, "qk", self.qkv_bias)(x)
        values = self.dense(inner, "v", self.qkv_bias)(x)
        q, k, v = (
            part.reshape(*x.shape[:2], self.heads, head_dim)
            for part in (*jnp.split(both, 2, axis=-1), values)
        )
        return q, k, v


def head_width(x: jax.Array, heads: int) -> int:
    """Returns the width of each of ``heads`` that tokens ``[B, N, C]`` are split into.

    Raises:
      ShapeError: the tokens are not of rank 3, or their width no multiple of ``heads``.
      ValueError: ``heads`` is not an int of at least 1.
    """
    check_size("heads", heads)
    if x.ndim != 3 or x.shape[-1] % heads:
        raise ShapeError(
            f"tokens must have shape [B, N, C] with C a multiple of heads={heads}, "
            f"got {list(x.shape)}"
        )
    return x.shape[-1] // heads


def check_heads(widths: Sequence[int], heads: Sequence[int]) -> None:
    """Checks that the heads of each stage of a network divide its width.

    Raises:
      ArgumentError: they do not.
    """
    if any(width % count for width, count in zip(widths, heads, strict=True)):
        raise ArgumentError(
            f"widths must be multiples of heads={tuple(heads)}, got {tuple(widths)}"
        )
