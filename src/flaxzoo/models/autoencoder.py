"""Autoencoders: dense over inputs of any rank, and convolutional over images."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_size, check_widths
from flaxzoo._explain import explained
from flaxzoo.activations import as_activation
from flaxzoo.errors import ShapeError, UnknownNameError, did_you_mean
from flaxzoo.layers.checked import Checked
from flaxzoo.layers.conv import Conv
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.registry import register, takes_fields_of

Array = jax.Array
Activation = str | Callable[[Array], Array] | None

_OUTPUTS: dict[str, Callable[[Array], Array]] = {
    "linear": lambda x: x,
    "sigmoid": jax.nn.sigmoid,
}


def _output(kind: str) -> Callable[[Array], Array]:
    if kind not in _OUTPUTS:
        raise UnknownNameError(
            f"unknown output {kind!r}.{did_you_mean(str(kind), _OUTPUTS)} "
            "It is 'sigmoid' (values in [0, 1]) or 'linear'"
        )
    return _OUTPUTS[kind]


def _check(name: str, x: Array, shape: Sequence[int]) -> tuple[int, ...]:
    """The leading batch dimensions of ``x``, whose last ones must be ``shape``."""
    shape = tuple(shape)
    if len(x.shape) < len(shape) or x.shape[len(x.shape) - len(shape) :] != shape:
        raise ShapeError(f"{name} must be [..., {', '.join(map(str, shape))}], got {list(x.shape)}")
    return tuple(x.shape[: len(x.shape) - len(shape)])


class _Half(Backbone):
    """Layers between examples of known shapes, with any batch dimensions before them.

    Attributes:
      shapes: the shape of an example before the first stage and after each.
      output: the name of what follows the last layer.
      activation: the activation between layers, by name or callable; None for none.
    """

    shapes: Sequence[tuple[int, ...]]
    output: str
    activation: Activation

    @nn.nowrap
    def enter(self, x: Any, parts: Sequence[Part]) -> Array:
        """Checks that the examples have the shape that the first stage of the range takes."""
        x = jnp.asarray(x)
        _check("x", x, self.shapes[list(self.stages()).index(parts[0].name)])
        return x


class _Dense(_Half):
    """Dense layers; the first takes an example flat, the last gives one its shape."""

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The layers ``0``, ``1`` and so on."""
        yield Part("0", self._flatten)
        for i, shape in enumerate(self.shapes[1:]):
            layer = functools.partial(self._layer, i, math.prod(shape))
            yield Part(f"{i}", layer, owns=(f"layers_{i}",))
        yield Part(f"{len(self.shapes) - 2}", self._give_shape)

    def _flatten(self, x: Array, train: bool) -> Array:
        del train
        batch = x.shape[: x.ndim - len(self.shapes[0])]
        return x.reshape(*batch, math.prod(self.shapes[0]))

    def _layer(self, i: int, width: int, x: Array, train: bool) -> Array:
        del train
        x = as_activation(self.activation)(x) if i else x
        return nn.Dense(width, name=f"layers_{i}", **self.dtypes)(x)

    def _give_shape(self, x: Array, train: bool) -> Array:
        del train
        return _output(self.output)(x.reshape(*x.shape[:-1], *self.shapes[-1]))


