"""What every augmentation has in common: the interface, keys, and the range of the values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from flaxzoo._checks import check_number
from flaxzoo._random import as_key
from flaxzoo.augment import ranges
from flaxzoo.data.batch import Batch
from flaxzoo.errors import ShapeError

if TYPE_CHECKING:
    from flaxzoo.preprocess import Preprocess

# Where the images are among several inputs.
_IMAGE_KEYS = ("inputs", "image", "images", "x")


@dataclasses.dataclass(frozen=True, repr=False)
class Augmentation:
    """A random change of a training batch, run on the device inside the compiled step.

    It is configuration only: frozen, hashable, equal to any other with equal fields. The same key
    always gives the same result. A subclass writes ``__call__`` or ``images``.
    """

    def __call__(self, key: Any, batch: Batch) -> Batch:
        """Augments a training batch.

        Args:
          key: a key, or an int seed.
          batch: images ``[B, H, W, C]``, floating, as its inputs, or in a mapping under
            ``image``; other inputs, targets and weights stay.

        Raises:
          ShapeError: the inputs are no images, or have the wrong number of channels.
        """
        return replace_images(batch, self.images(key, images_of(batch, self)))

    def images(self, key: Any, images: Any) -> jax.Array:
        """Augments images alone.

        Args:
          key: a key, or an int seed.
          images: ``[B, H, W, C]``, floating, in the range that the model takes.

        Returns:
          Images of the same dtype and, unless the augmentation has a ``size``, of the same shape.

        Raises:
          ShapeError: they are no images, or have the wrong number of channels.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither __call__ nor images")

    def normalized_by(self, preprocess: Preprocess | None) -> Augmentation:
        """The same for images that are normalised to ``(x - mean) / std``.

        Args:
          preprocess: what the images went through; None for images in [0, 1].
        """
        return self

    def with_num_classes(self, num_classes: int) -> Augmentation:
        """The same with the number of classes filled in where it is needed and not given."""
        return self

    @property
    def soft_targets(self) -> bool:
        """Whether labels ``[B]`` come out as probabilities ``[B, num_classes]``."""
        return False

    def __repr__(self) -> str:
        """The fields that are not at their defaults."""
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __or__(self, other: Any) -> Augmentation:
        """``a | b`` does ``a``, then ``b``."""
        from flaxzoo.augment.compose import Compose

        return Compose((self, other)) if callable(other) else NotImplemented

    def __ror__(self, other: Any) -> Augmentation:
        """``f | a`` for a function ``f(key, batch)``."""
        from flaxzoo.augment.compose import Compose

        return Compose((other, self)) if callable(other) else NotImplemented


