"""A Linen module, its variables and what is known about them, held together."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flaxzoo._calls import apply_module, mode_arguments
from flaxzoo._checks import check_size
from flaxzoo._config import hashable_module
from flaxzoo._explain import assignment_hint, explained, missing_attribute
from flaxzoo._finite import check_finite
from flaxzoo._host import as_host, check_numbers, is_array_like, unmasked
from flaxzoo._inputs import check_inputs
from flaxzoo._meshes import beside
from flaxzoo._pickling import packed, unpacked
from flaxzoo._programs import Jitted
from flaxzoo._random import as_key
from flaxzoo._trees import copied, flatten, plain, prefixes, unflatten
from flaxzoo.errors import DataError
from flaxzoo.images import is_pil
from flaxzoo.layers.lowering.initialise import initialise, variable_shapes
from flaxzoo.layers.reparameterized import fold
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import Head
from flaxzoo.precision import PrecisionPolicy, apply_in, as_policy, widened
from flaxzoo.preprocess import Predictions, model_inputs
from flaxzoo.spec import ModelSpec
from flaxzoo.summary import Summary, summarize
from flaxzoo.tasks import get_task
from flaxzoo.weights import export, saved
from flaxzoo.weights.values import check_floating, in_dtype

_EXTENSION = re.compile(r"\.\w{2,5}$")


@dataclasses.dataclass(frozen=True, eq=False)
class Model:
    """A module with its variables: call it, train it, save it.

    A model is immutable: ``init``, ``replace_head`` and ``with_variables`` return a new one.
    ``module, variables = model`` gives the parts to those who want plain Linen.

    Attributes:
      module: an unbound Linen module.
      variables: its collections (``params``, ``batch_stats``, ...), or None before ``init``.
      spec: what is known about it; made from the module's class where it is not given.
      precision: in which it computes, a ``flaxzoo.PrecisionPolicy`` or what stands for one,
        ``"bfloat16"``; None for what the module and its inputs say by themselves.
    """

    module: nn.Module
    variables: Any = None
    spec: ModelSpec = None  # type: ignore[assignment]
    precision: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.module, nn.Module):
            raise TypeError(
                f"module must be a flax.linen.Module instance, got {type(self.module).__name__}"
                + (
                    f" {self.module.__name__}: call it first"
                    if isinstance(self.module, type)
                    else ""
                )
            )
        object.__setattr__(self, "module", hashable_module(self.module))
        if self.spec is None:
            task = "classification" if isinstance(self.module, Classifier) else "features"
            spec = ModelSpec(name=type(self.module).__name__, task=task)
            object.__setattr__(self, "spec", spec)
        object.__setattr__(self, "precision", as_policy(self.precision))
        if self.variables is not None:
            if not isinstance(self.variables, Mapping) or "params" not in self.variables:
                raise ValueError(
                    "variables must be the collections that module.init returns, "
                    "a mapping with the key 'params'"
                )
            object.__setattr__(self, "variables", plain(self.variables))
            if self.spec.config is not None:
                # No network of the registry computes with others; modules of one's own may.
                check_floating(flatten(self.variables["params"]), repr(self.spec.name))
            if self.precision is not None:
                self.precision.check(self.variables["params"])

    def __iter__(self) -> Iterator[Any]:
        return iter((self.module, self.variables))

    def __repr__(self) -> str:
        if self.variables is None:
            state = "no variables yet"
        else:
            count = sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))
            state = f"{count:,} parameters"
        tag = f".{self.spec.tag}" if self.spec.tag else ""
        state += "" if self.precision is None else f", {self.precision}"
        return f"Model({self.spec.name}{tag}, {type(self.module).__name__}, {state})"

    def __reduce__(self) -> Any:
        # The module's initialisers, and what a user's spec holds, may be functions of any kind.
        parts = packed((self.module, self.spec, self.precision))
        return _restored, (type(self), parts, self.variables)

    def __copy__(self) -> Model:
        return dataclasses.replace(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Model:
        return dataclasses.replace(self, variables=copied(self.variables))

    @explained
    def with_variables(self, variables: Any) -> Model:
        """The same model with other variables."""
        return dataclasses.replace(self, variables=variables)

    @explained
    def with_precision(self, precision: Any) -> Model:
        """The same model, computing in another precision; its variables stay as they are.

        Args:
          precision: ``"float32"``, ``"bfloat16"`` or ``"float16"``; a mapping from patterns over
            modules to these words, ``{"*": "bfloat16", "head": "float32"}``; a
            ``flaxzoo.PrecisionPolicy``; or None for what the module says by itself.

        Raises:
          ArgumentError: (a ValueError) it is none of these.
          UnknownNameError: (a KeyError) a pattern matches no module of the variables.

        Example:
          >>> model.with_precision("bfloat16")(images).dtype
          dtype('float32')
        """
        return dataclasses.replace(self, precision=precision)

    @explained
    def init(self, rng: Any = 0, inputs: Any = None) -> Model:
        """Initialises the variables.

        Args:
          rng: an int seed or a key.
          inputs: one batch of inputs, or their ``jax.ShapeDtypeStruct``; by default zeros of
            ``spec.input_shape``.

        Returns:
          A model with variables; its spec notes the input shape.

        Raises:
          ShapeError: the input shape is not known and ``inputs`` is not given, or the module
            does not take inputs of this shape.
        """
        return self._init(rng, inputs)

    def _init(self, rng: Any, inputs: Any, places: Any = None) -> Model:
        """``init``, with each variable where ``places`` says; see ``initialise``."""
        sample = self._sample(inputs)
        variables = {"params": {}, **initialise(self.module, as_key(rng), sample, places)}
        return dataclasses.replace(self, variables=variables, spec=self.spec.with_inputs(sample))

    @explained
    def shapes(self, inputs: Any = None) -> Any:
        """The variables' shapes and dtypes, without computing or allocating them.

        Args:
          inputs: as for ``init``.

        Returns:
          The tree of variables with a ``jax.ShapeDtypeStruct`` at each leaf.
        """
        if self.variables is not None:
            return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.variables)
        return jax.tree.map(lambda x: x, variable_shapes(self.module, self._sample(inputs)))

    @explained
    def __call__(self, inputs: Any) -> Any:
        """Runs the module for inference, compiled once per input shape.

        Args:
          inputs: what the module takes, already preprocessed; images are ``[B, H, W, C]``.

        Returns:
          The module's output.

        Raises:
          UninitializedError: the model has no variables.
          ShapeError: the inputs do not fit the module or its variables.
        """
        export.require_variables(self)
        if isinstance(inputs, str | os.PathLike):
            raise TypeError(
                f"a model takes arrays, got the path {os.fspath(inputs)!r}: use model.predict"
            )
        if is_array_like(inputs):
            inputs = as_host(inputs, "inputs")
        inputs = unmasked(inputs, "inputs")
        check_numbers(inputs, "inputs", self._texts_hint())
        if self.spec.preprocess is not None and getattr(inputs, "dtype", None) == np.uint8:
            raise TypeError(
                "a model takes images that are preprocessed already, got uint8: use model.predict, "
                "or model.spec.preprocess(images)"
            )
        return _forward(self.module, self.variables, inputs, self.precision)

    @explained
    def features(self, inputs: Any) -> Any:
        """The backbone's output for a batch; the model must be a ``Classifier``."""
        export.require_variables(self)
        self._require_classifier("features")
        inputs = unmasked(inputs, "inputs")
        variables = _part(self.variables, "backbone")
        return _forward(self.module.backbone, variables, inputs, self.precision, "backbone")

    @explained
    def feature_maps(self, inputs: Any) -> dict[str, jax.Array]:
        """The backbone's map after each stage, as a dictionary in the order of the stages.

        Args:
          inputs: images ``[B, H, W, C]``, already preprocessed.

        Returns:
          For a ResNet ``stem`` ``[B, H / 2, W / 2, C0]`` and ``layer1`` (a quarter of the size) to
          ``layer4`` (a 32nd). ``flaxzoo.models.get(name, features=True)`` builds a model that
          returns the same, for use inside a module of your own.

        Raises:
          UninitializedError: the model has no variables.
          TypeError: the model is no ``Classifier``, or its backbone has no stages.
        """
        export.require_variables(self)
        self._require_classifier("feature_maps")
        backbone = self.module.backbone
        if not hasattr(backbone, "feature_maps"):
            raise TypeError(f"a {type(backbone).__name__} has no stages to give feature maps of")
        variables, inputs = _part(self.variables, "backbone"), unmasked(inputs, "inputs")
        backbone = backbone.clone(feature_maps=True)
        return _forward(backbone, variables, inputs, self.precision, "backbone")

    @explained
    def attention_weights(self, inputs: Any) -> dict[str, jax.Array]:
        """How much each token looks at each other, in every attention of the backbone.

        ``flaxzoo.plots.attention`` draws them on the picture.

        Args:
          inputs: images ``[B, H, W, C]``, already preprocessed.

        Returns:
          From the attention's path, ``"blocks_0/attn"``, to float weights ``[B, heads, queries,
          keys]`` that sum to 1 over the keys, in the order of the forward pass. What stands for B
          where windows attend by themselves is their number times that of the images.

        Raises:
          UninitializedError: the model has no variables.
          TypeError: the model is no ``Classifier``, or its backbone has no such weights.
        """
        export.require_variables(self)
        self._require_classifier("attention_weights")
        backbone = self.module.backbone
        # Fused implementations store no weights.
        if getattr(backbone, "implementation", "einsum") != "einsum":
            backbone = backbone.clone(implementation="einsum")
        variables = _part(self.variables, "backbone")
        weights = _attention(backbone, variables, unmasked(inputs, "inputs"), self.precision)
        if not weights:
            raise TypeError(f"a {type(backbone).__name__} has no attention weights to show")
        order = {owner: i for i, owner in enumerate(chain(*backbone.stages().values()))}
        return dict(sorted(weights.items(), key=lambda item: _place(item[0], order)))

    @explained
    def predict(self, inputs: Any, *, top_k: int = 5, batch_size: int = 64) -> Any:
        """Preprocesses, runs in batches and, for classifiers, ranks the classes.

        Args:
          inputs: for a model with ``spec.preprocess``, one or several paths, PIL images or
            ``uint8`` arrays, or a floating batch that is preprocessed already; for others, a
            batch of inputs.
          top_k: how many classes to return for each example.
          batch_size: examples per forward pass.

        Returns:
          ``Predictions`` for a classifier, otherwise the outputs as a NumPy array.

        Raises:
          DataError: the input is empty, or a file is missing or no image.
          ShapeError: the inputs do not fit the model.
          ValueError: ``top_k`` or ``batch_size`` is below 1.
        """
        export.require_variables(self)
        check_size("top_k", top_k)
        check_size("batch_size", batch_size)
        if self.spec.preprocess is not None:
            outputs = self._predict_images(inputs, batch_size)
        else:
            self._refuse_images(inputs)
            inputs = jax.tree.map(_array, inputs, is_leaf=is_array_like)
            inputs = beside(inputs, self.variables)
            check_inputs(self.module, self.variables, inputs)
            leaves = jax.tree.leaves(inputs)
            if not leaves or min(np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in leaves) == 0:
                raise DataError("inputs is empty: there is nothing to predict")
            outputs = run_batches(self, inputs, len(leaves[0]), batch_size)
        if not get_task(self.spec.task).ranked or np.ndim(outputs) != 2:
            return outputs
        return Predictions.from_logits(outputs, min(top_k, outputs.shape[-1]), self.spec.classes)

    def _refuse_images(self, inputs: Any) -> None:
        """Without preprocessing there is no way from a picture to an input."""
        first = inputs
        while isinstance(first, list | tuple | np.ndarray) and np.ndim(first) and len(first):
            first = first[0]
        is_text = isinstance(first, str | bytes)
        ids = jnp.issubdtype(jnp.dtype(self.spec.input_dtype), jnp.integer)
        # A file has an extension; of a module of one's own it is not known what it takes.
        if is_text and (ids or (isinstance(first, str) and not _EXTENSION.search(first))):
            takes = "token ids" if ids else "arrays"
            raise DataError(
                f"model {self.spec.name!r} takes {takes}, got texts: {self._texts_hint()}"
            )
        if is_text or isinstance(first, os.PathLike) or is_pil(first):
            shape = self.spec.input_shape
            batch = "batches" if shape is None else f"[B, {', '.join(map(str, shape))}]"
            raise DataError(
                f"model {self.spec.name!r} has no preprocessing for pictures: pass {batch} of "
                "floats, or set spec.preprocess (flaxzoo.Preprocess, for 1 or 3 channels), as "
                "training on an ImageFolder or ImageCSV does: "
                "flaxzoo.Model(model.module, model.variables, dataclasses.replace(model.spec, "
                "preprocess=images.preprocess))"
            )

    @staticmethod
    def _texts_hint() -> str:
        return (
            "texts become ids with the flaxzoo.data.TextVectorizer that the model was trained "
            "with, model.predict(vectorizer.with_lengths(texts)) or "
            "model.predict(vectorizer(texts)); image files go to model.predict"
        )

    def _predict_images(self, images: Any, batch_size: int) -> Any:
        parts: list[Any] = []
        for batch in self.spec.preprocess.batches(images, batch_size):  # type: ignore[union-attr]
            check_finite(batch, "inputs")
            rows = len(batch)
            if parts:
                # As many rows as the batches before, for which the forward pass is compiled.
                batch = np.concatenate([batch, np.repeat(batch[-1:], batch_size - rows, 0)])
            if not parts:
                self.spec.preprocess.warn_of_scale(batch)  # type: ignore[union-attr]
            parts.append(jax.tree.map(lambda x, n=rows: np.asarray(x)[:n], self(batch)))
        if not parts:
            raise DataError("images is empty: there is nothing to predict")
        return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)

    @explained
    def tabulate(self, rngs: Any = None, inputs: Any = None, **options: Any) -> str:
        """Linen's table of the module, as text; ``summary`` has FLOPs, and is this library's own.

        Args:
          rngs: keys for the initialisation, which only shapes are taken of.
          inputs: a batch to make the table for; by default one example of ``spec.input_shape``.
          **options: of ``flax.linen.Module.tabulate``.
        """
        if inputs is None:
            sample = self.spec.sample()
            inputs = jnp.zeros(sample.shape, sample.dtype)
        mode = mode_arguments(self.module, train=False)
        keys = as_key(0) if rngs is None else rngs
        return self.module.tabulate(keys, inputs, **mode, **options)

    @explained
    def summary(self, inputs: Any = None) -> Summary:
        """The layer table: parameters, bytes, output shapes and FLOPs for one example.

        Args:
          inputs: a batch to make the table for; by default one example of ``spec.input_shape``.
        """
        sample = self._sample(inputs)
        return summarize(self.module, self.shapes(inputs), sample, name=self.spec.name)

    @explained
    def replace_head(
        self, head: nn.Module, *, classes: Sequence[str] | None = None, rng: Any = 0
    ) -> Model:
        """A model with the same backbone and a freshly initialised head.

        Args:
          head: any Linen module that takes the backbone's features.
          classes: the names of its classes, in the order of its outputs.
          rng: an int seed or a key, for the head.

        Raises:
          TypeError: the model is not a ``Classifier``, or ``head`` no module.
          ValueError: ``classes`` are not as many as a ``flaxzoo.models.Head`` has outputs.
        """
        self._require_classifier("replace_head")
        if not isinstance(head, nn.Module):
            raise TypeError(f"head must be a flax.linen.Module instance, got {head!r}")
        module = Classifier(backbone=self.module.backbone, head=head)
        named = None if classes is None else tuple(str(name) for name in classes)
        width = getattr(head, "num_classes", None)
        if named is not None and width not in (None, len(named)):
            raise ValueError(f"the head has {width} outputs, but classes has {len(named)} names")
        fields = _head_fields(head) if type(head) is Head else None
        ours = fields is not None and self.spec.has_config(head=fields)
        spec = dataclasses.replace(
            self.spec,
            # Other heads are not from the registry: what holds them cannot be rebuilt by name.
            config=self.spec.config if ours else None,
            head=fields if ours else None,
            task="features" if width == 0 else "classification",
            classes=named,
            top1=None,
        )
        model = Model(module, None, spec, self.precision)
        if self.variables is None:
            return model
        backbone = _part(self.variables, "backbone")
        fresh = init_head(model, self.variables, rng)
        variables = {
            name: {
                **({"backbone": backbone[name]} if name in backbone else {}),
                **({"head": fresh[name]} if name in fresh else {}),
            }
            for name in (*backbone, *(n for n in fresh if n not in backbone))
        }
        return model.with_variables(variables)

    @explained
    def reparameterize(self, inputs: Any = None) -> Model:
        """The model in the form of inference: where branches were summed, one convolution is left.

        What it computes in inference is the same but for rounding. RepVGG, MobileOne, FastViT,
        GhostNet V3, RepGhost and RepViT have such branches (``flaxzoo.layers.reparameterized``).

        Args:
          inputs: as for ``init``.

        Returns:
          A model whose backbone is ``fused``, or this one if it is already.

        Raises:
          UninitializedError: the model has no variables.
          TypeError: the model is no ``Classifier``, or its backbone has no such branches.
          ArgumentError: (a ValueError) the norms are no BatchNorms.
        """
        export.require_variables(self)
        self._require_classifier("reparameterize")
        backbone = self.module.backbone
        if not hasattr(backbone, "fused"):
            raise TypeError(
                f"a {type(backbone).__name__} has no branches that are one convolution in inference"
            )
        if backbone.fused:
            return self
        folded = fold(backbone, _part(self.variables, "backbone"), self._sample(inputs))
        leaves = flatten(self.variables)
        leaves |= flatten({kind: {"backbone": tree} for kind, tree in folded.items()})
        config = None if self.spec.config is None else {**self.spec.config, "fused": True}
        spec = dataclasses.replace(self.spec, config=config, parameters=None, gflops=None)
        module = Classifier(backbone=backbone.clone(fused=True), head=self.module.head)
        model = Model(module, None, spec, self.precision)
        # In the order of the module's, and without what was folded.
        paths = flatten(model.shapes(inputs))
        return model.with_variables(unflatten({path: leaves[path] for path in paths}))

    @explained
    def save(self, directory: str | os.PathLike[str]) -> None:
        """Writes ``config.json`` and ``model.safetensors`` into a directory.

        Raises:
          UninitializedError: the model has no variables.
          DataError: the directory cannot be written.
        """
        export.require_variables(self)
        saved.save(self.module, self.variables, self.spec, directory)

    @classmethod
    @explained
    def load(
        cls,
        directory: str | os.PathLike[str],
        module: nn.Module | None = None,
        *,
        param_dtype: Any = None,
    ) -> Model:
        """Reads what ``save`` wrote.

        Args:
          directory: where it is.
          module: the module, for one that is not from the registry (a head of your own).
          param_dtype: the dtype of the parameters; None for that in which they were saved.

        Raises:
          CheckpointError: a file is missing, damaged, or of another model, or the module is not
            in the registry and was not given.
        """
        model = cls(*saved.read_saved(directory, module))
        if param_dtype is None:
            return model
        return model.with_variables(in_dtype(model.variables, param_dtype))

    @explained
    def to_torch_state_dict(self, *, as_numpy: bool = False) -> dict[str, Any]:
        """The variables as a PyTorch state dict that timm's model of the name loads strictly.

        It is torchvision's model of the name where timm has none. See
        ``flaxzoo.weights.export.to_torch_state_dict``, also for the errors.
        """
        return export.to_torch_state_dict(self, as_numpy=as_numpy)

    @explained
    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Writes ``model.safetensors`` and ``config.json`` in the form that timm also reads.

        See ``flaxzoo.weights.export.save_pretrained``, also for the errors.
        """
        export.save_pretrained(self, directory)

    @classmethod
    @explained
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        module: nn.Module | None = None,
        revision: str | None = None,
        param_dtype: Any = None,
    ) -> Model:
        """Reads a model from a directory or from a repository of the Hub, ``"org/repo"``.

        See ``flaxzoo.weights.export.from_pretrained``, also for the errors.
        """
        options = {"module": module, "revision": revision, "param_dtype": param_dtype}
        return cls(*export.from_pretrained(source, **options))

    @explained
    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads what ``save_pretrained`` writes and a model card; returns the URL.

        See ``flaxzoo.weights.export.push_to_hub`` for the options and the errors.
        """
        return export.push_to_hub(self, repo_id, **options)

    if not TYPE_CHECKING:
        __getattr__ = missing_attribute

    def _sample(self, inputs: Any) -> Any:
        if inputs is not None:
            return model_inputs(self.spec.preprocess, jax.tree.map(_abstract, inputs))
        return self.spec.sample()

    def _require_classifier(self, what: str) -> None:
        if not isinstance(self.module, Classifier):
            raise TypeError(
                f"{what} needs a Classifier(backbone, head), this model is a "
                f"{type(self.module).__name__}"
            )


