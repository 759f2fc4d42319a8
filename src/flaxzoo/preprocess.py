"""From files, PIL images and arrays to what a model takes; from its outputs to ranked classes."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import operator
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, overload

import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._checks import check_number
from flaxzoo._explain import explained, missing_attribute
from flaxzoo._host import as_host
from flaxzoo._warnings import warn
from flaxzoo.errors import DataError, ShapeError, UnknownNameError, did_you_mean
from flaxzoo.images import CROP_MODES, INTERPOLATIONS, fit, is_encoded, is_pil, load_image

_MAX_WORKERS = 8
# What timm assumes of weights that do not say (timm.data.resolve_data_config).
_TIMM_DEFAULTS: dict[str, Any] = {
    "input_size": (3, 224, 224),
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
}
_SHOWN = 20
# How many times brighter than white, in the range of a model, looks like 0 to 255.
_UNSCALED = 10
# Of the picture that is cut from, in pixels.
_MAX_SIDE = 1 << 20


@explained
@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How one image becomes the model's input.

    The picture is turned upright, converted to grey or RGB, resized, cropped, scaled to [0, 1] and
    normalised. With ``crop`` the pixels are those of timm's inference transform.

    Attributes:
      input_shape: ``(height, width, channels)``; 1 channel is grey, 3 are RGB.
      mean: subtracted per channel after scaling to [0, 1]. One value holds for every channel; of
        three values, a model of one channel takes the average.
      std: divided by, likewise.
      interpolation: ``"nearest"``, ``"bilinear"``, ``"bicubic"``, ``"lanczos"``, ``"box"`` or
        ``"hamming"``, antialiased as Pillow does.
      crop: the part of the resized picture that is kept, as a fraction of its side (timm's
        ``crop_pct``). None resizes straight to ``input_shape``, whatever the aspect ratio.
      crop_mode: what ``crop`` is taken of. ``"center"``: the shorter side becomes
        ``floor(size / crop)``, and the middle is kept. ``"squash"``: both sides do, changing the
        aspect ratio. ``"border"``: the longer side does, and borders of the mean colour fill up.
      value_range: the values that become black and white in pictures of more than eight bits;
        what lies beyond them is clipped. None takes the range of the file's integers (0 to 65535,
        with a sign -32768 to 32767), and of floats 0 to 1, or 0 to 255 where one is above 1;
        other values are an error then. Pictures of eight bits are as they are. White may be the
        smaller one.

    Raises:
      ValueError: sizes, ``mean``, ``std``, ``crop`` or ``value_range`` out of range.
      UnknownNameError: (a KeyError) an unknown ``interpolation`` or ``crop_mode``.
    """

    input_shape: tuple[int, int, int]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    interpolation: str = "bilinear"
    crop: float | None = None
    crop_mode: str = "center"
    value_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        # Lists come from JSON; a spec is compared, hashed and written.
        shape = _sizes("input_shape", self.input_shape, "(height, width, channels)")
        object.__setattr__(self, "input_shape", shape)
        if shape[-1] not in (1, 3) or min(shape) < 1:
            raise ValueError(
                f"input_shape must be (height, width, channels) with 1 or 3 channels, got {shape}"
            )
        for name in ("mean", "std"):
            values = _numbers(getattr(self, name))
            if values is None or len(values) not in (1, 3):
                raise ValueError(
                    f"{name} must be one or three finite numbers in a tuple, "
                    f"got {getattr(self, name)!r}"
                )
            object.__setattr__(self, name, values)
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")
        for name, known in (("interpolation", INTERPOLATIONS), ("crop_mode", CROP_MODES)):
            value = getattr(self, name)
            if value not in known:
                raise UnknownNameError(
                    f"unknown {name} {value!r}.{did_you_mean(str(value), known)} "
                    f"There are: {', '.join(known)}"
                )
        if self.value_range is not None:
            values = _numbers(self.value_range)
            if values is None or len(values) != 2 or values[0] == values[1]:
                raise ValueError(
                    "value_range must be (black, white), two different finite numbers, or None, "
                    f"got {self.value_range!r}"
                )
            object.__setattr__(self, "value_range", values)
        if self.crop is None:
            if self.crop_mode != "center":
                raise ValueError(f"crop_mode {self.crop_mode!r} needs crop, 1.0 to keep everything")
        else:
            crop = _crop("crop", self.crop)
            object.__setattr__(self, "crop", crop)
            if not (min(shape[:2]) / crop >= 1 and max(shape[:2]) / crop <= _MAX_SIDE):
                raise ValueError(
                    f"crop={crop} of {shape[0]} x {shape[1]} pixels would be cut from a picture "
                    f"whose sides are below 1 or above {_MAX_SIDE:,}"
                )

    @classmethod
    def from_timm(cls, config: Mapping[str, Any], *, test: bool = False) -> Preprocess:
        """Reads the ``pretrained_cfg`` of timm's weights, as their ``config.json`` has it.

        Args:
          config: with any of ``input_size`` ``[C, H, W]``, ``mean``, ``std``, ``interpolation``,
            ``crop_pct`` and ``crop_mode``; what is missing is what timm assumes: 224 x 224,
            ImageNet's mean and std, bicubic, 0.875, center. Other keys are not looked at.
          test: whether to take ``test_input_size`` and ``test_crop_pct`` where they are given,
            the larger images at which many weights are more accurate.

        Raises:
          ValueError: a value that is no such setting; UnknownNameError for a name.
        """
        settings = {**_TIMM_DEFAULTS, **{k: v for k, v in config.items() if v is not None}}
        if test:
            for key in ("input_size", "crop_pct"):
                settings[key] = settings.get(f"test_{key}") or settings[key]
        size = _sizes("input_size", settings["input_size"], "(channels, height, width)")
        return cls(
            input_shape=(size[1], size[2], size[0]),
            mean=settings["mean"],
            std=settings["std"],
            interpolation=settings["interpolation"],
            crop=_crop("crop_pct", settings["crop_pct"]),
            crop_mode=settings["crop_mode"],
        )

    def to_timm(self) -> dict[str, Any]:
        """The same settings as timm's ``pretrained_cfg`` has them, for JSON.

        ``from_timm`` of it makes the same pixels. A direct resize (``crop=None``) is timm's
        ``"squash"`` of the whole picture.
        """
        height, width, channels = self.input_shape
        direct = self.crop is None
        return {
            "input_size": [channels, height, width],
            "mean": list(self._per_channel(self.mean)),
            "std": list(self._per_channel(self.std)),
            "interpolation": self.interpolation,
            "crop_pct": 1.0 if direct else self.crop,
            "crop_mode": "squash" if direct else self.crop_mode,
        }

    def __call__(self, images: Any) -> np.ndarray:
        """Makes a batch.

        Files are decoded in threads; no more than eight decoded pictures are held at a time.

        Args:
          images: one or an iterable, of any mixture, of paths, encoded bytes, binary file objects,
            PIL images, ``uint8`` arrays ``[H, W]`` or ``[H, W, C]``, and floating arrays of
            ``input_shape``, which are taken as preprocessed already; or a ``uint8`` array
            ``[B, H, W]`` or ``[B, H, W, C]``, or a floating ``[B, H, W, C]``.

        Returns:
          float32 ``[B, H, W, C]``, in the order given.

        Raises:
          DataError: a file is missing or is not an image; the message names it and its place.
          ShapeError: a floating array of another shape, or an array that is no image.
          TypeError: none of these kinds.
        """
        items = self._items(images)
        if len(items) == 0:
            raise DataError("images is empty: there is nothing to predict")
        if isinstance(items, np.ndarray) and jnp.issubdtype(items.dtype, jnp.floating):
            return np.asarray(items, np.float32)
        return self._batch(items, 0, len(items))

    def batches(self, images: Any, batch_size: int) -> Iterator[np.ndarray]:
        """Makes one batch at a time, for more images than fit into memory.

        Args:
          images: as for a call.
          batch_size: of all but the last batch.

        Yields:
          float32 ``[<= batch_size, H, W, C]``.

        Raises:
          DataError, ShapeError, TypeError: as a call does, when the batch is reached.
          ValueError: ``batch_size`` is below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        items = self._items(images)
        floating = isinstance(items, np.ndarray) and jnp.issubdtype(items.dtype, jnp.floating)
        for start in range(0, len(items), batch_size):
            part = items[start : start + batch_size]
            if floating:
                yield part.astype(np.float32)
            else:
                yield self._batch(part, start, len(items))

    def _items(self, images: Any) -> Any:
        """What was given as a list of images or as an array of them."""
        if isinstance(images, Mapping):
            raise TypeError(
                f"images is a mapping with the keys {', '.join(map(repr, images))}: pass its images"
            )
        if is_encoded(images) or is_pil(images):
            return [images]
        if hasattr(images, "__array__"):
            images = as_host(images, "images")
            if jnp.issubdtype(images.dtype, jnp.floating):
                return self._checked(images)
            # Paths come in arrays, and in a data frame's column, as objects or text.
            if images.dtype.kind not in "OUST":
                # [B, H, W] of single-channel images and [H, W, C] have the same rank.
                grey = images.ndim == 3 and images.shape[-1] not in (1, 2, 3, 4)
                return images if images.ndim > 3 or grey else [images]
        try:
            return list(images)
        except TypeError:
            return [images]

    def _checked(self, images: np.ndarray) -> np.ndarray:
        if images.shape == self.input_shape:
            images = images[None]
        if images.ndim != 4 or images.shape[1:] != self.input_shape:
            raise ShapeError(
                f"floating images are taken as preprocessed: they must have shape "
                f"[B, {', '.join(map(str, self.input_shape))}], got {list(images.shape)}; "
                "pass uint8 arrays, PIL images or paths to have them resized and normalised"
            )
        return images

    def _batch(self, items: Sequence[Any], start: int, total: int) -> np.ndarray:
        """Preprocesses ``items``, which stand at ``start`` of ``total`` in what the caller gave."""
        batch = np.empty((len(items), *self.input_shape), np.float32)

        def fill(index: int) -> None:
            batch[index] = self._one(items[index])

        # Pillow decodes and resizes without holding Python's lock. A file that the caller opened
        # may have one position for several images, so those stay in this thread.
        files = [i for i, x in enumerate(items) if isinstance(x, str | os.PathLike | bytes)]
        # Twice the processors, as some threads wait for the disk or for that lock.
        workers = min(2 * available_cpus(), len(files), _MAX_WORKERS)
        with contextlib.ExitStack() as stack:
            running = {}
            if workers > 1:
                pool = ThreadPoolExecutor(workers, "flaxzoo-images")
                stack.callback(pool.shutdown, cancel_futures=True)
                running = {index: pool.submit(fill, index) for index in files}
            for index in range(len(items)):
                try:
                    if index in running:
                        running[index].result()
                    else:
                        fill(index)
                except (DataError, ShapeError, TypeError) as error:
                    if total == 1:
                        raise
                    raise type(error)(f"images[{start + index}]: {error}") from error
        return batch

    def _one(self, image: Any) -> np.ndarray:
        if hasattr(image, "__array__") and not is_encoded(image):
            image = as_host(image, "an image array")
            if jnp.issubdtype(image.dtype, jnp.floating):
                return self._checked(image[None])[0]
        out = np.empty((1, *self.input_shape), np.float32)
        picture = load_image(image, self.input_shape[-1], self.value_range)
        self.normalize(self.pixels(picture)[None], out)
        return out[0]

    def pixels(self, image: Any) -> np.ndarray:
        """Resizes and crops a PIL image of mode ``L`` or ``RGB``: uint8 ``[H, W, C]``."""
        fitted = fit(
            image,
            self.input_shape[:2],
            interpolation=self.interpolation,
            crop=self.crop,
            crop_mode=self.crop_mode,
            fill=tuple(round(255 * value) for value in self._per_channel(self.mean)),
        )
        return np.asarray(fitted).reshape(self.input_shape)

    def normalize(self, pixels: np.ndarray, out: np.ndarray) -> None:
        """Scales pixels to [0, 1] and normalises them.

        Args:
          pixels: uint8 ``[N, H, W, C]``.
          out: float32 ``[N, H, W, C]``, written to.
        """
        _, width, channels = self.input_shape
        # Whole rows of means and deviations: NumPy's loop over three channels is ten times slower.
        mean, std = (
            np.tile(np.asarray(self._per_channel(values), np.float32), width)
            for values in (self.mean, self.std)
        )
        # Image by image, as one stays in the cache between the passes.
        for image, target in zip(pixels, out, strict=True):
            rows = target.reshape(-1, width * channels)
            np.divide(image.reshape(rows.shape), np.float32(255), out=rows, dtype=np.float32)
            if mean.any():
                rows -= mean
            if (std != 1).any():
                rows /= std

    def takes_pixels(self, leaf: Any) -> bool:
        """Whether an array, or its shape, is a batch of pixels: uint8 ``[B, H, W, C]``.

        Grey ones may be ``[B, H, W]``.
        """
        channels = self.input_shape[-1]
        if getattr(leaf, "dtype", None) != np.uint8:
            return False
        return (leaf.ndim == 4 and leaf.shape[-1] == channels) or (leaf.ndim == 3 and channels == 1)

    def scaled(self, leaf: Any) -> Any:
        """A batch of pixels, scaled to [0, 1] and normalised on the device; all else as it is.

        Args:
          leaf: an array, a tracer or a ``jax.ShapeDtypeStruct``. Pixels are not resized.

        Returns:
          float32 ``[B, H, W, C]`` for pixels, which are those of a call to within rounding.
        """
        if not self.takes_pixels(leaf):
            return leaf
        shape = jax.ShapeDtypeStruct((*leaf.shape[:3], self.input_shape[-1]), np.dtype(np.float32))
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return shape
        mean, std = (
            jnp.asarray(self._per_channel(values), jnp.float32).reshape(1, 1, 1, -1)
            for values in (self.mean, self.std)
        )
        return (jnp.reshape(leaf, shape.shape).astype(jnp.float32) / 255 - mean) / std

    def warn_of_scale(self, images: Any) -> None:
        """Warns of a NumPy batch whose values look like pixels that nothing has scaled.

        Args:
          images: a batch of inputs; what is no array ``[B, H, W, C]`` is not looked at.

        Warns:
          UserWarning: no value is negative, and the largest is far above what white becomes.
        """
        if not isinstance(images, np.ndarray) or images.ndim != 4 or self.takes_pixels(images):
            return
        white = max((1 - m) / s for m in self.mean for s in self.std)
        largest = float(images.max(initial=0))
        if largest > _UNSCALED * max(white, 1) and images.min() >= 0:
            warn(
                f"images of {images.dtype} reach {largest:g}, where this model's preprocessing "
                f"makes {white:.3g} of white: they look unscaled. Pass uint8 arrays, which are "
                "preprocessed, or divide by 255 and normalise as model.spec.preprocess says",
            )

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and std for each channel."""
        return self._per_channel(self.mean), self._per_channel(self.std)

    def _per_channel(self, values: tuple[float, ...]) -> tuple[float, ...]:
        channels = self.input_shape[-1]
        if len(values) == channels:
            return values
        return (sum(values) / len(values),) * channels


