"""What every augmentation has in common, several as one, and what may be passed as ``augment=``."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from flaxzoo._checks import check_number
from flaxzoo._explain import explained
from flaxzoo._random import as_key
from flaxzoo.augment import ranges
from flaxzoo.augment.batches import (
    check_images,
    images_of,
    name_of,
    per_channel,
    per_example,
    replace_images,
    set_field,
)
from flaxzoo.augment.registry import REGISTRY
from flaxzoo.data.batch import Batch

if TYPE_CHECKING:
    from flaxzoo.preprocess import Preprocess


@dataclasses.dataclass(frozen=True, repr=False)
class Augmentation:
    """A random change of a training batch, run on the device inside the compiled step.

    It is configuration only: frozen, hashable, equal to any other with equal fields. The same key
    always gives the same result. A subclass writes ``__call__`` or ``images``.
    """

    def __call__(self, key: Any, batch: Batch) -> Batch:
        """Augments a training batch.

        Args:
          key: a key, or an int seed.
          batch: images ``[B, H, W, C]``, floating, as its inputs, or in a mapping under
            ``image``; other inputs, targets and weights stay.

        Raises:
          ShapeError: the inputs are no images, or have the wrong number of channels.
        """
        return replace_images(batch, self.images(key, images_of(batch, self)))

    def images(self, key: Any, images: Any) -> jax.Array:
        """Augments images alone.

        Args:
          key: a key, or an int seed.
          images: ``[B, H, W, C]``, floating, in the range that the model takes.

        Returns:
          Images of the same dtype and, unless the augmentation has a ``size``, of the same shape.

        Raises:
          ShapeError: they are no images, or have the wrong number of channels.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither __call__ nor images")

    def normalized_by(self, preprocess: Preprocess | None) -> Augmentation:
        """The same for images that are normalised to ``(x - mean) / std``.

        Args:
          preprocess: what the images went through; None for images in [0, 1].
        """
        return self

    def with_num_classes(self, num_classes: int) -> Augmentation:
        """The same with the number of classes filled in where it is needed and not given."""
        return self

    @property
    def soft_targets(self) -> bool:
        """Whether labels ``[B]`` come out as probabilities ``[B, num_classes]``."""
        return False

    @property
    def known_classes(self) -> int | None:
        """The number of classes that it, or the first of its parts, was given."""
        return getattr(self, "num_classes", None)

    @property
    def changes_nothing(self) -> bool:
        """Whether its fields are those of an augmentation that must be told what to change."""
        return False

    def joins(self, others: Sequence[Any]) -> bool:
        """Whether ``together`` can do this one and all that follow it."""
        return False

    def together(self, others: Sequence[Any], keys: Sequence[Any], images: Any) -> jax.Array:
        """This one and those that follow it at once; each with its own key, this one's first."""
        raise NotImplementedError(f"{type(self).__name__} joins no others")

    def __repr__(self) -> str:
        """The fields that are not at their defaults."""
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

    def __or__(self, other: Any) -> Augmentation:
        """``a | b`` does ``a``, then ``b``."""
        return Compose((self, other)) if callable(other) else NotImplemented

    def __ror__(self, other: Any) -> Augmentation:
        """``f | a`` for a function ``f(key, batch)``."""
        return Compose((other, self)) if callable(other) else NotImplemented