def _refuse_assignment(model: Model, name: str, value: Any) -> None:
    hint = assignment_hint(model, name)
    raise dataclasses.FrozenInstanceError(f"a Model never changes: cannot set {name!r}.{hint}")


# A frozen dataclass brings its own, which knows nothing of ``model.trainable = False``.
Model.__setattr__ = _refuse_assignment  # type: ignore[method-assign, assignment]


def _restored(cls: type[Model], data: bytes, variables: Any) -> Model:
    module, spec, *precision = unpacked(data)
    return cls(module, variables, spec, *precision)


def init_head(model: Model, variables: Any, rng: Any) -> Any:
    """Initialises the head of a ``Classifier`` for the backbone's variables.

    Args:
      model: whose spec knows the shape of the inputs.
      variables: with the group ``backbone``, or its shapes.
      rng: an int seed or a key.

    Returns:
      The head's variables, by collection.
    """
    features = jax.eval_shape(
        functools.partial(apply_module, model.module.backbone),
        _part(variables, "backbone"),
        model._sample(None),
    )
    return initialise(model.module.head, as_key(rng), features)


def initialise_missing(model: Model, variables: Any, missing: Sequence[str], rng: Any) -> Any:
    """The variables with those that weights did not provide freshly initialised.

    Args:
      model: without variables.
      variables: that the weights provided.
      missing: paths in the group ``head``, or of auxiliary classifiers; none is initialised where
        there are none.
      rng: an int seed or a key.

    Returns:
      All variables, in the order of the module's.
    """
    if not missing:
        return variables
    if any("/backbone/" in path for path in missing):
        fresh = model.init(rng=rng).variables
    else:
        fresh = {name: {"head": tree} for name, tree in init_head(model, variables, rng).items()}
    leaves, drawn = flatten(variables), flatten(fresh)
    leaves |= {path: drawn[path] for path in missing}
    return unflatten({path: leaves[path] for path in flatten(model.shapes())})


