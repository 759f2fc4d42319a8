"""RandAugment and TrivialAugment: random ones of fourteen changes, at a strength."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from flaxzoo._checks import check_number, check_size
from flaxzoo._explain import explained
from flaxzoo._random import as_key
from flaxzoo.augment import pixels, ranges
from flaxzoo.augment.base import ImageAugmentation
from flaxzoo.augment.batches import check_images, per_row, set_field
from flaxzoo.augment.geometry import Fill, affine_matrix, warp_filled
from flaxzoo.augment.registry import REGISTRY
from flaxzoo.errors import UnknownNameError, did_you_mean

OPS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
_GEOMETRIC = OPS[1:6]
_BLENDS = OPS[6:10]
# What a blend moves away from, if not black.
_BASES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "color": pixels.gray,
    "contrast": pixels.gray_mean,
    "sharpness": pixels.smooth,
}


class Strongest(NamedTuple):
    """What the highest magnitude does.

    Attributes:
      shear: tangent of the angle.
      translate: the largest shift as a fraction of the side; None for ``pixels``.
      pixels: the largest shift in pixels.
      rotate: degrees.
      factor: added to, or taken from, the factor 1 of brightness, colour, contrast and sharpness.
      bits: taken from the eight.
    """

    shear: float
    translate: float | None
    pixels: float
    rotate: float
    factor: float
    bits: int


@dataclasses.dataclass(frozen=True, repr=False)
class _Automatic(ImageAugmentation):
    """Random ones of ``OPS``, one after the other."""

    ops: tuple[str, ...] = dataclasses.field(default=OPS, kw_only=True)
    fill: Fill = dataclasses.field(default="mean", kw_only=True)

    strongest: ClassVar[Strongest]

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "fill", ranges.color("fill", self.fill))
        if isinstance(self.ops, str) or not isinstance(self.ops, Iterable):
            raise TypeError(f"ops must be a sequence of names, got {self.ops!r}")
        set_field(self, "ops", tuple(self.ops))
        for name in self.ops:
            if name not in OPS:
                raise UnknownNameError(
                    f"unknown op {name!r} of {type(self).__name__}.{did_you_mean(str(name), OPS)} "
                    f"There are: {', '.join(OPS)}"
                )
        if not self.ops:
            raise ValueError(f"{type(self).__name__} needs at least one of ops")

    def images(self, key: Any, images: Any) -> jax.Array:
        images = check_images(images, self)
        choice, key = jax.random.split(as_key(key))
        changes = jnp.ones(images.shape[0], bool)
        if self.p < 1:
            changes = per_row(lambda k: jax.random.bernoulli(k, self.p), choice, images)
        wide = images.astype(jnp.promote_types(images.dtype, jnp.float32))
        return self._changed(key, wide, changes).astype(images.dtype)

    def _changed(self, key: jax.Array, images: jax.Array, changes: jax.Array) -> jax.Array:
        """The images of which ``changes``, ``[B]``, is true, changed."""
        raise NotImplementedError(f"{type(self).__name__} has no _changed")

    def _once(self, key: jax.Array, images: jax.Array, changes: jax.Array, level: Any) -> jax.Array:
        """One random change of each image, ``[B, H, W, C]`` in the range of the model.

        Each kind is computed for the whole batch, but only if some image has drawn it; without
        the conditions between them XLA would compute the sampling anew wherever it is read.
        """
        draws = per_row(lambda k: jax.random.uniform(k, (2,)), key, images)
        drawn = jnp.floor(draws[:, 0] * len(self.ops)).astype(jnp.int32)
        sign = jnp.where(draws[:, 1] < 0.5, -1.0, 1.0)
        level = jnp.broadcast_to(level, sign.shape)
        chosen = {name: (drawn == index) & changes for index, name in enumerate(self.ops)}
        for kind, change in (
            (_GEOMETRIC, self._move),
            (_BLENDS, self._blend),
            (("posterize",), self._posterize),
            (("solarize",), self._solarize),
            (("autocontrast",), self._autocontrast),
            (("equalize",), self._equalize),
        ):
            own = {name: chosen[name] for name in kind if name in chosen}
            if own:
                images = _where_any(own, change, images, level, sign)
        return images

    def _move(self, image: jax.Array, chosen: Any, level: Any, sign: Any) -> jax.Array:
        most, (height, width) = self.strongest, image.shape[:2]

        def strength(name: str, value: Any) -> Any:
            return jnp.where(chosen.get(name, False), sign * level * value, 0.0)

        far_x, far_y = most.pixels, most.pixels
        if most.translate is not None:
            far_x, far_y = most.translate * width, most.translate * height
        matrix = affine_matrix(
            rotation=strength("rotate", most.rotate),
            # Whole pixels, which stay sharp.
            shift_x=jnp.trunc(strength("translate_x", far_x)),
            shift_y=jnp.trunc(strength("translate_y", far_y)),
        )
        # Shears are about the upper left corner, as in the paper's code.
        lean_x, lean_y = (strength(name, most.shear) for name in ("shear_x", "shear_y"))
        zero = jnp.zeros_like(lean_x)
        matrix += jnp.stack(
            [
                jnp.stack([zero, lean_x, lean_x * (height / 2)]),
                jnp.stack([lean_y, zero, lean_y * (width / 2)]),
            ]
        )
        return warp_filled(self, matrix, image, self.fill)

    def _blend(self, image: jax.Array, chosen: Any, level: Any, sign: Any) -> jax.Array:
        def change(unit: jax.Array) -> jax.Array:
            # One formula does for all four: away from black, grey, or smoothness.
            base = jnp.zeros_like(unit)
            for name, make in _BASES.items():
                if name in chosen:
                    base = jnp.where(chosen[name], make(unit), base)
            return pixels.mix(base, unit, 1 + sign * level * self.strongest.factor)

        return self.unit(change, image)

    def _posterize(self, image: jax.Array, chosen: Any, level: Any, sign: Any) -> jax.Array:
        bits = jnp.round(8 - level * self.strongest.bits)
        return self.unit(lambda unit: pixels.posterize(unit, bits), image)

    def _solarize(self, image: jax.Array, chosen: Any, level: Any, sign: Any) -> jax.Array:
        return self.unit(lambda unit: pixels.solarize(unit, 1 - level), image)

    def _autocontrast(self, image: jax.Array, chosen: Any, level: Any, sign: Any) -> jax.Array:
        return self.unit(pixels.autocontrast, image)

    def _equalize(self, image: jax.Array, chosen: Any, level: Any, sign: Any) -> jax.Array:
        return self.unit(pixels.equalize, image)


def _where_any(
    chosen: dict[str, jax.Array], change: Callable[..., jax.Array], images: jax.Array, *args: Any
) -> jax.Array:
    """``change`` of the images that have drawn one of ``chosen``, if there are any."""
    rows = functools.reduce(operator.or_, chosen.values())

    def changed(images: jax.Array) -> jax.Array:
        results = jax.vmap(change)(images, chosen, *args).astype(images.dtype)
        return jnp.where(rows[:, None, None, None], results, images)

    return jax.lax.cond(rows.any(), changed, lambda images: images, images)


@REGISTRY.register("randaugment", aliases=["rand_augment"])
@explained
@dataclasses.dataclass(frozen=True, repr=False)
class RandAugment(_Automatic):
    """Does ``num_ops`` random ones of fourteen changes, all at one strength.

    At the highest magnitude: shears of 0.3 (tangent), shifts of 0.45 of the side, 30 degrees,
    factors 0.1 or 1.9 of brightness, colour, contrast and sharpness, 4 bits of 8, everything
    inverted; a sign is drawn where there is one. Magnitude 9 of 30 is 9 degrees.

    Attributes:
      num_ops: how many changes, one after the other.
      magnitude: 0 to ``num_magnitude_bins - 1``.
      num_magnitude_bins: number of steps, 31 as in torchvision. timm has 11, so that its ``m9`` is
        magnitude 27 here.
      ops: names of the changes to draw from, of ``flaxzoo.augment.randaugment.OPS``.
      fill: what comes in from outside, as for ``Affine``.
      p: probability that an image is changed at all.

    Source: Cubuk et al. (https://arxiv.org/abs/1909.13719); strengths are torchvision's.
    """

    num_ops: int = 2
    magnitude: float = 9
    num_magnitude_bins: int = 31

    strongest: ClassVar[Strongest] = Strongest(0.3, 150 / 331, 0, 30.0, 0.9, 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        set_field(self, "num_ops", check_size("num_ops", self.num_ops))
        bins = check_size("num_magnitude_bins", self.num_magnitude_bins, minimum=2)
        set_field(self, "num_magnitude_bins", bins)
        magnitude = check_number("magnitude", self.magnitude, minimum=0, maximum=bins - 1)
        set_field(self, "magnitude", magnitude)

    def _changed(self, key: jax.Array, images: jax.Array, changes: jax.Array) -> jax.Array:
        level = self.magnitude / (self.num_magnitude_bins - 1)

        def once(images: jax.Array, key: jax.Array) -> tuple[jax.Array, None]:
            return self._once(key, images, changes, level), None

        # A loop of the program: the fourteen are compiled once.
        return jax.lax.scan(once, images, jax.random.split(key, self.num_ops))[0]


@REGISTRY.register("trivialaugment", aliases=["trivial_augment"])
@explained
@dataclasses.dataclass(frozen=True, repr=False)
class TrivialAugment(_Automatic):
    """Does a single random one of fourteen changes, at a random strength; nothing to tune.

    At most: shears of 0.99 (tangent), shifts of 32 pixels, 135 degrees, factors 0.01 or 1.99 of
    brightness, colour, contrast and sharpness, 6 bits of 8, everything inverted.

    Attributes:
      num_magnitude_bins: number of strengths to draw from, all alike.
      ops: names of the changes to draw from, of ``flaxzoo.augment.randaugment.OPS``.
      fill: what comes in from outside, as for ``Affine``.
      p: probability that an image is changed at all.

    Source: Müller and Hutter (https://arxiv.org/abs/2103.10158), the wide space.
    """

    num_magnitude_bins: int = 31

    strongest: ClassVar[Strongest] = Strongest(0.99, None, 32.0, 135.0, 0.99, 6)

    def __post_init__(self) -> None:
        super().__post_init__()
        bins = check_size("num_magnitude_bins", self.num_magnitude_bins, minimum=2)
        set_field(self, "num_magnitude_bins", bins)

    def _changed(self, key: jax.Array, images: jax.Array, changes: jax.Array) -> jax.Array:
        key, level_key = jax.random.split(key)
        bins = self.num_magnitude_bins
        steps = per_row(lambda k: jax.random.randint(k, (), 0, bins), level_key, images)
        return self._once(key, images, changes, steps / (bins - 1))
