"""From files and PIL images to upright eight-bit pictures, and their resizing and cropping."""

from __future__ import annotations

import contextlib
import io
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from flaxzoo._files import as_path, open_regular
from flaxzoo._host import as_host
from flaxzoo.errors import DataError, ShapeError

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
CROP_MODES = ("center", "squash", "border")

# By mode, bits and sample format of TIFF.
_TIFF_INTEGERS = {
    ("L", 8, 2): "int8",
    ("I;16", 12, 1): "uint12",
    ("I", 16, 2): "int16",
    ("I", 32, 1): "uint32",
}
# Black and white: of integers that are no plain sixteen bits, and of what needs no scaling.
_RANGES = {"int8": (-128, 127), "uint12": (0, 4095), "int16": (-32768, 32767)}
_EIGHT_BITS = (0, 255)
# Above this many pixels only the part that the crop keeps is computed.
_MAX_RESIZED = 1 << 26


def is_pil(image: Any) -> bool:
    """Whether this is a PIL image, without importing PIL."""
    return any(cls.__module__.partition(".")[0] == "PIL" for cls in type(image).__mro__)


def is_encoded(image: Any) -> bool:
    """Whether this is an image still to be decoded: a path, the bytes of a file, or a file."""
    return isinstance(image, str | os.PathLike | bytes | bytearray) or hasattr(image, "read")


def load_image(image: Any, channels: int, value_range: tuple[float, float] | None = None) -> Any:
    """Decodes one image, turns it upright and converts it to what a model takes.

    Args:
      image: a path, a file's bytes, a binary file object, a PIL image, or a ``uint8`` array
        ``[H, W]`` or ``[H, W, C]`` of grey (C = 1), grey with alpha (2), RGB (3) or RGB with
        alpha (4).
      channels: 1 for grey, 3 for RGB.
      value_range: the values that are black and white in pictures of more than eight bits, as
        ``flaxzoo.Preprocess`` takes them.

    Returns:
      A PIL image of mode ``L`` or ``RGB``.

    Raises:
      DataError: not a readable image, or one whose values have no known range; the message names
        the file.
      ShapeError: an array of another shape or dtype.
      TypeError: none of these kinds.
    """
    from PIL import Image, UnidentifiedImageError

    if not (is_pil(image) or is_encoded(image)):
        return _convert(_from_array(image), channels, name="")
    name = _name(image)
    try:
        if is_pil(image):
            # Pillow decodes an opened image only now.
            image.load()
            return _upright(image, channels, name, value_range)
        if isinstance(image, bytes | bytearray):
            image = io.BytesIO(image)
        elif isinstance(image, str | os.PathLike):
            image = as_path(image)
        with contextlib.ExitStack() as stack:
            if isinstance(image, Path):
                image = stack.enter_context(open_regular(image))
            opened = stack.enter_context(Image.open(image))
            opened.load()
            return _upright(opened, channels, name, value_range)
    except (DataError, MemoryError):
        raise
    except FileNotFoundError:
        raise DataError(f"{name}: no such file") from None
    except IsADirectoryError:
        raise DataError(f"{name}: a directory, not an image file") from None
    except UnidentifiedImageError:
        raise DataError(f"{name}: not a readable image (no format that Pillow knows)") from None
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{name}: too many pixels to decode safely ({error}); if you trust the file, raise "
            "PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except Exception as error:
        # Pillow's decoders meet damaged files with errors of many classes, SyntaxError among them.
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{name}: not a readable image ({reason})") from error


def fit(
    image: Any,
    size: tuple[int, int],
    *,
    interpolation: str,
    crop: float | None,
    crop_mode: str,
    fill: tuple[int, ...],
) -> Any:
    """Resizes and crops an image, as ``flaxzoo.Preprocess`` describes.

    The sizes and their rounding are those of timm 1.0's ``transforms_imagenet_eval`` and
    torchvision's ``Resize`` and ``CenterCrop``.

    Args:
      image: a PIL image.
      size: ``(height, width)`` of the result.
      interpolation: one of ``INTERPOLATIONS``.
      crop: the part of the resized picture that is kept; None to resize to ``size`` directly.
      crop_mode: one of ``CROP_MODES``.
      fill: colour of the borders that ``"border"`` adds, per channel.
    """
    if crop is None:
        return _resize(image, size, interpolation)
    height, width = image.height, image.width
    goal = (math.floor(size[0] / crop), math.floor(size[1] / crop))
    if crop_mode == "squash":
        resized = goal
    elif crop_mode == "center" and goal[0] == goal[1]:
        shorter, longer = goal[0], int(goal[0] * max(height, width) / min(height, width))
        resized = (longer, shorter) if width <= height else (shorter, longer)
    else:
        ratios = (height / goal[0], width / goal[1])
        ratio = max(ratios) if crop_mode == "border" else min(ratios)
        resized = (max(round(height / ratio), 1), max(round(width / ratio), 1))
    if resized[0] * resized[1] > _MAX_RESIZED:
        image, resized = _narrow(image, size, resized, interpolation)
    else:
        image = _resize(image, resized, interpolation)
    return _center(image, size, fill if crop_mode == "border" else (0,) * len(fill))


def _name(image: Any) -> str:
    if isinstance(image, str | os.PathLike):
        return os.fspath(image)
    if isinstance(image, bytes | bytearray):
        return f"{len(image)} bytes"
    name = getattr(image, "filename", "") or getattr(image, "name", "")
    return str(name) if name else f"a {type(image).__name__}"