@dataclasses.dataclass(frozen=True, repr=False)
class ImageAugmentation(Augmentation):
    """One that changes each image for itself; a subclass writes ``example``.

    Attributes:
      p: probability that an image is changed at all; each image draws for itself.
      mean: that the images were normalised with, one value or one per channel; see
        ``normalized_by``. The default is that of images in [0, 1].
      std: likewise.
    """

    p: float = dataclasses.field(default=1.0, kw_only=True)
    mean: tuple[float, ...] = dataclasses.field(default=(0.0,), kw_only=True)
    std: tuple[float, ...] = dataclasses.field(default=(1.0,), kw_only=True)

    def __post_init__(self) -> None:
        set_field(self, "p", check_number("p", self.p, minimum=0, maximum=1))
        for name in ("mean", "std"):
            values = ranges.color(name, getattr(self, name), words=())
            set_field(self, name, values)
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")

    def images(self, key: Any, images: Any) -> jax.Array:  # noqa: D102 - inherited
        images = check_images(images, self)
        return per_example(self.sometimes, key, images)

    def sometimes(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """``example`` with probability ``p``; one image ``[H, W, C]``, at least float32."""
        chosen, key = self.choose(key)
        result = self.example(key, image)
        return result if self.p == 1 else jnp.where(chosen, result, image)

    def choose(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Whether this image is changed, and the key for how."""
        if self.p == 1:
            return jnp.asarray(True), key
        choice, key = jax.random.split(key)
        return jax.random.bernoulli(choice, self.p), key

    def example(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Changes one image.

        Args:
          key: of this image.
          image: ``[H, W, C]``, float32 or float64.
        """
        raise NotImplementedError(f"{type(self).__name__} has no example")

    def normalized_by(self, preprocess: Preprocess | None) -> Augmentation:  # noqa: D102
        if preprocess is None:
            return self
        return dataclasses.replace(self, mean=preprocess.mean, std=preprocess.std)

    def unit(self, change: Callable[[jax.Array], jax.Array], image: jax.Array) -> jax.Array:
        """``change`` of the image in [0, 1], normalised again."""
        if self.mean == (0.0,) and self.std == (1.0,):
            return change(image)
        mean = per_channel(self.mean, image, self)
        std = per_channel(self.std, image, self)
        return (change(image * std + mean) - mean) / std

    def fill_values(self, fill: str | tuple[float, ...], image: jax.Array) -> jax.Array:
        """A colour ``[C]`` given in [0, 1], or "mean", in the range of the images."""
        mean = per_channel(self.mean, image, self)
        if isinstance(fill, str):
            return jnp.zeros_like(mean)
        return (per_channel(fill, image, self) - mean) / per_channel(self.std, image, self)


def set_field(owner: Any, name: str, value: Any) -> None:
    """Sets a field of a frozen dataclass while it is being made."""
    object.__setattr__(owner, name, value)


def name_of(owner: Any) -> str:
    """What messages call an augmentation."""
    return getattr(owner, "__name__", type(owner).__name__)


def per_example(
    change: Callable[[jax.Array, jax.Array], jax.Array], key: Any, images: jax.Array
) -> jax.Array:
    """Maps ``change(key, image)`` over a batch: at least float32 inside, same dtype outside."""
    wide = images.astype(jnp.promote_types(images.dtype, jnp.float32))
    keys = jax.random.split(as_key(key), images.shape[0])
    return jax.vmap(change)(keys, wide).astype(images.dtype)


def per_row(draw: Callable[[jax.Array], jax.Array], key: jax.Array, images: jax.Array) -> jax.Array:
    """``draw(key)`` for each image of a batch with a key of its own."""
    return jax.vmap(draw)(jax.random.split(key, images.shape[0]))


def scaled(draw: jax.Array, limits: Any) -> jax.Array:
    """A draw in [0, 1) taken to ``limits``, (low, high); equal limits are met exactly."""
    low, high = limits
    return low + draw * (high - low)


def per_channel(values: tuple[float, ...], image: jax.Array, owner: Any) -> jax.Array:
    """One value per channel of ``image``: repeated, or averaged for grey images.

    Raises:
      ShapeError: the image has another number of channels than there are values.
    """
    channels = image.shape[-1]
    if channels == 1:
        values = (sum(values) / len(values),)
    if len(values) not in (1, channels):
        raise ShapeError(
            f"{name_of(owner)} has {len(values)} values per pixel (mean, std or fill), but the "
            f"images have {channels} channels"
        )
    return jnp.broadcast_to(jnp.asarray(values, image.dtype), (channels,))


def check_images(images: Any, owner: Any) -> jax.Array:
    """``images`` as an array ``[B, H, W, C]`` of floats.

    Raises:
      ShapeError: it is not.
    """
    shape, dtype = getattr(images, "shape", None), getattr(images, "dtype", None)
    if shape is None or dtype is None or len(shape) != 4 or 0 in shape:
        got = type(images).__name__ if shape is None else f"shape {list(shape)}"
        raise ShapeError(f"{name_of(owner)} takes images of shape [B, H, W, C], got {got}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ShapeError(
            f"{name_of(owner)} takes floating images, as the model does, got {dtype}; "
            "divide bytes by 255 first"
        )
    return jnp.asarray(images)


def check_rgb(image: jax.Array, owner: Any, what: str) -> None:
    """Raises ShapeError unless the last axis has three colours."""
    if image.shape[-1] != 3:
        raise ShapeError(
            f"{what} of {name_of(owner)} needs images of 3 channels (RGB), "
            f"got {image.shape[-1]} channels"
        )


def _image_key(inputs: Mapping[str, Any], owner: Any) -> str:
    found = next((key for key in _IMAGE_KEYS if key in inputs), None)
    if found is None:
        raise ShapeError(
            f"{name_of(owner)} looks for images under {', '.join(_IMAGE_KEYS)}; the inputs have "
            f"{', '.join(map(str, inputs)) or 'no keys'}"
        )
    return found


def images_of(batch: Batch, owner: Any) -> Any:
    """The images of a batch.

    Raises:
      TypeError: it is no batch.
      ShapeError: its inputs are a mapping without images.
    """
    if not hasattr(batch, "inputs"):
        raise TypeError(
            f"{name_of(owner)} takes a Batch(inputs, targets, weights), got "
            f"{type(batch).__name__}; for images alone call .images(key, images)"
        )
    if isinstance(batch.inputs, Mapping):
        return batch.inputs[_image_key(batch.inputs, owner)]
    return batch.inputs


def replace_images(batch: Batch, images: Any) -> Batch:
    """The batch with other images."""
    if isinstance(batch.inputs, Mapping):
        key = _image_key(batch.inputs, "augmentation")
        return batch._replace(inputs={**batch.inputs, key: images})
    return batch._replace(inputs=images)