def _head_fields(head: Any) -> dict[str, Any]:
    """The fields of a ``Head`` that are not the default."""
    fields = (
        f for f in dataclasses.fields(head) if f.name not in ("parent", "name", "kernel_init")
    )
    return {f.name: v for f in fields if (v := getattr(head, f.name)) != f.default}


def _part(variables: Any, group: str) -> dict[str, Any]:
    return {name: tree[group] for name, tree in variables.items() if group in tree}


def run_batches(forward: Callable[[Any], Any], inputs: Any, count: int, batch_size: int) -> Any:
    """Runs ``forward`` over slices of ``inputs``, the last one padded so that it compiles once."""
    size = min(batch_size, count)
    parts = []
    for start in range(0, count, size):
        part = jax.tree.map(lambda x, s=start: np.asarray(x[s : s + size]), inputs)
        rows = min(size, count - start)
        if rows < size:
            part = jax.tree.map(
                lambda x, n=size - rows: np.concatenate([x, np.repeat(x[-1:], n, 0)]), part
            )
        parts.append(jax.tree.map(lambda x, n=rows: np.asarray(x)[:n], forward(part)))
    return jax.tree.map(lambda *xs: np.concatenate(xs), *parts)


def _apply(
    module: nn.Module,
    variables: Any,
    inputs: Any,
    precision: PrecisionPolicy | None = None,
    below: str = "",
) -> Any:
    return apply_in(precision, module, variables, inputs, below=below)