@dataclasses.dataclass(frozen=True, repr=False)
class Several(Augmentation):
    """One made of others.

    Attributes:
      ops: augmentations, their names, or functions ``f(key, batch) -> batch``.
    """

    ops: tuple[Callable[..., Any], ...]

    def __post_init__(self) -> None:
        ops = (self.ops,) if isinstance(self.ops, str) or callable(self.ops) else self.ops
        if not isinstance(ops, Iterable):
            raise TypeError(f"ops must be a sequence of augmentations, got {ops!r}")
        set_field(self, "ops", tuple(_one(op) for op in ops))
        if not self.ops:
            raise ValueError(f"{type(self).__name__} needs at least one augmentation in ops")

    def images(self, key: Any, images: Any) -> jax.Array:  # noqa: D102 - inherited
        return self(key, Batch(images)).inputs

    def _mapped(self, method: str, *args: Any) -> Any:
        ops = tuple(
            getattr(op, method)(*args) if isinstance(op, Augmentation) else op for op in self.ops
        )
        return dataclasses.replace(self, ops=ops)

    def normalized_by(self, preprocess: Preprocess | None) -> Augmentation:  # noqa: D102 - inherited
        return self._mapped("normalized_by", preprocess)

    def with_num_classes(self, num_classes: int) -> Augmentation:  # noqa: D102 - inherited
        return self._mapped("with_num_classes", num_classes)

    @property
    def soft_targets(self) -> bool:  # noqa: D102 - inherited
        return any(isinstance(op, Augmentation) and op.soft_targets for op in self.ops)

    @property
    def known_classes(self) -> int | None:  # noqa: D102 - inherited
        known = (op.known_classes for op in self.ops if isinstance(op, Augmentation))
        return next((classes for classes in known if classes is not None), None)


@explained
@dataclasses.dataclass(frozen=True, repr=False)
class Compose(Several):
    """Does one augmentation after the other.

    Neighbours that move pixels by affine maps and fill up alike (``Affine`` and ``Flip``) are done
    in one sampling: faster, sharper, and what one moves out another can still move back in.

    Attributes:
      ops: augmentations, their names, or functions ``f(key, batch) -> batch``; the first is done
        first.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        # A chain of chains is one chain.
        flat = [op.ops if isinstance(op, Compose) else (op,) for op in self.ops]
        set_field(self, "ops", tuple(itertools.chain(*flat)))

    def __call__(self, key: Any, batch: Batch) -> Batch:  # noqa: D102 - inherited
        keys = iter(jax.random.split(as_key(key), len(self.ops)))
        for group in self._groups():
            own = list(itertools.islice(keys, len(group)))
            if len(group) == 1:
                batch = group[0](own[0], batch)
            else:
                images = group[0].together(group[1:], own, images_of(batch, group[0]))
                batch = replace_images(batch, images)
        return batch

    def _groups(self) -> Iterator[list[Any]]:
        """Runs of augmentations that the first of them can do together; others alone."""
        group: list[Any] = []
        for op in self.ops:
            first = group[0] if group else None
            if group and not (isinstance(first, Augmentation) and first.joins([*group[1:], op])):
                yield group
                group = []
            group.append(op)
        yield group


@dataclasses.dataclass(frozen=True, repr=False)
class ImageAugmentation(Augmentation):
    """One that changes each image for itself; a subclass writes ``example``.

    Attributes:
      p: probability that an image is changed at all; each image draws for itself.
      mean: the mean that the images were normalised with, one value or one per channel; see
        ``normalized_by``. The default is that of images in [0, 1].
      std: the standard deviation that they were normalised with.
    """

    p: float = dataclasses.field(default=1.0, kw_only=True)
    mean: tuple[float, ...] = dataclasses.field(default=(0.0,), kw_only=True)
    std: tuple[float, ...] = dataclasses.field(default=(1.0,), kw_only=True)

    def __post_init__(self) -> None:
        set_field(self, "p", check_number("p", self.p, minimum=0, maximum=1))
        for name in ("mean", "std"):
            values = ranges.color(name, getattr(self, name), words=())
            set_field(self, name, values)
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive, got {self.std}")

    def images(self, key: Any, images: Any) -> jax.Array:  # noqa: D102 - inherited
        images = check_images(images, self)
        return per_example(self.sometimes, key, images)

    def sometimes(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """``example`` with probability ``p``; one image ``[H, W, C]``, at least float32."""
        chosen, key = self.choose(key)
        result = self.example(key, image)
        return result if self.p == 1 else jnp.where(chosen, result, image)

    def choose(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Whether this image is changed, and the key for how."""
        if self.p == 1:
            return jnp.asarray(True), key
        choice, key = jax.random.split(key)
        return jax.random.bernoulli(choice, self.p), key

    def example(self, key: jax.Array, image: jax.Array) -> jax.Array:
        """Changes one image.

        Args:
          key: the key of this image.
          image: ``[H, W, C]``, float32 or float64.
        """
        raise NotImplementedError(f"{type(self).__name__} has no example")

    def normalized_by(self, preprocess: Preprocess | None) -> Augmentation:  # noqa: D102
        if preprocess is None:
            return self
        return dataclasses.replace(self, mean=preprocess.mean, std=preprocess.std)

    def unit(self, change: Callable[[jax.Array], jax.Array], image: jax.Array) -> jax.Array:
        """``change`` of the image in [0, 1], normalised again."""
        if self.mean == (0.0,) and self.std == (1.0,):
            return change(image)
        mean, std = (
            jnp.expand_dims(per_channel(values, image, self), range(image.ndim - 1))
            for values in (self.mean, self.std)
        )
        return (change(image * std + mean) - mean) / std

    def fill_values(self, fill: str | tuple[float, ...], image: jax.Array) -> jax.Array:
        """A colour ``[C]`` given in [0, 1], or "mean", in the range of the images."""
        mean = per_channel(self.mean, image, self)
        if isinstance(fill, str):
            return jnp.zeros_like(mean)
        return (per_channel(fill, image, self) - mean) / per_channel(self.std, image, self)