class _Halves(Checked):
    """An encoder and a decoder: what both autoencoders share."""

    def setup(self) -> None:
        """Builds both halves."""
        self.encoder, self.decoder = self._halves()

    @nn.nowrap
    def _halves(self) -> tuple[_Half, _Half]:
        """The encoder and the decoder, without a parent."""
        raise NotImplementedError

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Reconstructions [..., *input_shape] of examples of the same shape."""
        return self.decode(self.encode(x, train=train), train=train)

    def encode(self, x: Array, *, train: bool = False) -> Array:
        """The latents of examples [..., *input_shape].

        Returns:
          Vectors [..., latent]; of convolutions without ``latent_dim`` maps [..., h, w, C].

        Raises:
          ShapeError: ``x`` does not end in ``input_shape``.
        """
        return self.encoder(x, train=train)

    def decode(self, z: Array, *, train: bool = False) -> Array:
        """Examples [..., *input_shape] from the latents that ``encode`` returns.

        Raises:
          ShapeError: ``z`` does not end in the shape of a latent.
        """
        z = jnp.asarray(z)
        _check("z", z, self.decoder.shapes[0])
        return self.decoder(z, train=train)

    @nn.nowrap
    def stages(self) -> dict[str, tuple[str, ...]]:
        """``encoder_0`` and so on, then ``decoder_0`` and so on, each with its layer.

        With ``latent_dim`` there are ``encoder_latent`` and ``decoder_latent`` in between.
        """
        halves = zip(("encoder", "decoder"), self._halves(), strict=True)
        return {
            f"{half}_{name}": tuple(f"{half}/{layer}" for layer in layers)
            for half, module in halves
            for name, layers in module.stages().items()
        }

    def run_stages(
        self, x: Array, start: int = 0, stop: int | None = None, *, train: bool = False
    ) -> Array:
        """Computes the stages ``start`` to ``stop`` of ``stages()``.

        Args:
          x: [..., *example], or what the stage before returns.
          start: number of the first stage.
          stop: number of the first one that is left out; None for none.
          train: makes no difference.

        Raises:
          ShapeError: ``x`` does not end in the shape of an example at this point.
        """
        half = len(self.encoder.stages())
        if start < half:
            x = self.encoder.run_stages(x, start, stop, train=train)
        if stop is None or stop > half:
            last = None if stop is None else stop - half
            x = self.decoder.run_stages(x, max(start - half, 0), last, train=train)
        return x


@explained
class AutoEncoder(_Halves):
    """Dense autoencoder (Hinton and Salakhutdinov 2006) over inputs of any shape.

    The parameters are in the groups ``encoder`` and ``decoder``. The latent vector is linear, not
    activated. With a linear output, ``activation=None`` and squared error the optimum is PCA.

    Attributes:
      input_shape: shape of one example, without batch dimensions, such as (28, 28, 1).
      encoder_features: widths of the encoder's layers; the last is the size of the latent vector.
      decoder_features: widths of the decoder's hidden layers; None mirrors the encoder's.
      activation: between layers, by name or callable; None for none.
      output: ``"sigmoid"`` for data in [0, 1], or ``"linear"``.
      dtype: of the computation; None keeps the promotion of inputs and parameters.
      param_dtype: of the parameters.
    """

    input_shape: Sequence[int]
    encoder_features: Sequence[int] = (256, 64)
    decoder_features: Sequence[int] | None = None
    activation: Activation = "relu"
    output: str = "sigmoid"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.nowrap
    def _halves(self) -> tuple[_Half, _Half]:
        hidden = self._decoder_features
        image, latent = tuple(self.input_shape), self.encoder_features[-1]
        encoder = (image, *((width,) for width in self.encoder_features))
        decoder = ((latent,), *((width,) for width in hidden), image)
        common: dict[str, Any] = {
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "parent": None,
        }
        return (
            _Dense(encoder, "linear", self.activation, **common),
            _Dense(decoder, self.output, self.activation, **common),
        )

    @property
    def _decoder_features(self) -> Sequence[int]:
        if self.decoder_features is None:
            return tuple(self.encoder_features[:-1])[::-1]
        return self.decoder_features

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises an error for what a field does not take."""
        check_widths("input_shape", self.input_shape)
        check_widths("encoder_features", self.encoder_features)
        check_widths("decoder_features", self._decoder_features, allow_empty=True)
        as_activation(self.activation)
        _output(self.output)