def _from_array(image: Any) -> Any:
    from PIL import Image

    if not hasattr(image, "__array__") and not isinstance(image, list | tuple):
        raise TypeError(
            "an image must be a path, the bytes of a file, a file object, a PIL image or an "
            f"array, got {type(image).__name__}"
        )
    array = as_host(image, "an image array")
    if array.dtype != np.uint8 or not (
        array.ndim == 2 or (array.ndim == 3 and array.shape[-1] in (1, 2, 3, 4))
    ):
        raise ShapeError(
            "an image array must be uint8 of shape [H, W] or [H, W, C] with 1 to 4 channels, "
            f"got {array.dtype}{list(array.shape)}"
        )
    if array.size == 0:
        raise DataError(f"an image array of shape {list(array.shape)} has no pixels")
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    return Image.fromarray(np.ascontiguousarray(array))


def _upright(image: Any, channels: int, name: str, value_range: tuple[float, float] | None) -> Any:
    from PIL import ExifTags, ImageOps

    if 0 in image.size:
        raise DataError(f"{name}: the image has no pixels ({image.width} x {image.height})")
    integers, inverted = _written(image)
    # A damaged note of which way is up may lie beside a sound picture.
    with contextlib.suppress(Exception):
        # Pillow would copy a picture that is upright already.
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
    return _convert(image, channels, name, value_range, integers, inverted)


def _convert(
    image: Any,
    channels: int,
    name: str,
    value_range: tuple[float, float] | None = None,
    integers: str = "",
    inverted: bool = False,
) -> Any:
    mode = "L" if channels == 1 else "RGB"
    if image.mode.startswith("I") or image.mode == "F" or integers == "int8":
        image = _eight_bits(image, name, value_range, integers, inverted)
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "LAB":
        image = image.convert("RGB")
    elif image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
        # The same colours as straight to RGB, of which Pillow warns.
        image = image.convert("RGBA")
    return image.convert(mode)


def _written(image: Any) -> tuple[str, bool]:
    """What a grey TIFF file says that Pillow's mode does not tell, and Pillow does not do.

    Returns:
      The type of its integers, or an empty text; and whether 0 is white, for more than eight bits.
    """
    tags: Any = getattr(image, "tag_v2", None)
    if tags is None:
        return "", False
    # BitsPerSample, and SampleFormat, which is 2 where there is a sign.
    bits, sample = tuple(tags.get(258, ())), tuple(tags.get(339, (1,)))
    integers = _TIFF_INTEGERS.get((image.mode, *bits, *sample), "")
    # PhotometricInterpretation.
    return integers, tags.get(262) == 0 and image.mode in ("I;16", "F")


def _eight_bits(
    image: Any,
    name: str,
    value_range: tuple[float, float] | None,
    integers: str,
    inverted: bool,
) -> Any:
    """One rule for integers of more than eight bits and floats: black is 0, and white is 255."""
    from PIL import Image

    values = np.asarray(image)
    if integers in ("int8", "uint32"):
        # Pillow reads them as if they had no sign, or one.
        values = np.ascontiguousarray(values).view(integers)
    if image.mode == "F" and not np.isfinite(values).all():
        raise DataError(f"{name}: the image holds NaN or infinite values")
    if value_range is None:
        value_range = _RANGES.get(integers) or _range_of(image.mode, values, name)
        value_range = value_range[::-1] if inverted else value_range
    if value_range == _EIGHT_BITS:
        return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    black, white = value_range
    # Pillow's own conversion clips sixteen bits, or drops the lower eight.
    scaled = (values.astype(np.float32) - np.float32(black)) * np.float32(255 / (white - black))
    return Image.fromarray((np.clip(scaled, 0, 255) + np.float32(0.5)).astype(np.uint8))


def _range_of(mode: str, values: np.ndarray, name: str) -> tuple[float, float]:
    """The range of an integer type, or the one of two that floats are written in."""
    least, most = values.min(), values.max()
    ranges = ((0, 1), _EIGHT_BITS) if mode == "F" else ((0, 65535),)
    for low, high in ranges:
        if least >= low and most <= high:
            return low, high
    kind = "floats" if mode == "F" else "integers"
    takes = " or ".join(f"{low} to {high}" for low, high in ranges)
    raise DataError(
        f"{name}: the image holds {kind} from {least:g} to {most:g}, and without more {takes} is "
        "what they are taken for: say which values are black and white in all pictures, with "
        "flaxzoo.Preprocess(..., value_range=(black, white))"
    )


def _resize(image: Any, size: tuple[int, int], interpolation: str, box: Any = None) -> Any:
    from PIL.Image import Resampling

    if box is None and image.size == size[::-1]:
        return image
    return image.resize(size[::-1], Resampling[interpolation.upper()], box)


def _narrow(
    image: Any, size: tuple[int, int], resized: tuple[int, int], interpolation: str
) -> tuple[Any, tuple[int, int]]:
    """Resizes only the middle of a picture that is so narrow that the whole would not fit."""
    kept = (min(size[0], resized[0]), min(size[1], resized[1]))
    scale = (image.height / resized[0], image.width / resized[1])
    top, left = (round((a - b) / 2) for a, b in zip(resized, kept, strict=True))
    box = (
        left * scale[1],
        top * scale[0],
        min((left + kept[1]) * scale[1], image.width),
        min((top + kept[0]) * scale[0], image.height),
    )
    return _resize(image, kept, interpolation, box), kept


def _center(image: Any, size: tuple[int, int], fill: tuple[int, ...]) -> Any:
    """The middle of a picture, with borders where it is smaller than ``size``."""
    from PIL import Image

    height, width = max(image.height, size[0]), max(image.width, size[1])
    if (height, width) != (image.height, image.width):
        border = Image.new(image.mode, (width, height), fill if len(fill) > 1 else fill[0])
        border.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        image = border
    if (height, width) == size:
        return image
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return image.crop((left, top, left + size[1], top + size[0]))
