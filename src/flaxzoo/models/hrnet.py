"""HRNet: branches of four resolutions side by side, which exchange what they see.

The first branch keeps a quarter of the image's resolution from beginning to end. Each stage adds a
branch of half the resolution and twice the channels; its modules compute blocks in every branch,
then add to each branch what all others say. Names and numbers are those of timm's ``hrnet`` module.

``w18`` to ``w64`` are the channels of the first branch; ``small`` has fewer blocks, ``ssld``
distilled weights.

References:
  HRNet: https://arxiv.org/abs/1908.07919
  SSLD's weights: https://arxiv.org/abs/2103.05959
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flaxzoo._checks import check_size, check_widths
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.initializers import PLAIN, plain_bias
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.norm import normalise_and_activate
from flaxzoo.models.backbone import Backbone, Part
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import row, variants
from flaxzoo.models.resnet import BasicBlock, Bottleneck

# What the branches hold, the one of the highest resolution first.
Branches = tuple[jax.Array, ...]
# timm keeps the numbers of blocks in tables of tables: all names are compared whole.
CUT: dict[str, str] = {}
# What modules and blocks get from the network as it is.
_PASSED_ON = ("activation", "norm", "dtype", "param_dtype")


class ExchangeModule(Layer):
    """Blocks in every branch; then each branch becomes the sum of all, in its own resolution.

    Sun et al. 2019, https://arxiv.org/abs/1908.07919, section 3.2. Parameters are named as those of
    timm's ``HighResolutionModule``.

    Attributes:
      blocks: number of blocks of each branch.
      width: channels of the first branch; each other has twice those of the one before.
      activation: by name or callable.
      norm: the kind of all norms, by name or module (``flaxzoo.layers.norm``).
    """

    blocks: int
    width: int
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"

    @nn.compact
    def __call__(self, x: Branches, train: bool = False) -> Branches:
        """Maps branches ``[B, H / 2^i, W / 2^i, 2^i * width]`` to the same shapes."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in _PASSED_ON}
        own = list(x)
        for i in range(len(own)):
            for j in range(self.blocks):
                options = {"zero_init_residual": False, "name": f"branches_{i}_{j}", **fields}
                own[i] = BasicBlock(self.width * 2**i, **options)(own[i], train)
        return tuple(self.exchanged(own, i, train) for i in range(len(own)))

    def exchanged(self, branches: Sequence[jax.Array], to: int, train: bool) -> jax.Array:
        """The sum of all branches in the resolution of one."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in _PASSED_ON}
        total: Any = None
        for i, x in enumerate(branches):
            name = f"fuse_layers_{to}_{i}"
            if i > to:
                names = (f"{name}_0", f"{name}_1")
                x = conv_norm(x, self.width * 2**to, names, train, size=1, last=True, **fields)
                x = repeated(x, 2 ** (i - to))
            for k in range(to - i):
                is_last = k == to - i - 1
                names, width = (f"{name}_{k}_0", f"{name}_{k}_1"), self.width * 2**i
                width = self.width * 2**to if is_last else width
                x = conv_norm(x, width, names, train, stride=2, last=is_last, **fields)
            total = x if total is None else total + x
        return as_activation(self.activation)(total)


def conv_norm(
    x: jax.Array,
    features: int,
    names: tuple[str, str],
    train: bool,
    *,
    size: int = 3,
    stride: int = 1,
    use_bias: bool = False,
    last: bool = False,
    activation: Any = "relu",
    norm: Any = "batch",
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
) -> jax.Array:
    """A convolution and the norm behind it, submodules of the module that calls it.

    Args:
      x: maps ``[B, H, W, C]``.
      features: the output's channels.
      names: of the convolution and the norm.
      train: whether a BatchNorm uses the batch's statistics.
      size: the kernel's height and width.
      stride: the distances between windows.
      use_bias: whether the convolution has a bias.
      last: whether no activation follows.
      activation: by name or callable.
      norm: by name or module (``flaxzoo.layers.norm``).
      dtype: the dtype of the computation; None promotes inputs and parameters.
      param_dtype: the dtype of the parameters.
    """
    dtypes = {"dtype": dtype, "param_dtype": param_dtype}
    options: dict[str, Any] = {"use_bias": use_bias, "bias_init": plain_bias, **dtypes}
    x = Conv(features, size, stride, name=names[0], **options)(x)
    act = None if last else as_activation(activation)
    return normalise_and_activate(norm, names[1], x, act, train=train, **dtypes)


def repeated(x: jax.Array, times: int) -> jax.Array:
    """Repeats each pixel of ``[B, H, W, C]`` in both directions."""
    images, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (images, height, times, width, times, channels))
    return x.reshape(images, height * times, width * times, channels)


class HRNet(Backbone):
    """A high-resolution network without its classifier.

    It maps images ``[B, H, W, C]``, whose sides are multiples of 32, to ``[B, H / 32, W / 32,
    head_features]``. Maps are the stem's and those of all branches behind the last stage, each
    widened by a block of the head.

    Attributes:
      layers: number of bottlenecks of the first stage, and of blocks of each branch in the modules
        of each other.
      modules: number of modules of each stage but the first; each stage has a branch more.
      width: channels of the first branch; each other has twice those of the one before.
      first_width: a quarter of the channels of the first stage.
      stem_widths: channels of the two convolutions of the stem.
      head_widths: a quarter of the channels that each branch is widened to.
      head_features: channels of the last convolution.
      head_bias: whether the convolutions that join the branches have biases.
      activation: by name or callable.
      norm: by name or module (``flaxzoo.layers.norm``).
      remat: whether blocks of the first stage and modules of the others are computed again in the
        backward pass instead of stored, or the policy of what is kept all the same
        (``flaxzoo.layers.remat``).
    """

    layers: Sequence[int] = (4, 4, 4, 4)
    modules: Sequence[int] = (1, 4, 3)
    width: int = 18
    first_width: int = 64
    stem_widths: Sequence[int] = (64, 64)
    head_widths: Sequence[int] = (32, 64, 128, 256)
    head_features: int = 2048
    head_bias: bool = True
    activation: str | Callable[[jax.Array], jax.Array] = "relu"
    norm: Any = "batch"
    remat: bool | str = False

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The stem, the first stage, transitions and modules of the others, and the head.

        From the first transition on, what goes from part to part is a tuple of the branches.
        """
        fields: dict[str, Any] = {name: getattr(self, name) for name in _PASSED_ON}
        for i in (1, 2):
            convolve = functools.partial(self._stem, i)
            options: dict[str, Any] = {"owns": (f"conv{i}", f"bn{i}"), "takes": "images"}
            yield Part("stem", convolve, map="stem" if i == 1 else None, reduction=2, **options)
        widened = 4 * self.first_width
        for j in range(self.layers[0]):
            block = self._bottleneck(self.first_width, not j and self.stem_widths[1] != widened)
            yield Part(f"layer1_{j}", block, remat=self.remat)
        for i, (count, blocks) in enumerate(zip(self.modules, self.layers[1:], strict=True), 1):
            owns = [f"transition{i}_{i}_0_{k}" for k in (0, 1)]
            if i == 1 and widened != self.width:
                owns += ["transition1_0_0", "transition1_0_1"]
            before = f"stage{i}_{self.modules[i - 2] - 1}" if i > 1 else f"layer1_{j}"
            options = {"depth": before, "takes": None if i > 1 else "maps"}
            yield Part(f"transition{i}", functools.partial(self._split, i), tuple(owns), **options)
            for m in range(count):
                run = functools.partial(ExchangeModule, blocks=blocks, width=self.width, **fields)
                yield Part(f"stage{i + 1}_{m}", run, takes=None, remat=self.remat)
        for i in range(len(self.head_widths)):
            widen = functools.partial(self._widen, i)
            options = {"map": f"stage{i + 1}", "reduction": 4 * 2**i, "depth": "head"}
            options |= {"takes": None, "view": operator.itemgetter(i)}
            yield Part("incre_modules", widen, (f"incre_modules_{i}_0",), **options)
        owns = [f"downsamp_modules_{i}_{k}" for i in range(len(self.modules)) for k in (0, 1)]
        owns += ["final_layer_0", "final_layer_1"]
        yield Part("final_layer", self._join, tuple(owns), takes=None, depth="head")

    def _stem(self, number: int, x: jax.Array, train: bool) -> jax.Array:
        names = (f"conv{number}", f"bn{number}")
        return self._conv(x, self.stem_widths[number - 1], names, train, stride=2)

    def _split(self, number: int, x: Any, train: bool) -> Branches:
        """Adds a branch of half the resolution of the last one."""
        name, width = f"transition{number}", self.width * 2**number
        if number == 1:
            check_sides(x, 2 ** len(self.modules))
            names = (f"{name}_0_0", f"{name}_0_1")
            same = x.shape[-1] == self.width
            branches: Branches = (x if same else self._conv(x, self.width, names, train),)
            last = x
        else:
            branches, last = x, x[-1]
        names = (f"{name}_{number}_0_0", f"{name}_{number}_0_1")
        return (*branches, self._conv(last, width, names, train, stride=2))

    def _widen(self, number: int, x: Branches, train: bool) -> Branches:
        """Widens one of the branches by a bottleneck."""
        features = self.head_widths[number]
        project = x[number].shape[-1] != 4 * features
        block = self._bottleneck(features, project)(name=f"incre_modules_{number}_0")
        return (*x[:number], block(x[number], train), *x[number + 1 :])

    def _join(self, x: Branches, train: bool) -> jax.Array:
        """Adds each branch to the one before it, of twice its resolution, and widens the last."""
        options: dict[str, Any] = {"use_bias": self.head_bias}
        y = x[0]
        for i, branch in enumerate(x[1:]):
            names = (f"downsamp_modules_{i}_0", f"downsamp_modules_{i}_1")
            y = branch + self._conv(y, branch.shape[-1], names, train, stride=2, **options)
        names = ("final_layer_0", "final_layer_1")
        return self._conv(y, self.head_features, names, train, size=1, **options)

    @nn.nowrap
    def _bottleneck(self, features: int, project: bool) -> Any:
        fields: dict[str, Any] = {name: getattr(self, name) for name in _PASSED_ON}
        options = {"project": project, "zero_init_residual": False, **fields}
        return functools.partial(Bottleneck, features, **options)

    def _conv(
        self, x: jax.Array, features: int, names: tuple[str, str], train: bool, **options: Any
    ) -> jax.Array:
        fields = {name: getattr(self, name) for name in _PASSED_ON}
        return conv_norm(x, features, names, train, **fields, **options)

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """Averages the last map."""
        return {**super().head_options(), **PLAIN}

    @nn.nowrap
    def check_fields(self) -> None:
        """Raises ValueError for what a field does not take."""
        for name in ("layers", "modules", "stem_widths", "head_widths"):
            check_widths(name, getattr(self, name))
        if not len(self.layers) == len(self.head_widths) == len(self.modules) + 1:
            raise ArgumentError(
                "layers and head_widths must have one number for each stage, modules one for each "
                f"but the first, got {self.layers!r}, {self.head_widths!r} and {self.modules!r}"
            )
        if len(self.stem_widths) != 2:
            raise ArgumentError(f"stem_widths must be two, got {self.stem_widths!r}")
        for name in ("width", "first_width", "head_features"):
            check_size(name, getattr(self, name))


