"""What users ask of the zoo: ``get`` a model, ``list`` the names, ``info`` about one."""

from __future__ import annotations

import builtins
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from flaxzoo._explain import check_options, explained
from flaxzoo._warnings import warn
from flaxzoo._words import TIMM
from flaxzoo.errors import CheckpointError
from flaxzoo.layers.lowering.initialise import variable_shapes
from flaxzoo.licences import LicenceWarning, has_licence, licence_of
from flaxzoo.model import Model, initialise_missing
from flaxzoo.models import catalog
from flaxzoo.models.build import Request, build, counted, entry_width, find
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import MODELS, Architecture
from flaxzoo.precision import as_policy
from flaxzoo.registry import matching
from flaxzoo.spec import ModelSpec
from flaxzoo.weights.pretrained import Source, load, open_source

__all__ = ["get", "info", "list"]


@explained
def get(
    name: str,
    *,
    pretrained: bool | str | os.PathLike[str] = False,
    num_classes: int | None = None,
    input_shape: tuple[int, ...] | None = None,
    in_channels: int | None = None,
    classes: Sequence[str] | None = None,
    rng: Any = 0,
    precision: Any = None,
    **config: Any,
) -> Model:
    """Builds a model by name.

    Args:
      name: of an architecture, ``"resnet50"``, or of one with its weights' tag,
        ``"resnet50.a1_in1k"``.
      pretrained: True for the weights of the tag (without one, of the default tag), from the
        package or from the Hub; ``"hf:org/repo[@revision]"`` for a repository of the Hub;
        ``"jax_resnet"``, ``"flaxmodels"`` or ``"efficientnet_lite_pytorch"`` for that package's
        weights; the path of a ``.safetensors``, ``.pth``, ``.h5`` or ``.npz`` file, or of a
        directory that ``Model.save``, ``Model.save_pretrained`` or timm wrote, whose configuration
        then holds where the arguments below say nothing else; False for none, and then
        ``variables`` is None until ``init``.
      num_classes: width of the classifier; 0 returns the features before it, ``[B, C]``. With
        pretrained weights of another width the classifier is freshly initialised, and only it
        (with weights of a backbone alone, all of the head); by default it is theirs.
      input_shape: of one example, where it is not the architecture's or the weights' own.
      in_channels: of images ``[H, W, in_channels]``; the kernel of pretrained weights is summed or
        repeated to fit.
      classes: their names, in the order of the outputs; they give ``num_classes``, too.
      rng: an int seed or a key, for a freshly initialised classifier of a pretrained model.
      precision: in which the model computes, ``"bfloat16"``; see ``Model.with_precision``. Its
        parameters stay float32.
      **config: what the architecture takes besides; ``info`` and a wrong keyword's error list it.
        ``param_dtype`` is the dtype of the parameters, float32 by default, also where a file holds
        another one, which a warning then says.

    Returns:
      A ``flaxzoo.Model``. A ``LicenceWarning`` names weights that may not be used commercially.

    Raises:
      UnknownNameError: (a KeyError) no such architecture or tag; it lists the closest ones.
      UnknownArgumentError: (a TypeError) a keyword that the architecture does not take.
      DownloadError: (an OSError) the weights can't be downloaded.
      CheckpointError: the weights are missing, damaged or of another model.
      ValueError: ``num_classes`` is not an int of at least 0, ``input_shape`` no sequence of
        sizes, or a field of the architecture holds what it does not take.

    Example:
      >>> model = get("cnn", num_classes=2, input_shape=(32, 32, 3)).init(rng=0)
    """
    if not isinstance(pretrained, bool | str | os.PathLike) and pretrained is not None:
        raise TypeError(
            f"pretrained must be True, False, the name of a source or a path, got {pretrained!r}"
        )
    policy = as_policy(precision)
    architecture, tag = find(name)
    config = MODELS.current_keywords(architecture.name, config, warn=True)
    own = [key for key in config if key not in TIMM]
    whose = f"model {architecture.name!r}"
    check_options(get, own, MODELS.parameters(architecture.name), whose, what="models.get")
    request = Request(
        num_classes, input_shape, in_channels, None if classes is None else tuple(classes), config
    )
    if pretrained is False or pretrained is None:
        entry = catalog.entry(architecture.name, tag) if tag else {}
        module, spec = build(architecture, request, entry, entry_width(entry))
        return Model(module, None, spec, policy)
    source = open_source(architecture, pretrained, tag)
    model = from_source(architecture, source, request, rng=rng)
    return model if policy is None else model.with_precision(policy)


