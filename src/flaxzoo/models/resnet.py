"""ResNet and its kin: ResNeXt, Wide ResNet, SE, ECA, SENet, ResNet-RS, -GN, -AA and -blur.

One backbone; the variants differ by what is put into it: the stem, the block, the norm, the
gate and how it is anti-aliased. Names and numbers are those of timm's ``resnet`` module.

References:
  ResNet: https://arxiv.org/abs/1512.03385
  C and D variants: https://arxiv.org/abs/1812.01187
  ResNeXt: https://arxiv.org/abs/1611.05431
  Wide ResNet: https://arxiv.org/abs/1605.07146
  SE, SENet: https://arxiv.org/abs/1709.01507
  ECA: https://arxiv.org/abs/1910.03151
  Blur-pool: https://arxiv.org/abs/1904.11486
  ResNet-RS: https://arxiv.org/abs/2103.07579
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import as_choice, check_rate, check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ShapeError, did_you_mean
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.gates import SqueezeExcite
from flaxzoo.layers.initializers import LecunNormal
from flaxzoo.layers.norm import as_norm, call_norm
from flaxzoo.layers.pool import anti_alias, max_pool
from flaxzoo.layers.residual import BasicBlock, Bottleneck, ResidualBlock
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import Head, Identity
from flaxzoo.models.registry import Reference, register, takes_fields_of

# timm names the first convolution by its place in the stem.
REFERENCE = Reference(stem=("conv1", "conv1_0"))
_STEMS = ("conv7", "deep", "tiered")
_ANTI_ALIASING = ("avg", "blur")


_BLOCKS: dict[str, type[ResidualBlock]] = {"basic": BasicBlock, "bottleneck": Bottleneck}


class ResNet(nn.Module):
    """A residual network without its classifier: a stem and four stages of blocks.

    Attributes:
      layers: number of blocks of each stage.
      block: ``"basic"``, ``"bottleneck"``, or a subclass of ``ResidualBlock`` (or a partial of
        one); or one for each stage.
      widths: ``features`` of the stages' blocks.
      stem: ``"conv7"``, one 7 x 7 convolution; ``"deep"``, three 3 x 3 of widths ``stem_width``,
        ``stem_width``, ``2 * stem_width``; ``"tiered"``, the first of them at three quarters.
      stem_width: of the deep stems; the 7 x 7 convolution has 64 channels.
      stem_pool: ``"max"``, or ``"conv"`` for a strided convolution (ResNet-RS).
      groups: of the 3 x 3 convolutions (ResNeXt's cardinality).
      base_width: channels of a group, per 64 of a stage's width.
      reduce_first: by how much the blocks' first convolution is narrower (SENet-154: 2).
      down_kernel_size: of the shortcuts' convolutions (SENet-154: 3).
      avg_down: whether shortcuts average instead of dropping pixels (the D variants).
      output_stride: 32, 16 or 8: by how much the last map is smaller than the image. Later
        stages are dilated instead of strided, so that pretrained weights fit all three.
      activation: by name or callable.
      norm: ``"batch"``, ``"group"``, or a Linen module (see ``flaxzoo.layers.norm.as_norm``).
      gate: ``"se"``, ``"eca"``, a Linen module or None, at the end of each block.
      anti_aliasing: ``"avg"``, ``"blur"`` or None: low-pass before pixels are dropped.
      drop_path: rate of stochastic depth in the last block; it grows linearly from 0 in the
        first. https://arxiv.org/abs/1603.09382
      zero_init_residual: whether each branch's last norm starts with a scale of zero.
      remat: whether blocks are recomputed in the backward pass instead of stored.
      feature_maps: whether the output is all stages' maps (see ``__call__``).
      dtype: of the computation, such as ``jnp.bfloat16``; None keeps the promotion.
      param_dtype: of the parameters.
    """

    layers: Sequence[int]
    block: Any = "bottleneck"
    widths: Sequence[int] = (64, 128, 256, 512)
    stem: str = "conv7"
    stem_width: int = 64
    stem_pool: str = "max"
    groups: int = 1
    base_width: int = 64
    reduce_first: int = 1
    down_kernel_size: int = 1
    avg_down: bool = False
    output_stride: int = 32
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    gate: Any = None
    anti_aliasing: str | None = None
    drop_path: float = 0.0
    zero_init_residual: bool = True
    remat: bool = False
    feature_maps: bool = False
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.nowrap
    def stages(self) -> dict[str, tuple[str, ...]]:
        """The stem and the blocks, ``layer1_0`` and so on, and the submodules of each.

        Raises:
          ValueError: a field holds what it does not take.
        """
        self._check_fields()
        convs = ["conv1"]
        if self.stem != "conv7":
            convs = ["conv1_0", "conv1_1", "conv1_3", "conv1_4", "conv1_6"]
        pool = ["maxpool_0", self._pool_norm()] if self.stem_pool == "conv" else []
        blocks = (f"layer{n}_{i}" for n, count in enumerate(self.layers, 1) for i in range(count))
        return {"stem": (*convs, "bn1", *pool), **{name: (name,) for name in blocks}}

    def __call__(
        self, x: jax.Array, *, train: bool = False, feature_maps: bool | None = None
    ) -> Any:
        """Computes the last stage's map, or all of them.

        Args:
          x: images ``[B, H, W, C]``, floating.
          train: whether norms use the batch's statistics and paths are dropped.
          feature_maps: overrides the field of the name.

        Returns:
          ``[B, H / 32, W / 32, C']``; with ``feature_maps`` a dictionary of ``stem`` (half the
          image's size, before the pooling) and ``layer1`` ... ``layer4``.

        Raises:
          ShapeError: ``x`` is not of rank 4.
          ValueError: a field holds what it does not take.
        """
        return self.run_stages(x, train=train, feature_maps=feature_maps)

    @nn.compact
    def run_stages(
        self,
        x: jax.Array,
        start: int = 0,
        stop: int | None = None,
        *,
        train: bool = False,
        feature_maps: bool | None = None,
    ) -> Any:
        """Computes the stages ``start`` to ``stop`` of ``stages()``.

        Args:
          x: images, or the map ``[B, H, W, C]`` that the stage before returns.
          start: number of the first stage.
          stop: number of the first one that is left out; None for none.
          train: as for a call.
          feature_maps: whether to return the maps of those layers whose last block is in the range.

        Raises:
          ShapeError: ``x`` is not of rank 4.
          ValueError: a field holds what it does not take, or maps are asked for and none is
            complete within the range.
        """
        names = list(self.stages())
        if x.ndim != 4:
            what = "maps" if start else "images"
            raise ShapeError(f"{what} must have shape [B, H, W, C], got {list(x.shape)}")
        blocks = self._blocks(names[start:stop])
        # A plain dictionary comes out of jit sorted by its keys.
        maps: OrderedDict[str, jax.Array] = OrderedDict()
        for name in names[start:stop]:
            if name == "stem":
                maps[name] = self._stem(x, train)
                x = self._pool(maps[name], train)
                continue
            x = blocks[name](x, train)
            layer, _, number = name.partition("_")
            if int(number) == self.layers[int(layer.removeprefix("layer")) - 1] - 1:
                maps[layer] = x
        every = self.feature_maps if feature_maps is None else feature_maps
        if every and not maps:
            raise ValueError(f"no map is complete within {', '.join(names[start:stop])}")
        return maps if every else x

    @nn.nowrap
    def _dtypes(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        act = as_activation(self.activation)
        if self.stem == "conv7":
            x = Conv(64, 7, stride=2, name="conv1", **self._dtypes())(x)
        else:
            width = self.stem_width
            first = width // 4 * 3 if self.stem == "tiered" else width
            for i, features in enumerate((first, width)):
                conv = Conv(features, 3, stride=2 - i, name=f"conv1_{3 * i}", **self._dtypes())
                x = act(self._norm(conv(x), f"conv1_{3 * i + 1}", train))
            x = Conv(2 * width, 3, name="conv1_6", **self._dtypes())(x)
        return act(self._norm(x, "bn1", train))

    def _pool(self, x: jax.Array, train: bool) -> jax.Array:
        kind = as_choice("anti_aliasing", self.anti_aliasing, _ANTI_ALIASING)
        if self.stem_pool == "conv":
            stride = 1 if kind else 2
            x = Conv(x.shape[-1], 3, stride=stride, name="maxpool_0", **self._dtypes())(x)
            if kind:
                x = anti_alias(x, kind, 2)
            x = self._norm(x, self._pool_norm(), train)
            return as_activation(self.activation)(x)
        if kind == "avg":
            return anti_alias(x, "avg", 2)
        if kind == "blur":
            return anti_alias(max_pool(x, stride=1), "blur", 2)
        return max_pool(x)

    @nn.nowrap
    def _pool_norm(self) -> str:
        # The list of modules that the reference checkpoint names has the blur in between.
        kind = as_choice("anti_aliasing", self.anti_aliasing, _ANTI_ALIASING)
        return "maxpool_2" if kind else "maxpool_1"

    def _norm(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        return call_norm(as_norm(self.norm)(name=name, **self._dtypes()), x, train=train)

    @nn.nowrap
    def _blocks(self, names: Sequence[str]) -> dict[str, nn.Module]:
        """The blocks of these names."""
        kinds = (
            self.block if isinstance(self.block, list | tuple) else [self.block] * len(self.layers)
        )
        total, index = sum(self.layers), 0
        reached, dilation, previous = 4, 1, 1
        channels = 64 if self.stem == "conv7" else 2 * self.stem_width
        # Static: whether a block trains decides what is traced.
        remat = self.remat and not self.is_initializing()
        blocks: dict[str, nn.Module] = {}
        for stage, (kind, count, width) in enumerate(
            zip(kinds, self.layers, self.widths, strict=True), 1
        ):
            block = _BLOCKS[kind] if isinstance(kind, str) else kind
            outputs = width * getattr(block, "func", block).expansion
            stride = 1 if stage == 1 else 2
            if reached >= self.output_stride:
                dilation, stride = dilation * stride, 1
            reached *= stride
            build = nn.remat(block, static_argnums=(2,)) if remat else block
            for i in range(count):
                name = f"layer{stage}_{i}"
                if name in names:
                    blocks[name] = build(
                        features=width,
                        stride=stride if i == 0 else 1,
                        dilation=dilation,
                        first_dilation=previous,
                        # Dilated stages keep the shortcut that they have when strided.
                        project=i == 0 and (stage > 1 or channels != outputs),
                        groups=self.groups,
                        base_width=self.base_width,
                        reduce_first=self.reduce_first,
                        down_kernel_size=self.down_kernel_size,
                        avg_down=self.avg_down,
                        activation=self.activation,
                        norm=self.norm,
                        gate=self.gate,
                        anti_aliasing=as_choice(
                            "anti_aliasing", self.anti_aliasing, _ANTI_ALIASING
                        ),
                        drop_path=self.drop_path * index / max(total - 1, 1),
                        zero_init_residual=self.zero_init_residual,
                        name=name,
                        **self._dtypes(),
                    )
                channels, previous, index = outputs, dilation, index + 1
        return blocks

    @nn.nowrap
    def _check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        check_widths("layers", self.layers)
        check_widths("widths", self.widths)
        if len(self.layers) != len(self.widths):
            raise ValueError(
                f"layers and widths must be of one length, got {len(self.layers)} and "
                f"{len(self.widths)}"
            )
        if self.output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32, got {self.output_stride!r}")
        if len(_each(self.block)) not in (1, len(self.layers)):
            raise ValueError(
                f"block must be one, or one for each of {len(self.layers)} stages, "
                f"got {len(_each(self.block))}"
            )
        for block in _each(self.block):
            kind = getattr(block, "func", block)
            if not (isinstance(kind, type) and issubclass(kind, ResidualBlock)):
                _check_choice("block", block, tuple(_BLOCKS), " or a ResidualBlock class")
        _check_choice("stem", self.stem, _STEMS)
        _check_choice("stem_pool", self.stem_pool, ("max", "conv"))
        for name in ("stem_width", "groups", "base_width", "reduce_first", "down_kernel_size"):
            check_size(name, getattr(self, name))
        check_rate("drop_path", self.drop_path)


def _check_choice(name: str, value: Any, choices: tuple[str, ...], others: str = "") -> None:
    if not isinstance(value, str) or value not in choices:
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        listed = ", ".join(map(repr, choices))
        raise ValueError(f"{name} must be one of {listed}{others}, got {value!r}.{hint}")


def _each(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def classifier(
    backbone: Any, num_classes: int = 1000, pooling: str = "avg", dropout: float = 0.0
) -> Classifier:
    """A backbone with the usual head: pooling, Dropout and one linear layer ``fc``.

    A backbone that returns all its feature maps gets no head.
    """
    if backbone.feature_maps:
        return Classifier(backbone=backbone, head=Identity())
    options = {"dtype": backbone.dtype, "param_dtype": backbone.param_dtype}
    options |= {"pooling": pooling, "dropout": dropout, "kernel_init": LecunNormal()}
    head = Head(num_classes, **options)
    return Classifier(backbone=backbone, head=head)


def add_variant(name: str, title: str, paper: str, **fields: Any) -> None:
    """Registers a ResNet under timm's name.

    Args:
      name: in timm and here.
      title: one line for ``flaxzoo.models.info``.
      paper: number of its arXiv paper.
      **fields: of ``ResNet``; whoever asks for the variant may give others.
    """

    def build(
        num_classes: int = 1000,
        pooling: str = "avg",
        dropout: float = 0.0,
        features: bool = False,
        **options: Any,
    ) -> Classifier:
        backbone = ResNet(**{**fields, **options}, feature_maps=features)
        return classifier(backbone, num_classes, pooling, dropout)

    build.__name__, build.__doc__ = name, title
    signed = takes_fields_of(ResNet, without=("feature_maps",), defaults=fields)(build)
    url = f"https://arxiv.org/abs/{paper}"
    register(
        name,
        input_shape=(224, 224, 3),
        paper=url,
        reference=REFERENCE,
        renamed={"attention": "gate"},
    )(signed)


def _add(names: str, title: str, paper: str, *depths: int, **fields: Any) -> None:
    """Registers a variant in several depths, which stand for ``{}`` in its name and title."""
    for depth in depths:
        add_variant(
            names.format(depth), title.format(depth), paper, layers=_LAYERS[depth], **fields
        )


# Blocks of the four stages, by depth: how many layers that makes.
_LAYERS = {
    **dict.fromkeys((10, 14), (1, 1, 1, 1)),
    **dict.fromkeys((18, 26), (2, 2, 2, 2)),
    **dict.fromkeys((34, 50), (3, 4, 6, 3)),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
    201: (3, 24, 36, 4),
    269: (3, 30, 48, 8),
    270: (4, 29, 53, 4),
    350: (4, 36, 72, 4),
    420: (4, 44, 87, 4),
}
_BASIC: dict[str, Any] = {"block": "basic"}
_C: dict[str, Any] = {"stem": "deep", "stem_width": 32}
_S: dict[str, Any] = {"stem": "deep", "stem_width": 64}
_D: dict[str, Any] = {**_C, "avg_down": True}
_T: dict[str, Any] = {**_D, "stem": "tiered"}
_SE: dict[str, Any] = {"gate": "se"}
_ECA: dict[str, Any] = {"gate": "eca"}
_AA: dict[str, Any] = {"anti_aliasing": "avg"}
_BLUR: dict[str, Any] = {"anti_aliasing": "blur"}
# One object: partials of equal arguments are different keys to jit.
_SE_QUARTER = functools.partial(SqueezeExcite, ratio=0.25)
_RS: dict[str, Any] = {**_D, "stem_pool": "conv", "gate": _SE_QUARTER}


def _x(groups: int, width: int) -> dict[str, Any]:
    return {"groups": groups, "base_width": width}


_add("resnet{}", "ResNet-{}", "1512.03385", 18, 34, **_BASIC)
_add("resnet{}", "ResNet-{}", "1512.03385", 26, 50, 101, 152, 200)
_add("resnet{}c", "ResNet-{}-C: deep stem", "1812.01187", 50, 101, 152, **_C)
_add("resnet{}s", "ResNet-{}-S: wide deep stem", "1812.01187", 50, 101, 152, **_S)
_D_TITLE = "ResNet-{}-D: deep stem, averaging shortcuts"
_add("resnet{}d", _D_TITLE, "1812.01187", 18, 34, **_BASIC, **_D)
_add("resnet{}d", _D_TITLE, "1812.01187", 26, 50, 101, 152, 200, **_D)
_T_TITLE = "ResNet-{}-T: tiered stem, averaging shortcuts"
_add("resnet{}t", _T_TITLE, "1812.01187", 10, **_BASIC, **_T)
_add("resnet{}t", _T_TITLE, "1812.01187", 14, 26, 50, **_T)
_add("resnet{}_gn", "ResNet-{} with GroupNorm", "1803.08494", 50, norm="group")
_add(
    "wide_resnet{}_2", "Wide ResNet-{}, twice as wide inside", "1605.07146", 50, 101, base_width=128
)

_X_TITLE = "ResNeXt-{}, 32 groups of 4"
_add("resnext{}_32x4d", _X_TITLE, "1611.05431", 50, 101, **_x(32, 4))
_add("resnext{}d_32x4d", "ResNeXt-{}-D, 32 groups of 4", "1611.05431", 50, **_x(32, 4), **_D)
_add("resnext{}_32x8d", "ResNeXt-{}, 32 groups of 8", "1611.05431", 101, **_x(32, 8))
_add("resnext{}_32x16d", "ResNeXt-{}, 32 groups of 16", "1611.05431", 101, **_x(32, 16))
_add("resnext{}_32x32d", "ResNeXt-{}, 32 groups of 32", "1611.05431", 101, **_x(32, 32))
_add("resnext{}_64x4d", "ResNeXt-{}, 64 groups of 4", "1611.05431", 101, **_x(64, 4))

_add("seresnet{}", "SE-ResNet-{}", "1709.01507", 18, 34, **_BASIC, **_SE)
_add("seresnet{}", "SE-ResNet-{}", "1709.01507", 50, 101, 152, **_SE)
_add("seresnet{}t", "SE-" + _T_TITLE, "1709.01507", 50, **_T, **_SE)
_add("seresnet{}d", "SE-" + _D_TITLE, "1709.01507", 152, 200, 269, **_D, **_SE)
_SEX_TITLE = "SE-ResNeXt-{}, 32 groups of 4"
_add("seresnext{}_32x4d", _SEX_TITLE, "1709.01507", 50, 101, **_x(32, 4), **_SE)
_add("seresnext{}d_32x4d", _SEX_TITLE + ", D variant", "1709.01507", 26, **_x(32, 4), **_D, **_SE)
_add("seresnext{}t_32x4d", _SEX_TITLE + ", T variant", "1709.01507", 26, **_x(32, 4), **_T, **_SE)
_SEX_TITLE = "SE-ResNeXt-{}, 32 groups of 8"
_add("seresnext{}_32x8d", _SEX_TITLE, "1709.01507", 101, **_x(32, 8), **_SE)
_add("seresnext{}d_32x8d", _SEX_TITLE + ", D variant", "1709.01507", 101, **_x(32, 8), **_D, **_SE)
_add("seresnext{}_64x4d", "SE-ResNeXt-{}, 64 groups of 4", "1709.01507", 101, **_x(64, 4), **_SE)
_SENET = {**_x(64, 4), **_S, **_SE, "down_kernel_size": 3, "reduce_first": 2}
add_variant("senet154", "SENet-154", "1709.01507", layers=_LAYERS[152], **_SENET)

_add("ecaresnet{}t", "ECA-" + _T_TITLE, "1910.03151", 26, 50, **_T, **_ECA)
_add("ecaresnet{}d", "ECA-" + _D_TITLE, "1910.03151", 50, 101, 200, 269, **_D, **_ECA)
_X_TITLE = "ECA-ResNeXt-{}, 32 groups of 4, T variant"
_add("ecaresnext{}t_32x4d", _X_TITLE, "1910.03151", 26, 50, **_x(32, 4), **_T, **_ECA)
_LIGHT = {"layers": (1, 1, 11, 3), "avg_down": True, **_ECA}
add_variant("ecaresnetlight", "ECA-ResNet with few early blocks", "1910.03151", **_LIGHT)

_add("resnetrs{}", "ResNet-RS-{}", "2103.07579", 50, 101, 152, 200, 270, 350, 420, **_RS)

_AA_TITLE = ", anti-aliased by averages"
_add("resnetaa{}", "ResNet-{}" + _AA_TITLE, "1904.11486", 50, **_AA)
_add("resnetaa{}d", "ResNet-{}-D" + _AA_TITLE, "1904.11486", 34, **_BASIC, **_D, **_AA)
_add("resnetaa{}d", "ResNet-{}-D" + _AA_TITLE, "1904.11486", 50, 101, **_D, **_AA)
_add("seresnetaa{}d", "SE-ResNet-{}-D" + _AA_TITLE, "1904.11486", 50, **_D, **_SE, **_AA)
_AA_SEX = {**_x(32, 8), **_SE, **_AA}
_add("seresnextaa{}d_32x8d", _SEX_TITLE + _AA_TITLE, "1904.11486", 101, **_D, **_AA_SEX)
_AA_SEX = {**_AA_SEX, **_S, "avg_down": True}
_add("seresnextaa{}d_32x8d", _SEX_TITLE + _AA_TITLE, "1904.11486", 201, **_AA_SEX)
_add("resnetblur{}", "ResNet-{}, anti-aliased by blurs", "1904.11486", 18, **_BASIC, **_BLUR)
_add("resnetblur{}", "ResNet-{}, anti-aliased by blurs", "1904.11486", 50, **_BLUR)
_add("resnetblur{}d", "ResNet-{}-D, anti-aliased by blurs", "1904.11486", 50, 101, **_D, **_BLUR)

_MIXED = {"block": ("basic", "basic", "bottleneck", "basic"), "widths": (32, 48, 48, 96)}
_TINY = {**_MIXED, **_D, "layers": _LAYERS[10], "stem_width": 16}
add_variant("test_resnet", "A tiny network of both kinds of block", "1512.03385", **_TINY)
