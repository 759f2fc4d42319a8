"""What turns a backbone's features into predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from flaxzoo._checks import (
    as_choice,
    check_choice,
    check_flag,
    check_rate,
    check_size,
    check_widths,
)
from flaxzoo._explain import explained
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.attention_pool import AttentionPool2d, AttentionPoolLatent
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import as_norm, call_norm, make_norm

_POOLINGS = ("auto", "avg", "max", "avg+max", "token", "prefix", "attention", "attention2d")
_DISTILLED = ("mean", "pair")
# The poolings whose result both classifiers of a distilled head may see.
_SHARED = ("avg", "max", "avg+max", None)
# The layers that tell classes apart, the others of special heads: what num_classes exchanges.
CLASSIFIERS = ("fc", "fc_dist", "fc_aux")


@explained
class Head(Layer):
    """Optional pooling, norm and hidden layers, then one linear layer named ``fc``.

    ``Head(2, pooling="avg", hidden=(256,), batch_norm=True, dropout=0.5)`` is the two-layer head
    of the transfer-learning tutorials.

    Attributes:
      num_classes: width of the output; 0 leaves the linear layer out and returns features.
      pooling: over all axes between the batch and the channels: ``"avg"``, ``"max"``,
        ``"avg+max"`` (their mean, timm's ``avgmax``) or None (or ``"none"``) for none; of tokens
        also ``"token"``, the first, ``"prefix"``, the mean of those before the patches', and
        ``"attention"``, what a learnt query finds (timm's ``map``,
        ``flaxzoo.layers.attention_pool``); of maps ``"attention2d"``, what their mean finds (CLIP's
        ResNets). ``"auto"`` is the backbone's own way where the
        head is part of a ``Classifier``; else it averages feature maps ``[B, H, W, C]`` and leaves
        other inputs as they are.
      prefix_tokens: how many tokens stand before those of the patches, which alone are averaged.
      norm: a norm behind the pooling, by name or module (``flaxzoo.layers.norm``), called
        ``norm``; None for none.
      norm_epsilon: its epsilon; None for its own.
      hidden: widths of the hidden layers.
      batch_norm: whether a BatchNorm follows each hidden layer.
      dropout: rate in [0, 1) applied before each linear layer.
      activation: of the hidden layers, by name or callable.
      use_bias: whether ``fc`` has a bias.
      distilled: None for one classifier. Otherwise another layer, ``fc_dist``, is taught by another
        network (DeiT, https://arxiv.org/abs/2012.12877): with ``pooling="prefix"`` it sees the
        second token and ``fc`` the first, the class token; with ``"avg"``, ``"max"``, ``"avg+max"``
        or None both see the same features. ``"mean"`` returns the mean of their logits; ``"pair"``
        does so in inference, and both, ``(logits, logits of fc_dist)``, in training, as timm after
        ``set_distilled_training``.
      classifier_norm: a norm before each classifier, by name or module, called ``fc_norm`` and
        ``fc_dist_norm``; it belongs to the classifiers, so that features are those before it.
      token_labels: whether another layer, ``fc_aux``, classifies each token behind the class token
        (Jiang et al. 2021, https://arxiv.org/abs/2104.10858), as VOLO's ``aux_head``: half of the
        largest logit that any of them has for a class is added to that of ``fc``, where features
        are pooled.
      split: how many of the features ``fc`` sees, where another layer, ``fc_dist``, sees the rest:
        networks of two branches have it, and the mean of both logits. None for one classifier of
        all.
      attention: fields of the attention pooling, as pairs.
      hidden_norm: a norm behind the activation of each hidden layer, by name or module, called
        ``norm_0`` and so on; None for none.
      hidden_norm_epsilon: its epsilon; None for its own.
      hidden_norm_first: whether it stands before the activation instead.
      hidden_bias: whether the hidden layers have biases.
      hidden_init: the initialiser of their kernels; None for ``kernel_init``.
      hidden_features: whether the hidden layers stay where ``num_classes`` is 0; else they belong
        to the classifier, and the features are what they would see.
      map_width: the channels of a layer on each pixel of a map before the pooling, called
        ``in_conv``, with a BatchNorm and the activation behind it; None for none.
      kernel_init: of all kernels.
      bias_init: of the classifiers' biases.
      hidden_bias_init: the initialiser of the hidden layers' biases.
      pixelwise: whether ``fc`` classifies each pixel of a map, and what is pooled are the activated
        logits, as in SqueezeNet; where ``num_classes`` is 0, the map is pooled.

    Raises:
      ValueError: a field holds what it does not take: an unknown pooling, a width below 1, a rate
        outside [0, 1).
    """

    num_classes: int
    pooling: str | None = "auto"
    hidden: Sequence[int] = ()
    batch_norm: bool = False
    dropout: float = 0.0
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    use_bias: bool = True
    distilled: str | None = None
    kernel_init: Any = nn.initializers.lecun_normal()
    prefix_tokens: int = 0
    norm: Any = None
    norm_epsilon: float | None = None
    attention: tuple[tuple[str, Any], ...] = ()
    hidden_norm: Any = None
    hidden_norm_epsilon: float | None = None
    hidden_norm_first: bool = False
    hidden_bias: bool = True
    hidden_init: Any = None
    hidden_features: bool = True
    map_width: int | None = None
    bias_init: Any = nn.initializers.zeros
    classifier_norm: Any = None
    token_labels: bool = False
    split: int | None = None
    hidden_bias_init: Any = nn.initializers.zeros
    pixelwise: bool = False

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_size("num_classes", self.num_classes, minimum=0)
        check_size("prefix_tokens", self.prefix_tokens, minimum=0)
        check_widths("hidden", self.hidden, allow_empty=True)
        check_size("map_width", self.map_width, optional=True)
        check_rate("dropout", self.dropout)
        pooling = as_choice("pooling", self.pooling, _POOLINGS)
        as_activation(self.activation)
        if self.hidden_norm is not None:
            as_norm(self.hidden_norm)
            if self.batch_norm:
                raise ArgumentError("hidden layers have one norm: give hidden_norm or batch_norm")
        if self.classifier_norm is not None:
            as_norm(self.classifier_norm)
        check_flag("token_labels", self.token_labels)
        check_size("split", self.split, optional=True)
        if (self.distilled is not None) + self.token_labels + (self.split is not None) > 1:
            raise ArgumentError("a head is distilled or has token_labels or split, not two of them")
        if self.pixelwise and (self.hidden or self.distilled or self.token_labels or self.split):
            raise ArgumentError("a head with pixelwise=True has one classifier, no hidden layers")
        if self.distilled is not None:
            check_choice("distilled", self.distilled, _DISTILLED)
            # Where there is a distillation token, its classifier reads that.
            two_tokens = self.prefix_tokens == 2
            if pooling != "prefix" if two_tokens else pooling not in _SHARED:
                raise ArgumentError(
                    "a distilled head reads the class and the distillation token: it takes "
                    f"pooling='prefix' and prefix_tokens=2, got {pooling!r} and "
                    f"{self.prefix_tokens}; without these tokens pooling='avg', 'max', 'avg+max' "
                    "and None give both classifiers the same features"
                )

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool = False) -> Any:
        """Computes the predictions.

        Args:
          x: features ``[B, C]``, maps ``[B, ..., C]`` or tokens ``[B, N, C]`` to pool.
          train: whether Dropout drops and BatchNorm uses the batch's statistics.

        Returns:
          ``[B, num_classes]``, or the features before ``fc`` where ``num_classes`` is 0; with
          ``distilled="pair"`` two arrays of logits in training.

        Raises:
          ShapeError: ``pooling`` is set and ``x`` has no axis to pool, ``map_width`` or
            ``pixelwise`` is and it is no map, or ``token_labels`` and it is no tokens.
        """
        if self.pixelwise and self.num_classes:
            return self.by_pixel(x, train)
        tokens = x
        dense = {"kernel_init": self.kernel_init, **self.dtypes}
        x = self.pooled(x, train)
        if self.norm is not None:
            norm = make_norm(self.norm, "norm", epsilon=self.norm_epsilon, **self.dtypes)
            x = call_norm(norm, x, train=train)
        stays = self.hidden_features or self.num_classes > 0
        for i, width in enumerate(self.hidden if stays else ()):
            if self.dropout:
                x = nn.Dropout(self.dropout)(x, deterministic=not train)
            own = {**dense, "kernel_init": self.hidden_init or self.kernel_init}
            own["bias_init"] = self.hidden_bias_init
            x = Dense(width, use_bias=self.hidden_bias, name=f"dense_{i}", **own)(x)
            if self.batch_norm:
                x = nn.BatchNorm(use_running_average=not train, name=f"norm_{i}", **self.dtypes)(x)
            if not self.hidden_norm_first:
                x = as_activation(self.activation)(x)
            if self.hidden_norm is not None:
                options = {"epsilon": self.hidden_norm_epsilon, **self.dtypes}
                x = call_norm(make_norm(self.hidden_norm, f"norm_{i}", **options), x, train=train)
            if self.hidden_norm_first:
                x = as_activation(self.activation)(x)
        if self.num_classes == 0:
            return x.mean(1) if self.reads_tokens else x
        if self.dropout and self.classifier_norm is None:
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
        if self.token_labels:
            return self.with_token_labels(self.classify(x, "fc", train), tokens, train)
        if self.distilled is None and self.split is None:
            return self.classify(x, "fc", train)
        return self.by_two(x, train)

    def by_two(self, x: jax.Array, train: bool) -> Any:
        """What two classifiers say: their mean, or both."""
        if self.split is not None:
            first, second = x[..., : self.split], x[..., self.split :]
        else:
            first, second = (x[:, 0], x[:, 1]) if self.reads_tokens else (x, x)
        both = self.classify(first, "fc", train), self.classify(second, "fc_dist", train)
        return both if train and self.distilled == "pair" else 0.5 * (both[0] + both[1])

    def by_pixel(self, x: jax.Array, train: bool) -> jax.Array:
        """Computes the logits of each pixel, activates them and pools what is left."""
        if x.ndim != 4:
            raise ShapeError(
                f"pixelwise=True takes maps of shape [B, H, W, C], got {list(x.shape)}; use "
                "pixelwise=False for tokens and pooled features"
            )
        if self.dropout:
            x = nn.Dropout(self.dropout)(x, deterministic=not train)
        logits = as_activation(self.activation)(self.classify(x, "fc", train))
        return global_pool(logits, self.pooling)

    @property
    def reads_tokens(self) -> bool:
        """Whether each of two classifiers sees a token of its own."""
        return self.distilled is not None and self.pooling == "prefix"

    def pooled(self, x: jax.Array, train: bool) -> jax.Array:
        """Computes what ``pooling`` says."""
        if self.map_width is not None:
            x = self.widened(x, train)
        if self.pooling == "attention2d":
            if x.ndim != 4:
                raise ShapeError(
                    f"pooling='attention2d' takes maps of shape [B, H, W, C], got {list(x.shape)}; "
                    "use pooling='attention' for tokens and None for pooled features"
                )
            return AttentionPool2d(name="attn_pool", **{**self.dtypes, **dict(self.attention)})(x)
        if self.pooling == "attention":
            check_tokens(x, "attention")
            pool = AttentionPoolLatent(name="attn_pool", **{**self.dtypes, **dict(self.attention)})
            return pool(x[:, self.prefix_tokens :], train)
        if self.reads_tokens:
            check_tokens(x, "prefix")
            return x[:, : self.prefix_tokens]
        return global_pool(x, self.pooling, self.prefix_tokens)

    def widened(self, x: jax.Array, train: bool) -> jax.Array:
        """Computes the layer before the pooling."""
        if x.ndim != 4:
            raise ShapeError(
                f"map_width={self.map_width} takes maps of shape [B, H, W, C], got "
                f"{list(x.shape)}; use map_width=None for tokens and pooled features"
            )
        return ConvNorm(
            self.map_width or x.shape[-1],
            activation=self.activation,
            names=("conv", "norm"),
            kernel_init=self.kernel_init,
            name="in_conv",
            **self.dtypes,
        )(x, train)

    def with_token_labels(self, logits: jax.Array, tokens: jax.Array, train: bool) -> jax.Array:
        """Adds what the tokens say to logits ``[B, num_classes]``, and nothing to those of each."""
        if tokens.ndim != 3:
            raise ShapeError(
                f"token_labels=True takes tokens of shape [B, N, C], got {list(tokens.shape)}; use "
                "token_labels=False for maps and pooled features"
            )
        tokens = tokens[:, 1:]
        if self.dropout:
            tokens = nn.Dropout(self.dropout)(tokens, deterministic=not train)
        labels = self.classify(tokens, "fc_aux", train)
        return logits + 0.5 * labels.max(1) if logits.ndim == 2 else logits

    def classify(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        """Computes the logits of a classifier, behind a norm of its own."""
        if self.classifier_norm is not None:
            norm = make_norm(self.classifier_norm, f"{name}_norm", **self.dtypes)
            x = call_norm(norm, x, train=train)
            if self.dropout:
                x = nn.Dropout(self.dropout)(x, deterministic=not train)
        inits = {"kernel_init": self.kernel_init, "bias_init": self.bias_init}
        options = {"use_bias": self.use_bias, **inits, **self.dtypes}
        return Dense(self.num_classes, name=name, **options)(x)


class Identity(nn.Module):
    """Returns what it gets: stands for the half that a ``Classifier`` lacks.

    That is the head of one that is asked for feature maps, and what ``slice_model`` cuts off.
    """

    @nn.compact
    def __call__(self, x: Any) -> Any:
        """``x``."""
        return x


def global_pool(x: jax.Array, pooling: str | None, prefix_tokens: int = 0) -> jax.Array:
    """Pools ``[B, ..., C]`` to ``[B, C]``; see ``Head.pooling`` for the names.

    Args:
      x: maps, tokens, or features that are pooled already.
      pooling: the name, but ``"attention"``, which has parameters.
      prefix_tokens: of tokens ``[B, N, C]``, how many stand before the patches'; ``"prefix"``
        averages these, ``"avg"``, ``"max"`` and ``"avg+max"`` pool the others.

    Raises:
      ShapeError: there is no axis to pool, or ``x`` is a dictionary of maps.
    """
    if isinstance(x, Mapping):
        raise ShapeError(
            f"a head takes one array of features, got the maps {', '.join(map(str, x))}: give it "
            "one of them, or ask for the backbone without features=True"
        )
    pooling = as_choice("pooling", pooling, _POOLINGS)
    if pooling == "auto":
        pooling = "avg" if x.ndim == 4 else None
    if pooling is None:
        return x
    if pooling == "token":
        check_tokens(x, pooling)
        return x[:, 0]
    if pooling == "prefix":
        check_tokens(x, pooling)
        if not prefix_tokens:
            raise ArgumentError("pooling='prefix' takes prefix_tokens of at least 1, got 0")
        return x[:, :prefix_tokens].mean(1)
    if x.ndim < 3:
        raise ShapeError(
            f"pooling={pooling!r} takes features of shape [B, ..., C], got {list(x.shape)}; "
            "use pooling=None for features that are pooled already"
        )
    if x.ndim == 3:
        x = x[:, prefix_tokens:]
    axes = tuple(range(1, x.ndim - 1))
    if pooling == "avg":
        return x.mean(axes)
    if pooling == "max":
        return x.max(axes)
    return 0.5 * (x.mean(axes) + x.max(axes))


def check_tokens(x: jax.Array, pooling: str) -> None:
    """Raises ShapeError for what is no array of tokens."""
    if x.ndim != 3:
        raise ShapeError(
            f"pooling={pooling!r} takes tokens of shape [B, N, C], got {list(x.shape)}; "
            "use pooling='avg' for maps and None for features that are pooled already"
        )
