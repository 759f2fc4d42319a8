"""A backbone as one generator of parts, in the order in which data passes through them.

A family writes ``parts()``; its forward pass, stages, feature maps and slices follow from it here.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax

from flaxzoo._checks import check_choice
from flaxzoo.activations import as_activation
from flaxzoo.errors import ArgumentError, ShapeError
from flaxzoo.layers.attention import IMPLEMENTATIONS
from flaxzoo.layers.layer import Layer
from flaxzoo.layers.lowering.written import written
from flaxzoo.layers.norm import as_norm
from flaxzoo.layers.remat import as_remat_policy
from flaxzoo.precision import as_residual

_AXES = {
    "images": "[B, H, W, C]",
    "maps": "[B, H, W, C]",
    "tokens": "[B, N, C]",
    "vectors": "[B, C]",
}


def _check_output_stride(value: Any) -> None:
    if value not in (8, 16, 32):
        raise ArgumentError(f"output_stride must be 8, 16 or 32, got {value!r}")


# What these fields take in all families that have them: their check, called with the value.
_USUAL: Mapping[str, Callable[[Any], Any]] = {
    "activation": as_activation,
    "norm": as_norm,
    "implementation": lambda value: check_choice("implementation", value, IMPLEMENTATIONS),
    "output_stride": _check_output_stride,
}


@dataclasses.dataclass(frozen=True)
class Part:
    """One step of a backbone's forward pass.

    Attributes:
      name: of the stage that the part belongs to; consecutive parts of one name are one stage.
      run: what computes it: a Linen module class with its fields, ``functools.partial(Block, 64)``,
        which is built under the part's name and called with ``(x, train)``, or with ``(x)`` if it
        takes no ``train``; or a function ``(x, train) -> x``, usually a method of the backbone,
        which names the submodules that it makes.
      owns: names of these submodules, a path for one inside another; None stands for the module
        of the part's own name where ``run`` is a module class, and for no submodules otherwise.
      map: name of the feature map that is complete behind the part, if any.
      reduction: by how much that map is smaller than the image.
      view: from what the part returns to its map ``[B, H, W, C]``, where the two differ: tokens
        back on their grid (``tokens_to_map``), a norm that only the map passes through.
      takes: the form of the part's input, ``"images"``, ``"maps"``, ``"tokens"`` or
        ``"vectors"``, whose rank is checked where a range of stages starts; None for no check.
      depth: name of the group that the stage shares its depth with, for layer-wise decay of
        learning rates: that of another stage, or ``"head"``; None for a depth of its own.
      group: name of the group of stages that begin to train together where a run unfreezes the
        network gradually; None for the stage's name up to its first number, ``"layer4"`` of
        ``"layer4_1"`` and ``"stages_0"`` of ``"stages_0_blocks_1"``.
      remat: whether a module is computed again in the backward pass instead of storing what it
        computes inside; the name of a policy, or a policy, for all but what this keeps
        (``flaxzoo.layers.remat``).
      context: what the module gets besides, where it depends on what came before, such as the
        positions of images of any size: called with ``(x, train)`` when the part is run, it
        returns a tuple; the module is called with ``(x, train, *context)``.
      shares: names of submodules that another part owns, and ``context`` reads.
    """

    name: str
    run: Callable[..., Any]
    owns: tuple[str, ...] | None = None
    map: str | None = None
    reduction: int | None = None
    view: Callable[[jax.Array], jax.Array] | None = None
    takes: str | None = "maps"
    depth: str | None = None
    group: str | None = None
    remat: bool | str | Callable[..., Any] = False
    context: Callable[[Any, bool], tuple[Any, ...]] | None = None
    shares: tuple[str, ...] = ()

    @property
    def submodules(self) -> tuple[str, ...]:
        """The names of the submodules, the default filled in."""
        if self.owns is not None:
            return self.owns
        return () if _module_class(self.run) is None else (self.name,)


class Backbone(Layer, kw_only=True):
    """The base of all backbones: a family gives ``parts`` and inherits the rest.

    Attributes:
      feature_maps: whether a call returns all feature maps instead of the last part's output; only
        families whose parts end maps take it.
    """

    # The shortest side of images that convolutions without padding leave a pixel of.
    smallest: ClassVar[int] = 1
    # Fields that take other values than those of this name do in other families.
    unusual: ClassVar[tuple[str, ...]] = ()

    feature_maps: bool = False

    @nn.nowrap
    def check_all(self) -> None:
        """Raises ValueError for what a field does not take, by its name too: a norm, a stride.

        None is taken where it is the default.
        """
        for name, field in self.__dataclass_fields__.items():
            value = getattr(self, name)
            given = value is not None or field.default is not None
            if given and name in _USUAL and name not in self.unusual:
                _USUAL[name](value)
        super().check_all()

    @nn.nowrap
    def parts(self) -> Iterator[Part]:
        """The parts in the order of the forward pass; each family writes its own.

        Mark it with ``flax.linen.nowrap``: it is called outside of ``apply`` as well.
        """
        raise NotImplementedError(f"{type(self).__name__} must define parts()")

    @nn.nowrap
    def stages(self) -> dict[str, tuple[str, ...]]:
        """The names of the stages in order, and the submodules of each."""
        stages: dict[str, tuple[str, ...]] = {}
        for part in self.parts():
            stages[part.name] = (*stages.get(part.name, ()), *part.submodules)
        return stages

    @nn.nowrap
    def shared(self) -> dict[str, tuple[str, ...]]:
        """The submodules of other stages that a stage reads, for stages that read any."""
        return {part.name: part.shares for part in self.parts() if part.shares}

    @nn.nowrap
    def depths(self) -> dict[str, str]:
        """The group of equal depth of each stage, by default its own name."""
        depths: dict[str, str] = {}
        for part in self.parts():
            if part.depth is not None or part.name not in depths:
                depths[part.name] = part.depth or part.name
        return depths

    @nn.nowrap
    def stage_groups(self) -> dict[str, str]:
        """The group of each stage whose parts name one."""
        return {part.name: part.group for part in self.parts() if part.group is not None}

    @nn.nowrap
    def reductions(self) -> dict[str, int | None]:
        """The names of the feature maps in order, and by how much each is smaller than the image.

        A reduction is None where the family does not say it.
        """
        return {part.map: part.reduction for part in self.parts() if part.map is not None}

    @nn.nowrap
    def pooling_options(self) -> dict[str, Any]:
        """The fields of a ``Head`` that say how this backbone's output is pooled.

        They hold for every ``Head`` that is put on it with ``pooling="auto"``.
        """
        return {}

    @nn.nowrap
    def head_options(self) -> dict[str, Any]:
        """The fields of the ``Head`` that the family's own classifiers have."""
        return {"pooling": "avg", **self.pooling_options()}

    @nn.nowrap
    def no_weight_decay(self) -> tuple[str, ...]:
        """Globs over the backbone's parameters, such as ``pos_embed``, that are not decayed.

        They come besides what never is: biases and the scales of norms.
        """
        return ()

    @nn.nowrap
    def tensor_rules(self) -> dict[str, tuple[str | None, ...]]:
        """What the axis ``"model"`` of a mesh divides, where there is one.

        From globs over the backbone's parameters to the axis that divides each dimension. Two
        layers in a row fit together where the first is divided by its outputs and the second by
        its inputs: what lies between them stays where it is. These are the pairs of transformers,
        and of whatever has an MLP, by timm's names; a glob that matches nothing is passed over.
        """
        wide, back = (None, "model"), ("model", None)
        return {
            "*/attn/qkv/kernel": wide,
            "*/attn/proj/kernel": back,
            "*/mlp/fc1/kernel": wide,
            "*/mlp/fc2/kernel": back,
        }

    @nn.nowrap
    def enter(self, x: Any, parts: Sequence[Part]) -> Any:
        """Turns what a range of stages is called with into what its first part takes.

        A family with options, such as an LSTM's ``lengths``, takes them here and in ``leave``.

        Args:
          x: the input.
          parts: those of the range, in order.

        Raises:
          ShapeError: ``x`` has not the rank that the first part takes, or images are too small.
        """
        kind = parts[0].takes if parts else None
        if kind is not None and x.ndim != _AXES[kind].count(",") + 1:
            raise ShapeError(f"{kind} must have shape {_AXES[kind]}, got {list(x.shape)}")
        if kind == "images" and min(x.shape[1:3]) < self.smallest:
            least, (height, width) = self.smallest, x.shape[1:3]
            raise ShapeError(
                f"images must be at least {least} x {least}: layers without padding leave nothing "
                f"of {height} x {width}; resize or pad them"
            )
        return x

    @nn.nowrap
    def leave(self, x: Any, parts: Sequence[Part]) -> Any:
        """Turns what the last part of a range returns into the range's output.

        The arguments are those of ``enter``.
        """
        del parts
        return x

    def __call__(self, x: Any, *, train: bool = False, feature_maps: bool | None = None) -> Any:
        """Computes all parts.

        Args:
          x: inputs, for most families images ``[B, H, W, C]``, floating.
          train: whether norms use the batch's statistics, and values and paths are dropped.
          feature_maps: overrides the field of the name.

        Returns:
          What the last part returns; with ``feature_maps`` a dictionary of the maps
          ``[B, H', W', C']`` in the order of the forward pass (``reductions`` lists them).

        Raises:
          ShapeError: ``x`` has another rank than the first part takes, or its size does not fit.
          TypeError: maps are asked for and the family has none.
        """
        return self.run_stages(x, train=train, feature_maps=feature_maps)

    @nn.compact
    def run_stages(
        self,
        x: Any,
        start: int = 0,
        stop: int | None = None,
        *,
        train: bool = False,
        feature_maps: bool | None = None,
        **options: Any,
    ) -> Any:
        """Computes the stages ``start`` to ``stop`` of ``stages()``.

        Args:
          x: inputs, or what the stage before returns.
          start: number of the first stage.
          stop: number of the first one that is left out; None for none.
          train: as for a call.
          feature_maps: whether to return the maps that are complete within the range.
          **options: of the family, such as an LSTM's ``lengths``.

        Returns:
          What the last of these stages returns, or with ``feature_maps`` the maps.

        Raises:
          ShapeError: ``x`` does not fit the first of the stages.
          TypeError: maps are asked for and the family has none, or an option is unknown.
          ValueError: maps are asked for and none is complete within the range.
        """
        every = list(self.parts())
        names = list(dict.fromkeys(part.name for part in every))[start:stop]
        parts = [part for part in every if part.name in names]
        wants_maps = self.feature_maps if feature_maps is None else feature_maps
        if wants_maps:
            self._check_maps(every, parts)
        # A plain dictionary comes out of jit sorted by its keys.
        maps: OrderedDict[str, jax.Array] = OrderedDict()
        x = self.enter(x, parts, **options)
        for part in parts:
            x = as_residual(self._compute(part, x, train))
            if isinstance(x, jax.Array):
                # Else a CPU computes it again in each block that adds to it, and those behind.
                x = written(x)
            if wants_maps and part.map is not None:
                maps[part.map] = x if part.view is None else part.view(x)
        return maps if wants_maps else self.leave(x, parts, **options)

    @nn.nowrap
    def _compute(self, part: Part, x: Any, train: bool) -> Any:
        kind: Any = _module_class(part.run)
        if kind is None:
            return part.run(x, train)
        fields = functools.partial(part.run)
        module = self.stored(kind, part.remat)(*fields.args, **fields.keywords, name=part.name)
        if part.context is not None:
            return module(x, train, *part.context(x, train))
        return module(x, train) if _takes_train(kind) else module(x)

    @nn.nowrap
    def stored(self, kind: Any, remat: Any) -> Any:
        """A block's class that stores what the backward pass wants as ``Part.remat`` says.

        Args:
          kind: a Linen module class, called with ``(x, train)`` and more.
          remat: as ``Part.remat``.
        """
        # Initialisation has no backward pass.
        if not remat or self.is_initializing():
            return kind
        policy = None if remat is True else as_remat_policy(remat)
        # Whether a block trains decides what is traced, so that ``train``, the third argument with
        # the module itself, is static.
        return nn.remat(kind, static_argnums=(2,), policy=policy)

    @nn.nowrap
    def _check_maps(self, every: Sequence[Part], parts: Sequence[Part]) -> None:
        """Raises an error where no map is complete within the parts."""
        if not any(part.map for part in every):
            raise TypeError(f"a {type(self).__name__} has no stages to give feature maps of")
        if not any(part.map for part in parts):
            names = dict.fromkeys(part.name for part in parts)
            raise ValueError(f"no map is complete within {', '.join(names)}")


def _module_class(run: Callable[..., Any]) -> type[nn.Module] | None:
    """The Linen module class that ``run`` builds, or None where it is another callable."""
    kind = getattr(run, "func", run)
    return kind if isinstance(kind, type) and issubclass(kind, nn.Module) else None


@functools.lru_cache(maxsize=512)
def _takes_train(kind: Any) -> bool:
    return "train" in inspect.signature(kind.__call__).parameters


def tokens_to_map(tokens: jax.Array, height: int, width: int, prefix: int = 0) -> jax.Array:
    """Tokens ``[B, prefix + H * W, C]`` on their grid, ``[B, H, W, C]``.

    Args:
      tokens: row by row, behind the prefix.
      height: rows of the grid.
      width: columns of the grid.
      prefix: how many tokens stand before them, such as the class token and registers.

    Raises:
      ShapeError: the number of tokens is another one.
    """
    if tokens.ndim != 3 or tokens.shape[1] != prefix + height * width:
        raise ShapeError(
            f"tokens must have shape [B, {prefix + height * width}, C] for a grid of {height} x "
            f"{width} and {prefix} before it, got {list(tokens.shape)}"
        )
    return tokens[:, prefix:].reshape(tokens.shape[0], height, width, tokens.shape[-1])
