"""Images of a batch: where they are, what they must be, and what is drawn for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from flaxzoo._random import as_key
from flaxzoo.data.batch import Batch
from flaxzoo.errors import ShapeError

# Where the images are among several inputs.
_IMAGE_KEYS = ("inputs", "image", "images", "x")


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
    image_key = next((key for key in _IMAGE_KEYS if key in inputs), None)
    if image_key is None:
        raise ShapeError(
            f"{name_of(owner)} looks for images under {', '.join(_IMAGE_KEYS)}; the inputs have "
            f"{', '.join(map(str, inputs)) or 'no keys'}"
        )
    return image_key


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
