"""What vision transformers of plain blocks have in common, whatever their positions are."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_rate, check_size
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.initializers import Normal
from flaxzoo.layers.norm import make_norm
from flaxzoo.layers.patch_embed import check_image_size
from flaxzoo.layers.pos_embed import Grid, resample_positions
from flaxzoo.layers.relative_position import resample_table, table_length
from flaxzoo.layers.tokens import learnt_tokens
from flaxzoo.models.backbone import Backbone

# The sizes that names speak of.
TINY: dict[str, Any] = {"width": 192, "depth": 12, "heads": 3}
SMALL: dict[str, Any] = {"width": 384, "depth": 12, "heads": 6}
MEDIUM: dict[str, Any] = {"width": 512, "depth": 12, "heads": 8}
BASE: dict[str, Any] = {"width": 768, "depth": 12, "heads": 12}
LARGE: dict[str, Any] = {"width": 1024, "depth": 24, "heads": 16}
HUGE: dict[str, Any] = {"width": 1280, "depth": 32, "heads": 16}


class GridBackbone(Backbone):
    """A backbone of patches on the grid of one size of images, and of blocks of one width.

    It has no fields: a family declares those named below, with defaults of its own.
    """

    if TYPE_CHECKING:
        input_shape: tuple[int, int, int]
        patch_size: int
        width: int
        depth: int
        drop_path: float
        norm: Any
        norm_epsilon: float

    # No field: most families take images of one size.
    dynamic_size = False

    @property
    def grid(self) -> Grid:
        """The rows and columns of patches of images of ``input_shape``."""
        return self.grid_of(self.input_shape)

    @nn.nowrap
    def grid_of(self, shape: tuple[int, ...]) -> Grid:
        """The rows and columns of patches of images ``[H, W, ...]``."""
        return shape[0] // self.patch_size, shape[1] // self.patch_size

    @nn.nowrap
    def whole_patches(self, x: jax.Array) -> jax.Array:
        """Images ``[B, H, W, C]`` without what is no whole patch, below and at the right.

        Those of a dynamic size stay as they are.

        Raises:
          ShapeError: they are of another size than ``input_shape``.
        """
        if self.dynamic_size:
            return x
        instead = ", or dynamic_size=True" if "dynamic_size" in self.__dataclass_fields__ else ""
        check_image_size(x, self.input_shape, instead)
        rows, columns = self.grid
        return x[:, : rows * self.patch_size, : columns * self.patch_size]

    def normalise(self, x: jax.Array, _train: bool, name: str = "norm") -> jax.Array:
        """Normalises the last axis, by the norm of this name."""
        return make_norm(self.norm, name, epsilon=self.norm_epsilon, **self.dtypes)(x)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        for name in ("patch_size", "width", "depth"):
            check_size(name, getattr(self, name))
        if len(self.input_shape) != 3 or not math.prod(self.grid):
            raise ArgumentError(
                "input_shape must be (height, width, channels), of at least one patch of "
                f"{self.patch_size} x {self.patch_size}, got {self.input_shape}"
            )


class PatchBackbone(GridBackbone):
    """A backbone of a grid of patches, a few tokens before them, and attention.

    It has no fields: a family declares those named below and above, with defaults of its own.
    """

    if TYPE_CHECKING:
        heads: int
        pooling: str | None
        fc_norm: bool | None
        position_dropout: float

    @property
    def reduction(self) -> int:
        """By how much maps are smaller than images."""
        return self.patch_size

    @property
    def prefix(self) -> int:
        """The number of tokens before those of the patches: the class token."""
        return 1

    @property
    def norm_pooled(self) -> bool:
        """Whether the last norm stands behind the pooling."""
        return self.pooling in ("avg", "max", "avg+max") if self.fc_norm is None else self.fc_norm

    @nn.nowrap
    def pooling_options(self) -> dict[str, Any]:
        """The fields of a ``Head`` that pools these tokens."""
        own = ("heads", "mlp_ratio", "activation", "norm", "norm_epsilon")
        attention = tuple((name, getattr(self, name)) for name in own)
        return {"pooling": self.pooling, "prefix_tokens": self.prefix, "attention": attention}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_rate("position_dropout", self.position_dropout)
        super().check_fields()
        next(part for part in self.parts() if part.map).run(parent=None).check_fields()
        if self.width % self.heads:
            raise ArgumentError(f"width must be a multiple of heads={self.heads}, got {self.width}")


class LateTokenBackbone(Backbone):
    """A backbone whose class token comes in behind the patches' blocks, and is pooled."""

    @property
    def prefix(self) -> int:
        """The number of tokens before those of the patches: the class token."""
        return 1

    def with_class_token(self, x: jax.Array, _train: bool = False) -> jax.Array:
        """Tokens ``[B, N, C]``, or a map's pixels, behind the class token, ``[B, 1 + N, C]``."""
        x = x.reshape(x.shape[0], -1, x.shape[-1])
        options: dict[str, Any] = {"init": Normal(0.02), "param_dtype": self.param_dtype}
        return jnp.concatenate([learnt_tokens(self, "cls_token", 1, x, **options), x], axis=1)

    @nn.nowrap
    def pooling_options(self) -> dict[str, Any]:
        """The fields of a ``Head`` that takes the class token."""
        return {"pooling": "token", "prefix_tokens": self.prefix}

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` of timm's classifiers."""
        return {**self.pooling_options(), "kernel_init": Normal(0.02)}


def resize_positions(
    positions: Any, shape: Any, backbone: Any, old: Any, new: Any, method: str = "bicubic"
) -> Any:
    """A file's positions for images of another size; see ``flaxzoo.models.reference.Resize``."""
    prefix = backbone.prefix if backbone.position_prefix else 0
    old_grid = None if old is None else backbone.grid_of(old)
    if old_grid is not None and math.prod(old_grid) != positions.shape[1] - prefix:
        old_grid = None
    grid = backbone.grid_of(new)
    return resample_positions(positions, grid, prefix=prefix, old_grid=old_grid, method=method)


def resize_table(table: Any, shape: Any, backbone: Any, old: Any, new: Any) -> Any:
    """A file's relative positions for images of another size; see ``resize_positions``."""
    class_token = backbone.prefix == 1
    old_grid = None if old is None else backbone.grid_of(old)
    if old_grid is not None and table_length(old_grid, class_token) != table.shape[0]:
        old_grid = None
    grid = backbone.grid_of(new)
    return resample_table(table, grid, old_grid=old_grid, class_token=class_token)