class _ConvEncoder(_Half):
    """Strided convolutions, then a dense layer if the latent is a vector.

    Attributes:
      kernel_size: the height and width of all kernels.
    """

    kernel_size: int

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The convolutions ``0``, ``1`` and so on, and ``latent``."""
        for i, shape in enumerate(self.shapes[1:]):
            if len(shape) == 3:
                conv = functools.partial(self._conv, i, shape[-1])
                yield Part(f"{i}", conv, owns=(f"stages_{i}",))
            else:
                yield Part("latent", self._latent, owns=("latent",))

    def _conv(self, i: int, channels: int, x: Array, train: bool) -> Array:
        del train
        x = as_activation(self.activation)(x) if i else x
        return Conv(
            channels,
            self.kernel_size,
            stride=2,
            padding="SAME",
            use_bias=True,
            kernel_init=nn.initializers.lecun_normal(),
            bias_init=nn.initializers.zeros,
            name=f"stages_{i}",
            **self.dtypes,
        )(x)

    def _latent(self, x: Array, train: bool) -> Array:
        del train
        x = as_activation(self.activation)(x).reshape(*x.shape[:-3], math.prod(x.shape[-3:]))
        return nn.Dense(self.shapes[-1][0], name="latent", **self.dtypes)(x)


class _ConvDecoder(_Half):
    """A dense layer if the latent is a vector, then transposed convolutions.

    Attributes:
      kernel_size: the height and width of all kernels.
    """

    kernel_size: int

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """``latent``, and the convolutions ``0``, ``1`` and so on."""
        maps = [shape for shape in self.shapes if len(shape) == 3]
        if len(maps) < len(self.shapes):
            yield Part("latent", self._latent, owns=("latent",))
        for i, shape in enumerate(maps[1:]):
            conv = functools.partial(self._conv, i, shape)
            yield Part(f"{i}", conv, owns=(f"stages_{i}",))
        yield Part(f"{len(maps) - 2}", self._last)

    def _latent(self, x: Array, train: bool) -> Array:
        del train
        shape = self.shapes[1]
        x = nn.Dense(math.prod(shape), name="latent", **self.dtypes)(x)
        return as_activation(self.activation)(x.reshape(*x.shape[:-1], *shape))

    def _conv(self, i: int, shape: tuple[int, ...], x: Array, train: bool) -> Array:
        del train
        height, width, channels = shape
        x = as_activation(self.activation)(x) if i else x
        size = (self.kernel_size, self.kernel_size)
        x = nn.ConvTranspose(
            channels, size, strides=(2, 2), padding="SAME", name=f"stages_{i}", **self.dtypes
        )(x)
        # A stage doubles its input; where the encoder halved an odd size that is one too many.
        return x[..., :height, :width, :]

    def _last(self, x: Array, train: bool) -> Array:
        del train
        return _output(self.output)(x)


@explained
class ConvAutoEncoder(_Halves):
    """Convolutional autoencoder: strided convolutions down, transposed convolutions up.

    Each stage halves height and width, rounding up, and the decoder retraces the same sizes, so
    that the reconstruction has the input's shape for odd sizes as well. The parameters are in the
    groups ``encoder`` and ``decoder``.

    Attributes:
      input_shape: (height, width, channels) of an image.
      features: channels after each stage of the encoder; the decoder mirrors them.
      latent_dim: size of a dense bottleneck; None leaves the latent a feature map
        [h, w, features[-1]].
      kernel_size: of all convolutions.
      activation: between layers, by name or callable; None for none.
      output: ``"sigmoid"`` for data in [0, 1], or ``"linear"``.
      dtype: of the computation; None keeps the promotion of inputs and parameters.
      param_dtype: of the parameters.
    """

    input_shape: Sequence[int]
    features: Sequence[int] = (32, 64)
    latent_dim: int | None = None
    kernel_size: int = 3
    activation: Activation = "relu"
    output: str = "sigmoid"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def stage_shapes(self) -> tuple[tuple[int, int, int], ...]:
        """(H, W, C) of the input and after each stage of the encoder."""
        height, width, channels = self.input_shape
        shapes = [(height, width, channels)]
        for channels in self.features:
            height, width = -(-height // 2), -(-width // 2)
            shapes.append((height, width, channels))
        return tuple(shapes)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of one example's latent: a vector's with ``latent_dim``, else a feature map's."""
        return self.stage_shapes[-1] if self.latent_dim is None else (self.latent_dim,)

    @nn.nowrap
    def _halves(self) -> tuple[_Half, _Half]:
        down = self.stage_shapes
        latent = () if self.latent_dim is None else ((self.latent_dim,),)
        layers = (self.activation, self.kernel_size)
        common: dict[str, Any] = {
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
            "parent": None,
        }
        return (
            _ConvEncoder((*down, *latent), "linear", *layers, **common),
            _ConvDecoder((*latent, *down[::-1]), self.output, *layers, **common),
        )

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises an error for what a field does not take."""
        check_widths("input_shape", self.input_shape)
        check_widths("features", self.features)
        check_size("kernel_size", self.kernel_size)
        check_size("latent_dim", self.latent_dim, optional=True)
        if len(self.input_shape) != 3:
            raise ShapeError(
                f"input_shape must be (height, width, channels), got {tuple(self.input_shape)}"
            )
        as_activation(self.activation)
        _output(self.output)


AUTOENCODER_PAPER = "https://doi.org/10.1126/science.1127647"


@register("autoencoder", input_shape=(28, 28, 1), task="reconstruction", paper=AUTOENCODER_PAPER)
@takes_fields_of(AutoEncoder)
def autoencoder(*, input_shape: tuple[int, ...] = (28, 28, 1), **fields: Any) -> AutoEncoder:
    """Dense autoencoder over inputs of any shape."""
    check_widths("input_shape", input_shape)
    return AutoEncoder(input_shape, **fields)


@register(
    "conv_autoencoder", input_shape=(28, 28, 1), task="reconstruction", paper=AUTOENCODER_PAPER
)
@takes_fields_of(ConvAutoEncoder)
def conv_autoencoder(
    *, input_shape: tuple[int, int, int] = (28, 28, 1), **fields: Any
) -> ConvAutoEncoder:
    """Convolutional autoencoder over images of any size."""
    check_widths("input_shape", input_shape)
    return ConvAutoEncoder(input_shape, **fields)