@explained
def as_augmentation(
    value: Any, preprocess: Preprocess | None = None, num_classes: int | None = None
) -> Callable[..., Any] | None:
    """What a user passes as ``augment=`` as a function ``f(key, batch) -> batch``.

    Args:
      value: None, a registered name, an ``Augmentation``, any hashable function
        ``f(key, batch) -> batch``, or a sequence of these, which are done in order.
      preprocess: how the images were normalised; None for images in [0, 1].
      num_classes: number of the model's classes, for mixing, where the augmentation does not say.

    Raises:
      UnknownNameError: (a KeyError) no augmentation has that name.
      TypeError: ``value`` is none of these, or a function that is not hashable.
    """
    if value is None or (isinstance(value, list | tuple) and not value):
        return None
    augmentation = Compose(tuple(value)) if isinstance(value, list | tuple) else _one(value)
    if isinstance(augmentation, Augmentation):
        augmentation = augmentation.normalized_by(preprocess)
        # One output is a number to predict or the odds of one class: mixed as it is.
        if num_classes and num_classes > 1:
            augmentation = augmentation.with_num_classes(num_classes)
    return augmentation


def _one(value: Any) -> Callable[..., Any]:
    if isinstance(value, str):
        augmentation = REGISTRY.get(value)
        if isinstance(augmentation, Augmentation) and augmentation.changes_nothing:
            raise ValueError(
                f"the augmentation {value!r} changes nothing unless it is told what: see "
                f"flaxzoo.augment.info({value!r}), and pass flaxzoo.augment.get({value!r}, ...)"
            )
        return augmentation
    if isinstance(value, Sequence):
        return Compose(tuple(value))
    if isinstance(value, type) or not callable(value):
        raise TypeError(
            "an augmentation is a name, a flaxzoo.augment.Augmentation or a function "
            f"f(key, batch) -> batch, got {value!r}"
        )
    _check_fields(value)
    try:
        hash(value)
    except TypeError as error:
        raise TypeError(
            f"augmentation {name_of(value)} is not hashable, so that a compiled step cannot hold it"
        ) from error
    return value


def _check_fields(value: Any) -> None:
    """Refuses a subclass whose instances would be equal, and share a compiled step, wrongly."""
    if not isinstance(value, Augmentation):
        return
    hidden = vars(value).keys() - {field.name for field in dataclasses.fields(value)}
    own_equality = any("__eq__" in vars(cls) for cls in type(value).__mro__[:1])
    if hidden and not own_equality:
        raise TypeError(
            f"{name_of(value)} holds {', '.join(sorted(hidden))}, which its equality does not "
            "know, so that a compiled step would take one for another: declare them as fields of "
            "a @dataclasses.dataclass(frozen=True)"
        )