def from_source(
    architecture: Architecture, source: Source, request: Request, *, rng: Any = 0
) -> Model:
    """Builds a model for weights that have been found; what ``get`` does with ``pretrained``.

    Args:
      architecture: of the model.
      source: the weights.
      request: what was asked for besides.
      rng: an int seed or a key, for a freshly initialised classifier.
    """
    module, spec = build(architecture, request, source.facts, source.width)
    # What can't be built is told before a download.
    shapes = variable_shapes(module, spec.sample())
    if source.facts.get("licence") and not licence_of(source.facts["licence"]).commercial:
        _warn(architecture.name, source.facts)
    weights = source.read()
    fused = getattr(getattr(module, "backbone", None), "fused", None)
    if fused is not None and fused != weights.is_fused(architecture.reference or Reference()):
        if not fused:
            raise CheckpointError(
                f"{weights.source}: these weights are of the form of inference, whose branches are "
                f"one convolution: flaxzoo.models.get({architecture.name!r}, fused=True, ...) "
                "takes them; they can't be taken apart for training"
            )
        plain = dataclasses.replace(request, config={**request.config, "fused": False})
        source = dataclasses.replace(source, read=lambda: weights)
        return from_source(architecture, source, plain, rng=rng).reparameterize()
    variables, missing = load(
        shapes,
        weights,
        module,
        name=architecture.name,
        reference=architecture.reference,
        image_sizes=(source.facts.get("input_shape"), spec.input_shape),
        fresh_classifier=request.num_classes is not None,
        any_channels=request.in_channels is not None or request.input_shape is not None,
        chosen="param_dtype" in request.config,
    )
    model = Model(module, None, spec)
    return model.with_variables(initialise_missing(model, variables, missing, rng))


def _warn(name: str, entry: Any) -> None:
    licence = licence_of(entry["licence"])
    tag = f".{entry['tag']}" if entry.get("tag") else ""
    warn(
        f"the weights {name}{tag} are under the licence {licence.name!r}: {licence.terms}",
        LicenceWarning,
    )


@explained
def list(
    pattern: str = "*", *, pretrained: bool = False, licence: str | None = None
) -> builtins.list[str]:
    """Names of architectures that match a glob, sorted.

    Args:
      pattern: such as ``"resnet*"``.
      pretrained: whether to list ``name.tag`` of the pretrained weights instead.
      licence: lists the pretrained weights whose licence it is: ``"commercial"`` for all that
        allow commercial use, ``"restricted"`` for the others, or a name or glob such as
        ``"apache-2.0"``.

    Raises:
      ValueError: no licence is of that name.
    """
    if not pretrained and licence is None:
        return MODELS.list(pattern)
    keys = sorted(matching((key for key, _ in catalog.weights()), pattern))
    if licence is None:
        return keys
    has_licence("unknown", licence)
    return [key for key in keys if has_licence(catalog.licence(key), licence)]


@explained
def info(name: str) -> ModelSpec:
    """What is known about an architecture or its weights; ``print`` it.

    Parameters and FLOPs that the catalogue does not hold are counted from the layers' shapes. Its
    ``certificate`` says how far the architecture is from timm's.

    Raises:
      UnknownNameError: no such architecture or tag.
    """
    architecture, tag = find(name)
    entry = catalog.entry(architecture.name, tag) if tag else {}
    module, spec = build(architecture, Request(), entry)
    if not tag and spec.tags:
        # Whoever asks for the pretrained model gets the default tag's.
        licence = catalog.entry(architecture.name, None)["licence"]
        spec = dataclasses.replace(spec, licence=licence)
    spec = dataclasses.replace(spec, certificate=catalog.certificate(architecture.name))
    return counted(module, spec)
