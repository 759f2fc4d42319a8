"""NASNet: a network of cells that reinforcement learning found on CIFAR-10.

A cell sees the maps of the two before it, and joins sums of separable convolutions and pools. Names
and numbers are those of timm's ``nasnet`` module.

References:
  NASNet: https://arxiv.org/abs/1707.07012
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax

from flaxzoo._checks import check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError
from flaxzoo.layers.conv_norm import ConvNorm
from flaxzoo.layers.initializers import PLAIN
from flaxzoo.layers.searched_cell import CURRENT, PREVIOUS, Recipe, SearchedCell
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# timm makes no shallow networks of these names: all are compared whole.
CUT: dict[str, str] = {}
# NASNet-A, figure 4.
NORMAL = Recipe(
    (
        (("sep5", CURRENT), ("sep3", PREVIOUS)),
        (("sep5", PREVIOUS), ("sep3", PREVIOUS)),
        (("avg", CURRENT), ("skip", PREVIOUS)),
        (("avg", PREVIOUS), ("avg", PREVIOUS)),
        (("sep3", CURRENT), ("skip", CURRENT)),
    ),
    (PREVIOUS, "0", "1", "2", "3", "4"),
)
REDUCTION = Recipe(
    (
        (("sep5", CURRENT), ("sep7", PREVIOUS)),
        (("max", CURRENT), ("sep7", PREVIOUS)),
        (("avg", CURRENT), ("sep5", PREVIOUS)),
        (("skip", "1"), ("avg", "0")),
        (("sep3", "0"), ("max", CURRENT)),
    ),
    ("1", "2", "3", "4"),
)


class CellBackbone(Backbone):
    """A stem, two cells that reduce its map, and stages of cells; a family adds the recipes.

    Attributes:
      layers: the number of cells of each stage, but those that reduce the map before it.
      width: channels of each branch of the first stage's cells, a multiple of 4; each other stage
        doubles them.
      stem_width: channels of the stem.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
      norm_epsilon: their epsilon; None for their own.
      remat: whether cells are computed again in the backward pass instead of stored, or the
        policy of what is kept all the same (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (6, 6, 6)
    width: int = 168
    stem_width: int = 96
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    norm_epsilon: float | None = 1e-3
    remat: bool | str = False

    # No field: the stem's name.
    stem_name = "conv0"

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, the cells in order, and the last activation."""
        stem = self.stem_name
        own: dict[str, Any] = {"norm": self.norm, "norm_epsilon": self.norm_epsilon, **self.dtypes}
        first = functools.partial(ConvNorm, self.stem_width, 3, 2, padding="VALID", **own)
        yield Part(stem, first, takes="images", map=stem, reduction=2)
        own["activation"] = self.activation
        cells = list(self.cells())
        for i, (name, depth, fields) in enumerate(cells):
            # A map is complete where the next cell reduces it, and is the next one's to activate.
            is_complete = i + 1 < len(cells) and cells[i + 1][2].get("stride", 1) > 1
            reduction = 2 << sum(cell[2].get("stride", 1) > 1 for cell in cells[: i + 1])
            yield Part(
                name,
                functools.partial(SearchedCell, **fields, **own),
                map=name if is_complete else None,
                reduction=reduction,
                view=self._current,
                takes="maps" if i == 0 else None,
                depth=depth,
                remat=self.remat,
            )
        yield Part(name, self._last, (), map=name, reduction=reduction, takes=None)

    @nn.nowrap
    def cells(self) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
        """The name of each cell, the stage that its depth is, and its fields."""
        raise NotImplementedError(f"{type(self).__name__} must define cells()")

    @nn.nowrap
    def _current(self, maps: Any) -> jax.Array:
        return as_activation(self.activation)(maps[1])

    def _last(self, maps: Any, _train: bool) -> jax.Array:
        return self._current(maps)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Averages the last map; the classifier begins as PyTorch's."""
        return {**super().head_options(), **PLAIN}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_widths("layers", self.layers)
        for name in ("width", "stem_width"):
            check_size(name, getattr(self, name))
        if self.width % 4:
            raise ArgumentError(
                "width must be a multiple of 4, as the first cells have a quarter and half of it, "
                f"got {self.width}"
            )


class NASNet(CellBackbone):
    """A NASNet-A without its classifier: a stem and cells, which reduce maps or keep their size.

    It maps images ``[B, H, W, C]`` to the last map, 32 times smaller. Maps are what the stem gives,
    and what is activated before each reduction and at the end.
    """

    @nn.nowrap
    def cells(self) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
        """The cells of the stem, then those of each stage, behind one that reduces the map."""
        quarter, half = self.width // 4, self.width // 2
        stem = {"recipe": REDUCTION, "stride": 2}
        yield "cell_stem_0", "conv0", {"width": quarter, "previous": None, **stem}
        yield "cell_stem_1", "conv0", {"width": half, "previous": "halve", **stem}
        number = 0
        for stage, count in enumerate(self.layers):
            width = self.width << stage
            if stage > 0:
                own = {"recipe": REDUCTION, "stride": 2, "keeps_previous": True}
                yield f"reduction_cell_{stage - 1}", f"cell_{number}", {"width": width, **own}
            for i in range(count):
                previous = "conv" if i else "halve"
                own = {"recipe": NORMAL, "previous": previous}
                yield f"cell_{number}", None, {"width": width, **own}
                number += 1


# Names that end in a number, and are no place in a list.
KEPT = r"(cell_stem_\d|cell_\d+|comb_iter_\d_(?:left|right)|bn_sep_\d)"
RENAMED = (
    (KEPT, r"\1"),
    (r"(path_\d)_conv", r"\1.conv"),
    (r"(separable_\d)_(\w+)", r"\1.\2"),
)

variants(
    NASNet,
    {"nasnetalarge": row("NASNet-A large (6 @ 4032)")},
    paper="https://arxiv.org/abs/1707.07012",
    input_shape=(331, 331, 3),
    reference=Reference(
        stem=("conv0/conv",),
        classifier="last_linear",
        renamed=(*RENAMED, (r"(reduction_cell_\d)", r"\1"), ("halved", "")),
    ),
)
