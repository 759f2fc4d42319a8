"""The files that TensorBoard's Projector tab reads: vectors, their labels and a sheet of pictures.

Source: ``tensorboard/plugins/projector/projector_plugin.py`` and ``projector_config.proto``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flaxzoo._figures import displayable
from flaxzoo._files import write_text
from flaxzoo._finite import check_finite
from flaxzoo.errors import ArgumentError, CallbackError, DataError, ShapeError

CONFIG = "projector_config.pbtxt"

# The largest side of a sheet of thumbnails that the tab loads, and of a thumbnail of ours.
_SHEET, _THUMBNAIL = 8192, 64

_ENTRY = re.compile(r'embeddings \{\n  tensor_name: "[^"]*:(\d+)".*?\n\}\n', re.DOTALL)


class EmbeddingFiles:
    """One embedding, looked at and laid out; see ``EventWriter.embedding`` for what it takes.

    Raises:
      ArgumentError: the name cannot be a folder's.
      ShapeError: ``vectors`` are no matrix, or labels and images not as many.
      DataError: a vector is not finite, there are none, or too many for thumbnails.
    """

    def __init__(
        self,
        name: str,
        step: int,
        vectors: Any,
        labels: Sequence[Any] | Mapping[str, Sequence[Any]] | None,
        images: Any,
    ) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w .()=+-]*", name):
            raise ArgumentError(
                "the name of an embedding must be letters, digits, spaces and any of _.()=+-, "
                f"and begin with one of the first, got {name!r}"
            )
        self._title = f"{name}:{step}"
        self._place = Path("projector", name, f"{step:06d}")
        self._matrix = _matrix(vectors)
        self._rows = _rows(labels, len(self._matrix))
        self._sheet = None if images is None else _sheet(images, len(self._matrix))

    def write(self, directory: Path) -> str:
        """Writes them below a run's folder; returns the entry for the menu."""
        place = self._place.as_posix()
        entry = [f'tensor_name: "{self._title}"', f'tensor_path: "{place}/tensors.tsv"']
        folder = directory / self._place
        folder.mkdir(parents=True, exist_ok=True)
        np.savetxt(folder / "tensors.tsv", self._matrix, fmt="%.7g", delimiter="\t")
        if self._rows:
            (folder / "metadata.tsv").write_text("".join(self._rows), "utf-8")
            entry.append(f'metadata_path: "{place}/metadata.tsv"')
        if self._sheet is not None:
            picture, side = self._sheet
            picture.save(folder / "sprite.png")
            size = f"single_image_dim: {side} "
            entry.append(f'sprite {{ image_path: "{place}/sprite.png" {size}{size}}}')
        return "embeddings {\n" + "".join(f"  {line}\n" for line in entry) + "}\n"


class Projector:
    """The menu of a run's embeddings.

    Args:
      directory: the run's folder.
      purge: number of updates from which on older entries are left out; None for none.
    """

    def __init__(self, directory: Path, purge: int | None) -> None:
        self._directory = directory
        config = directory / CONFIG
        old = _ENTRY.finditer(config.read_text("utf-8")) if config.is_file() else ()
        # Ordered, each once.
        self._entries = {entry[0]: None for entry in old if purge is None or int(entry[1]) < purge}

    def add(self, files: EmbeddingFiles) -> None:
        """Writes an embedding and enters it.

        Raises:
          CallbackError: the files cannot be written.
          DataError: the menu cannot be written.
        """
        try:
            self._entries[files.write(self._directory)] = None
        except OSError as error:
            raise CallbackError(
                f"TensorBoard cannot write {self._directory}: {error.strerror}"
            ) from error
        write_text(self._directory / CONFIG, "".join(self._entries))


def _matrix(vectors: Any) -> np.ndarray:
    matrix = np.asarray(vectors)
    if matrix.ndim != 2:
        raise ShapeError(f"vectors must be [N, D], got {list(matrix.shape)}")
    if not matrix.size:
        raise DataError(f"vectors is empty, shape {list(matrix.shape)}")
    check_finite(matrix, "vectors")
    return matrix.astype(np.float32)


def _rows(labels: Any, count: int) -> list[str]:
    """The lines of the table of labels, its header first; none without labels."""
    columns = labels if isinstance(labels, Mapping) else {"label": labels}
    if labels is None or not columns:
        return []
    # A table of one column has no header, and lines that are empty do not count: the number of the
    # example makes two.
    columns = {**{str(key): values for key, values in columns.items()}, "example": range(count)}
    for name, values in columns.items():
        if len(values) != count:
            raise ShapeError(f"{count} vectors have {len(values)} values of {name!r}")
    table = [list(columns), *zip(*columns.values(), strict=True)]
    return ["\t".join(map(_cell, row)) + "\n" for row in table]


def _cell(value: Any) -> str:
    # What would end a cell or a line, for str.splitlines and for the browser.
    return re.sub(r"[\t\r\n\v\f\x1c-\x1e\x85\u2028\u2029]", " ", str(value))


def _sheet(images: Any, count: int) -> tuple[Image.Image, int]:
    """All thumbnails row by row on a square, and the side of one."""
    pictures = displayable(images, "images")
    if len(pictures) != count:
        raise ShapeError(f"{count} vectors have {len(pictures)} images")
    columns = math.ceil(math.sqrt(count))
    side = min(_THUMBNAIL, max(pictures.shape[1:3]), _SHEET // columns)
    if not side:
        raise DataError(f"{count:,} thumbnails do not fit {_SHEET} pixels: pass images=None")
    sheet = Image.new("RGB", (columns * side, columns * side), "white")
    for i, picture in enumerate(pictures):
        thumbnail = Image.fromarray(np.round(picture * 255).astype(np.uint8)).convert("RGB")
        thumbnail.thumbnail((side, side), Image.Resampling.BOX)
        row, column = divmod(i, columns)
        # The tab's thumbnails are squares: the others stand in the middle of one.
        left, top = (side - thumbnail.width) // 2, (side - thumbnail.height) // 2
        sheet.paste(thumbnail, (column * side + left, row * side + top))
    return sheet, side
