"""VGG: stages of 3 x 3 convolutions, halved by pooling, and two wide layers before the classifier.

Names and numbers are those of timm's ``vgg`` module, whose wide layers are convolutions.
https://arxiv.org/abs/1409.1556
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax

from flaxzoo._checks import check_lists, check_size
from flaxzoo.activations import as_activation
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.initializers import Normal
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import call_norm, make_norm
from flaxzoo.layers.pool import adaptive_avg_pool, max_pool
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants

# timm has no keyword for the numbers of layers: certificates are of the whole networks.
CUT: dict[str, str] = {}


def _from_torchvision(tensors: Mapping[str, Any], backbone: Any) -> Mapping[str, Any]:
    """Names torchvision's tensors as timm does, whose wide layers are no linear layers."""
    names = {"0": "pre_logits.fc1", "3": "pre_logits.fc2", "6": "head.fc"}
    renamed = {}
    for key, tensor in tensors.items():
        layer, _, leaf = key.rpartition(".")
        if key in ("classifier.0.weight", "classifier.3.weight"):
            size = backbone.kernel_size if layer == "classifier.0" else 1
            tensor = tensor.reshape(len(tensor), -1, size, size)
        renamed[f"{names.get(layer.removeprefix('classifier.'), layer)}.{leaf}"] = tensor
    return renamed


class ConvMlp(Layer):
    """The two wide layers, as convolutions: VGG's first one sees 7 x 7 pixels, its second one 1.

    Attributes:
      features: the width of both.
      kernel_size: of the first one; a smaller map is averaged up to it.
      activation: the function behind each, by name or callable.
      dropout: the rate at which the units between them are dropped.
    """

    features: int
    kernel_size: int = 7
    activation: Any = "relu"
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[B, H, W, C]`` to ``[B, H - 6, W - 6, features]``, of at least one pixel."""
        act = as_activation(self.activation)
        options = {"use_bias": True, **self.dtypes}
        height, width = (max(size, self.kernel_size) for size in x.shape[1:3])
        x = adaptive_avg_pool(x, (height, width))
        x = Conv(self.features, self.kernel_size, padding="VALID", name="fc1", **options)(x)
        x = nn.Dropout(self.dropout, name="drop")(act(x), deterministic=not train)
        return act(Conv(self.features, 1, name="fc2", **options)(x))


class VGG(Backbone):
    """A VGG without its classifier: stages of convolutions, then ``ConvMlp``.

    Attributes:
      layers: the numbers of convolutions of the stages; pooling ends each.
      widths: the channels of the stages.
      hidden: the width of the two layers before the classifier.
      kernel_size: of the first of the two.
      norm: the normalisation behind each convolution, ``"batch"``, a Linen module (see
        ``flaxzoo.layers.norm.as_norm``), or None.
      activation: by name or callable.
      dropout: the rate at which units are dropped before the second wide layer.
    """

    layers: Sequence[int]
    widths: Sequence[int] = (64, 128, 256, 512, 512)
    hidden: int = 4096
    kernel_size: int = 7
    norm: Any = None
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    dropout: float = 0.0

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The layers by their places in timm's list, where activations and pooling count."""
        place, reduction = 0, 1
        for n, (count, width) in enumerate(zip(self.layers, self.widths, strict=True), 1):
            for i in range(count):
                name = f"features_{place}"
                conv = functools.partial(Conv, width, 3, use_bias=True, **self.dtypes)
                yield Part(name, conv, group=f"stage{n}", takes="images" if place == 0 else "maps")
                if self.norm is not None:
                    place += 1
                    name = f"features_{place}"
                owns = () if self.norm is None else (name,)
                complete = f"stage{n}" if i == count - 1 else None
                activate = functools.partial(self._activate, name)
                yield Part(name, activate, owns, complete, reduction, group=f"stage{n}")
                place += 2
            place, reduction = place + 1, reduction * 2
            last = f"pool{n}" if n == len(self.layers) else None
            yield Part(name, self._pool, map=last, reduction=reduction)
        fields = (self.hidden, self.kernel_size, self.activation, self.dropout)
        yield Part("pre_logits", functools.partial(ConvMlp, *fields, **self.dtypes), depth="head")

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The usual ones, and how the paper draws the classifier's kernel."""
        return {**super().head_options(), "kernel_init": Normal(0.01)}

    def _activate(self, norm: str, x: jax.Array, train: bool) -> jax.Array:
        if self.norm is not None:
            x = call_norm(make_norm(self.norm, norm, **self.dtypes), x, train=train)
        return as_activation(self.activation)(x)

    def _pool(self, x: jax.Array, train: bool) -> jax.Array:
        del train
        return max_pool(x, 2, 2, 0)

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_lists(self, "layers", "widths")
        check_size("hidden", self.hidden)
        check_size("kernel_size", self.kernel_size)


variants(
    VGG,
    {
        "vgg11": row("VGG-11 (A)", layers=(1, 1, 2, 2, 2)),
        "vgg13": row("VGG-13 (B)", layers=(2, 2, 2, 2, 2)),
        "vgg16": row("VGG-16 (D)", layers=(2, 2, 3, 3, 3)),
        "vgg19": row("VGG-19 (E)", layers=(2, 2, 4, 4, 4)),
        "vgg11_bn": row("VGG-11 (A) with BatchNorm", layers=(1, 1, 2, 2, 2), norm="batch"),
        "vgg13_bn": row("VGG-13 (B) with BatchNorm", layers=(2, 2, 2, 2, 2), norm="batch"),
        "vgg16_bn": row("VGG-16 (D) with BatchNorm", layers=(2, 2, 3, 3, 3), norm="batch"),
        "vgg19_bn": row("VGG-19 (E) with BatchNorm", layers=(2, 2, 4, 4, 4), norm="batch"),
    },
    paper="https://arxiv.org/abs/1409.1556",
    reference=Reference(("features_0",), "head.fc", convert=_from_torchvision),
)