_forward = Jitted(_apply, lambda module, *_: (module,), static_argnums=(0, 3, 4))


def _apply_shown(
    module: nn.Module, variables: Any, inputs: Any, precision: PrecisionPolicy | None
) -> dict[str, jax.Array]:
    options: dict[str, Any] = {"below": "backbone", "mutable": ["intermediates"]}
    _, shown = apply_in(precision, module, variables, inputs, **options)
    shown = shown if precision is None else widened(shown)
    leaves = flatten(shown.get("intermediates", {}))
    return {
        path.removesuffix("/attention"): leaf[0]
        for path, leaf in leaves.items()
        if path.endswith("/attention")
    }


_attention = Jitted(_apply_shown, lambda module, *_: (module,), static_argnums=(0, 3))


def _place(path: str, order: Mapping[str, int]) -> tuple[int, str]:
    """Where a module below a backbone stands in the forward pass."""
    owners = [order[prefix] for prefix in prefixes(path) if prefix in order]
    return (max(owners, default=len(order)), path)


def _array(leaf: Any) -> Any:
    """A list of numbers, or a number, as an array of NumPy's; arrays as they are."""
    return leaf if hasattr(leaf, "shape") else as_host(leaf, "inputs")


def _abstract(leaf: Any) -> jax.ShapeDtypeStruct:
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    dtype = leaf.dtype
    if not jnp.issubdtype(dtype, jax.dtypes.extended):
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jax.ShapeDtypeStruct(leaf.shape, dtype)
