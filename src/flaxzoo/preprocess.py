"""From files, PIL images and arrays to what a model takes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from flaxzoo.errors import DataError, ShapeError


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """How one image becomes the model's input.

    Attributes:
      input_shape: ``(height, width, channels)``.
      mean: subtracted per channel after scaling to [0, 1].
      std: divided by per channel.
      interpolation: ``"nearest"``, ``"bilinear"``, ``"bicubic"`` or ``"lanczos"``.
    """

    input_shape: tuple[int, int, int]
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    interpolation: str = "bilinear"

    def __call__(self, images: Any) -> np.ndarray:
        """Makes a batch.

        Args:
          images: one or a sequence of paths, PIL images, or ``uint8`` arrays ``[H, W]`` or
            ``[H, W, C]``; or a floating array ``[B, H, W, C]``, taken as preprocessed already.

        Returns:
          float32 ``[B, H, W, C]``.

        Raises:
          DataError: a file is missing or is not an image; the message names it.
          ShapeError: a floating array of another shape, or an array of a rank that is no image.
        """
        if hasattr(images, "dtype") and jnp.issubdtype(images.dtype, jnp.floating):
            return self._checked(np.asarray(images, np.float32))
        if (
            isinstance(images, str | os.PathLike)
            or _is_pil(images)
            or (hasattr(images, "ndim") and images.ndim < 4 and not self._is_batch(images))
        ):
            images = [images]
        items = list(images)
        if not items:
            raise DataError("images is empty: there is nothing to predict")
        return np.stack([self._one(image) for image in items])

    def _is_batch(self, images: Any) -> bool:
        # [B, H, W] of single-channel images and [H, W, C] have the same rank.
        return images.ndim == 3 and images.shape[-1] not in (1, 3, 4)

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

    def _one(self, image: Any) -> np.ndarray:
        height, width, channels = self.input_shape
        pil = _upright(self._open(image))
        if pil.mode.startswith("I"):
            # Sixteen bits; Pillow's own conversion would clip them.
            pil = pil.convert("I").point(lambda value: value / 257).convert("L")
        pil = pil.convert("L" if channels == 1 else "RGB")
        if pil.size != (width, height):
            from PIL.Image import Resampling

            pil = pil.resize((width, height), Resampling[self.interpolation.upper()])
        pixels = np.asarray(pil, np.float32).reshape(height, width, channels) / 255.0
        return (pixels - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)

    def _open(self, image: Any) -> Any:
        from PIL import Image

        if _is_pil(image):
            return image
        if isinstance(image, str | os.PathLike):
            try:
                with Image.open(image) as opened:
                    opened.load()
                    return opened
            except FileNotFoundError:
                raise DataError(f"{os.fspath(image)}: no such file") from None
            except OSError as error:
                raise DataError(f"{os.fspath(image)}: not a readable image ({error})") from error
        array = np.asarray(image)
        if array.ndim == 3 and array.shape[-1] == 1:
            array = array[..., 0]
        if array.dtype != np.uint8 or array.ndim not in (2, 3):
            raise ShapeError(
                "an image array must be uint8 of shape [H, W] or [H, W, C], "
                f"got {array.dtype}{list(array.shape)}"
            )
        return Image.fromarray(array)


def _upright(image: Any) -> Any:
    # Cameras store which way is up beside the pixels.
    from PIL import ImageOps

    return ImageOps.exif_transpose(image)


def _is_pil(image: Any) -> bool:
    return type(image).__module__.partition(".")[0] == "PIL"


@dataclasses.dataclass(frozen=True)
class Predictions:
    """What ``Model.predict`` returns for a batch.

    Attributes:
      labels: for each example the ``top_k`` class names, best first (class numbers as text where
        the model has no names).
      indices: int ``[B, top_k]``, the classes themselves.
      probabilities: float32 ``[B, top_k]``.
    """

    labels: list[list[str]]
    indices: np.ndarray
    probabilities: np.ndarray

    @classmethod
    def from_logits(
        cls, logits: np.ndarray, top_k: int, classes: Sequence[str] | None
    ) -> Predictions:
        """Softmax in float64, then the ``top_k`` largest; ties go to the lower class.

        Raises:
          DataError: a logit is NaN or infinite.
        """
        if not np.isfinite(logits.astype(np.float64)).all():
            raise DataError("the model's outputs are not finite: its variables may have diverged")
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

    def __str__(self) -> str:
        return "\n".join(
            ", ".join(f"{name} {p:.1%}" for name, p in zip(names, row, strict=True))
            for names, row in zip(self.labels, self.probabilities, strict=True)
        )