def model_inputs(preprocess: Preprocess | None, inputs: Any) -> Any:
    """Inputs as a model takes them: its preprocessing makes floats of uint8 pixels.

    Args:
      preprocess: the model's, or None for one that has none.
      inputs: a tree of arrays, tracers or ``jax.ShapeDtypeStruct``.
    """
    return inputs if preprocess is None else jax.tree.map(preprocess.scaled, inputs)


def _sizes(name: str, sizes: Any, form: str) -> tuple[int, int, int]:
    try:
        if any(isinstance(size, bool) for size in sizes):
            raise TypeError
        first, second, third = map(operator.index, sizes)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be {form}, all integers, got {sizes!r}") from None
    return first, second, third


def _numbers(values: Any) -> tuple[float, ...] | None:
    """Finite numbers, of Python's or NumPy's; None where there are other things."""
    try:
        return tuple(check_number("value", value) for value in values)
    except (TypeError, ValueError, OverflowError):
        return None


def _crop(name: str, value: Any) -> float:
    values = _numbers((value,))
    if values is None or values[0] <= 0:
        raise ValueError(f"{name} must be a positive fraction, got {value!r}")
    return values[0]


def available_cpus() -> int:
    """The number of CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Predictions:
    """What ``Model.predict`` returns for a batch.

    ``predictions[0]`` is the first example's list of ``(label, probability)``, best first, a slice
    is ``Predictions`` again, and iterating goes over the examples. ``print`` shows a line for each;
    a notebook shows a table.

    Attributes:
      labels: for each example the ``top_k`` class names, best first (class numbers as text where
        the model has no names).
      indices: int ``[B, top_k]``, the classes themselves.
      probabilities: float32 ``[B, top_k]``.
    """

    labels: list[list[str]]
    indices: np.ndarray
    probabilities: np.ndarray

    if not TYPE_CHECKING:
        __getattr__ = missing_attribute

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        # NumPy would make one of the pairs as text, whose argmax is a number, and wrong.
        raise TypeError(
            "predictions are the best classes, no array of all: predictions.indices[:, 0] has the "
            "best of each example, and model(inputs) the logits of every class"
        )

    @classmethod
    def from_logits(
        cls, logits: np.ndarray, top_k: int, classes: Sequence[str] | None
    ) -> Predictions:
        """Softmax in float64, then the ``top_k`` largest; ties go to the lower class.

        Args:
          logits: ``[B, classes]``.
          top_k: how many classes to keep of each example.
          classes: a name per class; None for their numbers.

        Raises:
          DataError: a logit is NaN or infinite.
          ShapeError: there are not as many names as classes.
        """
        if not np.isfinite(logits.astype(np.float64)).all():
            raise DataError("the model's outputs are not finite: its variables may have diverged")
        if classes and len(classes) != logits.shape[-1]:
            raise ShapeError(
                f"the model gives {logits.shape[-1]} outputs, but there are {len(classes)} class "
                "names"
            )
        shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
        probabilities = np.exp(shifted)
        probabilities /= probabilities.sum(-1, keepdims=True)
        indices = np.argsort(-probabilities, axis=-1, kind="stable")[:, :top_k]
        names = classes or [str(i) for i in range(logits.shape[-1])]
        return cls(
            labels=[[names[i] for i in row] for row in indices],
            indices=indices,
            probabilities=np.take_along_axis(probabilities, indices, -1).astype(np.float32),
        )

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> list[tuple[str, float]]: ...

    @overload
    def __getitem__(self, index: slice) -> Predictions: ...

    def __getitem__(self, index: int | slice) -> list[tuple[str, float]] | Predictions:
        if isinstance(index, slice):
            return Predictions(self.labels[index], self.indices[index], self.probabilities[index])
        values = [float(value) for value in self.probabilities[index]]
        return list(zip(self.labels[index], values, strict=True))

    def __iter__(self) -> Iterator[list[tuple[str, float]]]:
        return (self[index] for index in range(len(self)))

    def __str__(self) -> str:
        return "\n".join(", ".join(f"{name} {p:.1%}" for name, p in row) for row in self)

    def __repr__(self) -> str:
        lines = [f"  {line}" for line in str(self[:_SHOWN]).splitlines()]
        if len(self) > _SHOWN:
            lines.append(f"  ... {len(self) - _SHOWN} more")
        return "\n".join([f"Predictions({len(self)} examples)", *lines])

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{index}</th>"
            + "".join(f"<td>{html.escape(name)} {p:.1%}</td>" for name, p in row)
            + "</tr>"
            for index, row in enumerate(self[:_SHOWN])
        )
        more = f"<p>{len(self) - _SHOWN} more</p>" if len(self) > _SHOWN else ""
        return f"<table>{rows}</table>{more}"
