"""PNASNet: a network of one kind of cell, found by a search that goes from simple ones to complex.

The same cell reduces maps and keeps their size. Names and numbers are those of timm's ``pnasnet``
module.

References:
  PNASNet: https://arxiv.org/abs/1712.00559
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import flax.linen as nn

from flaxzoo.layers.searched_cell import CURRENT, PREVIOUS, Recipe
from flaxzoo.models.nasnet import RENAMED, CellBackbone
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# timm makes no shallow networks of these names: all are compared whole.
CUT: dict[str, str] = {}
# PNASNet-5, figure 1.
CELL = Recipe(
    (
        (("sep5", PREVIOUS), ("max", PREVIOUS)),
        (("sep7", CURRENT), ("max", CURRENT)),
        (("sep5", CURRENT), ("sep3", CURRENT)),
        (("sep3", "2"), ("max", CURRENT)),
        (("sep3", PREVIOUS), ("skip", CURRENT)),
    ),
    ("0", "1", "2", "3", "4"),
)


class PNASNet(CellBackbone):
    """A PNASNet-5 without its classifier: a stem and cells, which reduce maps or keep their size.

    It maps images ``[B, H, W, C]`` to the last map, 32 times smaller. Maps are what the stem gives,
    and what is activated before each reduction and at the end. See
    ``flaxzoo.models.nasnet.CellBackbone`` for the fields.
    """

    layers: Sequence[int] = (4, 3, 3)
    width: int = 216

    stem_name = "conv_0"

    @nn.nowrap
    def cells(self) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
        """The cells of the stem, then those of each stage, behind one that reduces the map."""
        quarter, half = self.width // 4, self.width // 2
        reduces = {"recipe": CELL, "stride": 2}
        yield "cell_stem_0", "conv_0", {"width": quarter, "previous": None, **reduces}
        yield "cell_stem_1", "conv_0", {"width": half, "previous": "halve", **reduces}
        number = 0
        for stage, count in enumerate(self.layers):
            width = self.width << stage
            for i in range(count + (stage > 0)):
                is_reduction = stage > 0 and i == 0
                # Behind one that reduces the map the one before is larger.
                is_behind = i == (stage > 0)
                own = reduces if is_reduction else {"recipe": CELL}
                previous = "halve" if is_behind else "conv"
                yield f"cell_{number}", None, {"width": width, "previous": previous, **own}
                number += 1


variants(
    PNASNet,
    {"pnasnet5large": row("PNASNet-5 large")},
    paper="https://arxiv.org/abs/1712.00559",
    input_shape=(331, 331, 3),
    reference=Reference(
        stem=("conv_0/conv",),
        classifier="last_linear",
        renamed=(*RENAMED, ("conv_0", "conv_0"), ("halved", "conv_prev_1x1")),
    ),
)