def check_sides(x: jax.Array, by: int) -> None:
    """Raises ShapeError where maps ``[B, H, W, C]`` can't be halved for all branches."""
    if any(side % by for side in x.shape[1:3]):
        raise ShapeError(
            f"maps of {x.shape[1]} x {x.shape[2]} have no branches of whole pixels: the height and "
            f"width of images must be multiples of {4 * by}"
        )


_2: dict[str, Any] = {"layers": (2, 2, 2, 2)}

variants(
    HRNet,
    {
        "hrnet_w18_small": row(
            "HRNet-W18-small",
            layers=(1, 2, 2, 2),
            modules=(1, 1, 1),
            width=16,
            first_width=32,
        ),
        "hrnet_w18_small_v2": row("HRNet-W18-small V2", modules=(1, 3, 2), **_2),
        "hrnet_w18": row("HRNet-W18", width=18),
        "hrnet_w30": row("HRNet-W30", width=30),
        "hrnet_w32": row("HRNet-W32", width=32),
        "hrnet_w40": row("HRNet-W40", width=40),
        "hrnet_w44": row("HRNet-W44", width=44),
        "hrnet_w48": row("HRNet-W48", width=48),
        "hrnet_w64": row("HRNet-W64", width=64),
        "hrnet_w18_ssld": row("HRNet-W18, distilled", width=18, head_bias=False),
        "hrnet_w48_ssld": row("HRNet-W48, distilled", width=48, head_bias=False),
    },
    paper="https://arxiv.org/abs/1908.07919",
    reference=Reference(stem=("conv1",), classifier="classifier"),
)
