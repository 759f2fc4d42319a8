"""Autoencoders: dense over inputs of any rank, and convolutional over images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ShapeError, UnknownNameError, did_you_mean
from flaxzoo.layers.conv import Conv
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


class _Dense(nn.Module):
    """Dense layers ``start`` to ``stop``; each but the first of all begins with the activation."""

    features: Sequence[int]
    activation: Activation
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Array, start: int = 0, stop: int | None = None) -> Array:
        activation = as_activation(self.activation)
        for i, width in list(enumerate(self.features))[start:stop]:
            x = activation(x) if i else x
            x = nn.Dense(width, dtype=self.dtype, param_dtype=self.param_dtype, name=f"layers_{i}")(
                x
            )
        return x


class AutoEncoder(nn.Module):
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

    def setup(self) -> None:
        """Builds both halves."""
        common = (self.activation, self.dtype, self.param_dtype)
        encoder, decoder = self._widths()
        self.encoder = _Dense(encoder, *common)
        self.decoder = _Dense(decoder, *common)

    @nn.nowrap
    def _widths(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of the layers of both halves; raises ValueError for what a field does not take."""
        check_widths("input_shape", self.input_shape)
        check_widths("encoder_features", self.encoder_features)
        hidden = self.decoder_features
        if hidden is None:
            hidden = tuple(self.encoder_features[:-1])[::-1]
        check_widths("decoder_features", hidden, allow_empty=True)
        return tuple(self.encoder_features), (*hidden, math.prod(self.input_shape))

    @nn.nowrap
    def _shapes(self) -> list[tuple[int, ...]]:
        """Of one example before the first stage and after each."""
        encoder, decoder = self._widths()
        image = tuple(self.input_shape)
        return [image, *((width,) for width in (*encoder, *decoder[:-1])), image]

    @nn.nowrap
    def stages(self) -> dict[str, tuple[str, ...]]:
        """The layers, ``encoder_0`` and so on, then ``decoder_0`` and so on.

        Raises:
          ValueError: a field holds what it does not take.
        """
        halves = zip(("encoder", "decoder"), self._widths(), strict=True)
        return {
            f"{half}_{i}": (f"{half}/layers_{i}",)
            for half, widths in halves
            for i in range(len(widths))
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
        del train
        x = jnp.asarray(x)
        shapes = self._shapes()
        stop = len(shapes) - 1 if stop is None else stop
        batch = _check("x", x, shapes[start])
        half = len(self.encoder_features)
        if not start:
            x = x.reshape(*batch, math.prod(self.input_shape))
        if start < half:
            x = self.encoder(x, start, stop)
        if stop > half:
            x = self.decoder(x, max(start - half, 0), stop - half)
        if stop == len(shapes) - 1:
            x = _output(self.output)(x.reshape(*batch, *self.input_shape))
        return x

    def encode(self, x: Array, *, train: bool = False) -> Array:
        """Latent vectors [..., latent] of examples [..., *input_shape].

        Raises:
          ShapeError: ``x`` does not end in ``input_shape``.
        """
        del train
        x = jnp.asarray(x)
        batch = _check("x", x, self.input_shape)
        return self.encoder(x.reshape(*batch, math.prod(self.input_shape)))

    def decode(self, z: Array, *, train: bool = False) -> Array:
        """Examples [..., *input_shape] from latent vectors [..., latent].

        Raises:
          ShapeError: ``z`` does not end in the size of the latent vector.
          UnknownNameError: ``output`` is neither sigmoid nor linear.
        """
        del train
        z = jnp.asarray(z)
        batch = _check("z", z, self.encoder_features[-1:])
        x = self.decoder(z).reshape(*batch, *self.input_shape)
        return _output(self.output)(x)

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Reconstructions [..., *input_shape] of examples of the same shape."""
        return self.decode(self.encode(x, train=train), train=train)


class _ConvEncoder(nn.Module):
    features: Sequence[int]
    kernel_size: int
    latent_dim: int | None
    activation: Activation
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Array, start: int = 0, stop: int | None = None) -> Array:
        activation = as_activation(self.activation)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i, width in list(enumerate(self.features))[start:stop]:
            x = activation(x) if i else x
            conv = Conv(
                width,
                self.kernel_size,
                stride=2,
                padding="SAME",
                use_bias=True,
                kernel_init=nn.initializers.lecun_normal(),
                bias_init=nn.initializers.zeros,
                name=f"stages_{i}",
                **dtypes,
            )
            x = conv(x)
        if self.latent_dim is None or (stop is not None and stop <= len(self.features)):
            return x
        x = activation(x).reshape(x.shape[0], -1)
        return nn.Dense(self.latent_dim, name="latent", **dtypes)(x)


class _ConvDecoder(nn.Module):
    # (H, W, C) that each stage produces, in order; the first entry is what the first stage takes.
    shapes: Sequence[tuple[int, int, int]]
    kernel_size: int
    from_vector: bool
    activation: Activation
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Array, start: int = 0, stop: int | None = None) -> Array:
        activation = as_activation(self.activation)
        dtypes = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        # The number of the first convolution among the stages.
        first = int(self.from_vector)
        if self.from_vector and not start:
            x = nn.Dense(math.prod(self.shapes[0]), name="latent", **dtypes)(x)
            x = activation(x.reshape(-1, *self.shapes[0]))
        stop = first + len(self.shapes) - 1 if stop is None else stop
        run = list(enumerate(self.shapes[1:]))[max(start - first, 0) : max(stop - first, 0)]
        for i, (height, width, channels) in run:
            x = activation(x) if i else x
            size = (self.kernel_size, self.kernel_size)
            x = nn.ConvTranspose(
                channels, size, strides=(2, 2), padding="SAME", name=f"stages_{i}", **dtypes
            )(x)
            # A stage doubles its input; where the encoder halved an odd size that is one too many.
            x = x[:, :height, :width]
        return x


class ConvAutoEncoder(nn.Module):
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

    def setup(self) -> None:
        """Builds both halves."""
        self._check_fields()
        common = (self.activation, self.dtype, self.param_dtype)
        self.encoder = _ConvEncoder(
            tuple(self.features), self.kernel_size, self.latent_dim, *common
        )
        self.decoder = _ConvDecoder(
            self.stage_shapes[::-1], self.kernel_size, self.latent_dim is not None, *common
        )

    @nn.nowrap
    def _check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_widths("input_shape", self.input_shape)
        check_widths("features", self.features)
        check_size("kernel_size", self.kernel_size)
        check_size("latent_dim", self.latent_dim, optional=True)
        if len(self.input_shape) != 3:
            raise ShapeError(
                f"input_shape must be (height, width, channels), got {tuple(self.input_shape)}"
            )

    @nn.nowrap
    def _shapes(self) -> list[tuple[int, ...]]:
        """Of one example before the first stage and after each."""
        down = list(self.stage_shapes)
        latent = [] if self.latent_dim is None else [(self.latent_dim,), down[-1]]
        return [*down, *latent, *down[-2::-1]]

    @nn.nowrap
    def stages(self) -> dict[str, tuple[str, ...]]:
        """``encoder_0`` and so on, then ``decoder_0`` and so on.

        With ``latent_dim`` there are ``encoder_latent`` and ``decoder_latent`` in between.

        Raises:
          ValueError: a field holds what it does not take.
        """
        self._check_fields()
        convs = range(len(self.features))
        latent = [] if self.latent_dim is None else ["latent"]
        encoder, decoder = [*convs, *latent], [*latent, *convs]
        names = [("encoder", part) for part in encoder] + [("decoder", part) for part in decoder]
        return {
            f"{half}_{part}": (f"{half}/{part}" if part == "latent" else f"{half}/stages_{part}",)
            for half, part in names
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
        del train
        x = jnp.asarray(x)
        shapes = self._shapes()
        stop = len(shapes) - 1 if stop is None else stop
        batch = _check("x", x, shapes[start])
        half = len(self.features) + (self.latent_dim is not None)
        x = x.reshape(math.prod(batch), *shapes[start])
        if start < half:
            x = self.encoder(x, start, stop)
        if stop > half:
            x = self.decoder(x, max(start - half, 0), stop - half)
        if stop == len(shapes) - 1:
            x = _output(self.output)(x)
        return x.reshape(*batch, *shapes[stop])

    def encode(self, x: Array, *, train: bool = False) -> Array:
        """Latents [..., *latent_shape] of images [..., H, W, C].

        Raises:
          ShapeError: ``x`` does not end in ``input_shape``.
        """
        del train
        x = jnp.asarray(x)
        batch = _check("x", x, self.input_shape)
        z = self.encoder(x.reshape(math.prod(batch), *self.input_shape))
        return z.reshape(*batch, *self.latent_shape)

    def decode(self, z: Array, *, train: bool = False) -> Array:
        """Images [..., H, W, C] from latents [..., *latent_shape].

        Raises:
          ShapeError: ``z`` does not end in ``latent_shape``.
          UnknownNameError: ``output`` is neither sigmoid nor linear.
        """
        del train
        z = jnp.asarray(z)
        batch = _check("z", z, self.latent_shape)
        x = self.decoder(z.reshape(math.prod(batch), *self.latent_shape))
        return _output(self.output)(x).reshape(*batch, *self.input_shape)

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Reconstructions [..., H, W, C] of images of the same shape."""
        return self.decode(self.encode(x, train=train), train=train)


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
