"""The ``config.json`` of timm's repositories, written and read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn

from flaxzoo._checks import check_kernel, check_size, check_widths
from flaxzoo._trees import flatten
from flaxzoo.classes import class_names
from flaxzoo.errors import ArgumentError, CheckpointError
from flaxzoo.models import catalog
from flaxzoo.models.build import Request, build, find
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.heads import CLASSIFIERS
from flaxzoo.models.reference import Reference
from flaxzoo.models.registry import MODELS
from flaxzoo.preprocess import Preprocess
from flaxzoo.spec import ModelSpec
from flaxzoo.weights.names import reference_name

# Fields of a backbone that change neither its variables nor what it computes from them.
_NEUTRAL = {"parent", "name", "dtype", "param_dtype", "drop_path", "remat", "zero_init_residual"}
_NEUTRAL |= {"distilled_training"}
_POOLINGS = {
    "auto": "avg",
    "avg": "avg",
    "max": "max",
    "avg+max": "avgmax",
    # Both of a distilled head's tokens: timm calls that "token", too.
    "prefix": "token",
    "token": "token",
    "attention": "map",
}
# What timm's model_args are called here.
_ARGUMENTS = {
    "drop_rate": "dropout",
    "drop_path_rate": "drop_path",
    "output_stride": "output_stride",
    "zero_init_last": "zero_init_residual",
}
# Also read, but in another place than the keywords.
_READ = {"num_classes", "in_chans", "global_pool", "img_size"}
# Fields of a head that weights have left behind.
_FIRST_VALUES = ("kernel_init", "bias_init", "hidden_init", "hidden_bias_init")
_DATA_SETS = {"in1k": "imagenet1k", "in12k": "imagenet12k"}


def reference_of(name: str) -> Reference | None:
    """How an architecture's names relate to its reference's; None if they do not."""
    return MODELS.architecture(name).reference if name in MODELS else None


def to_timm_config(model: Any) -> dict[str, Any] | None:
    """The ``config.json`` from which timm builds ``model``.

    Args:
      model: a ``flaxzoo.Model`` with variables.

    Returns:
      None where timm has no such model: the architecture is not one of timm's, its backbone was
      given other fields than timm's has, or the head is not just pooling and one linear layer.
    """
    spec, module = model.spec, model.module
    reference = reference_of(spec.name)
    if reference is None or reference.package != "timm" or not isinstance(module, Classifier):
        return None
    head, backbone = module.head, module.backbone
    usual: Any = MODELS.get(spec.name)
    differing = _differing(usual.backbone, backbone)
    if differing is None or differing - {"output_stride", "input_shape"}:
        return None
    heads = _differing(usual.head, head)
    if heads is not None and usual.head.distilled and head.distilled:
        # Both have two classifiers, which timm trains apart by a method.
        heads -= {"distilled"}
    unlike = heads is None or heads - {"num_classes", "pooling", "dropout", *_FIRST_VALUES}
    if unlike or head.pooling not in _POOLINGS:
        return None
    leaves = flatten(model.variables or {})
    if any(not path.startswith(("params/", "batch_stats/")) for path in leaves):
        return None
    pooling, usual_pooling = _POOLINGS[head.pooling], _POOLINGS[usual.head.pooling]
    config: dict[str, Any] = {"architecture": spec.name, "num_classes": head.num_classes}
    if head.num_classes:
        config["num_features"] = int(leaves["params/head/fc/kernel"].shape[0])
    config["global_pool"] = pooling
    if spec.classes is not None:
        config["label_names"] = list(spec.classes)
    arguments: dict[str, Any] = {}
    if pooling != usual_pooling:
        arguments["global_pool"] = pooling
    if "input_shape" in differing:
        arguments["img_size"] = list(spec.input_shape[:2])
    if "output_stride" in differing:
        arguments["output_stride"] = backbone.output_stride
    if arguments:
        config["model_args"] = arguments
    config["pretrained_cfg"] = _pretrained_cfg(model, reference, leaves)
    return config


def from_timm_config(config: Mapping[str, Any], source: str) -> tuple[nn.Module, ModelSpec]:
    """The module that timm's ``config.json`` describes, and what is known of it.

    Args:
      config: its content; the older form, without ``pretrained_cfg``, too.
      source: names it in messages.

    Raises:
      CheckpointError: it is not timm's, or asks for a variation that flaxzoo lacks.
      UnknownNameError: the architecture is not in the registry.
      KeyError, TypeError, ValueError: a value is not what its key stands for.
    """
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        raise CheckpointError(
            f"{source}: its config.json is neither flaxzoo's nor timm's: it names no architecture"
        )
    pretrained = config.get("pretrained_cfg", config)
    arguments = config.get("model_args") or {}
    if not isinstance(pretrained, Mapping) or not isinstance(arguments, Mapping):
        raise CheckpointError(
            f"{source}: pretrained_cfg and model_args in its config.json must be objects"
        )
    unknown = [key for key in arguments if key not in _ARGUMENTS and key not in _READ]
    if unknown:
        raise CheckpointError(
            f"{source}: its config.json has model_args that flaxzoo does not read: "
            f"{', '.join(unknown)}"
        )
    classes = arguments.get("num_classes", config.get("num_classes"))
    if classes is None:
        classes = pretrained.get("num_classes", 1000)
    keywords = {_ARGUMENTS[key]: value for key, value in arguments.items() if key in _ARGUMENTS}
    pooling = arguments.get("global_pool", config.get("global_pool"))
    if pooling:
        ours = {timm: name for name, timm in _POOLINGS.items()}
        if pooling not in ours:
            raise CheckpointError(
                f"{source}: its config.json has the global_pool {pooling!r}; flaxzoo reads "
                f"{', '.join(ours)}"
            )
        if pooling != _POOLINGS[_usual_pooling(architecture)]:
            keywords["pooling"] = ours[pooling]
    height, width, channels = _input_shape(pretrained, arguments)
    known, _ = find(architecture)
    shape = (height, width, channels) if "input_shape" in MODELS.parameters(known.name) else None
    request = Request(classes, shape, channels, None, keywords)
    module, spec = build(known, request)
    preprocess = None
    if channels in (1, 3):
        settings = {**pretrained, "input_size": (channels, height, width)}
        preprocess = Preprocess.from_timm(settings)
    tag = _text(pretrained, "tag")
    spec = dataclasses.replace(
        spec,
        tag=tag,
        input_shape=(height, width, channels),
        preprocess=preprocess,
        classes=_classes(config, pretrained, tag, classes),
        licence=_text(pretrained, "license") or "",
        top1=None,
    )
    return module, dataclasses.replace(spec, declared=False)


def _input_shape(
    pretrained: Mapping[str, Any], arguments: Mapping[str, Any]
) -> tuple[int, int, int]:
    """Height, width and channels; an ArgumentError names the entry that is none of these."""
    size = check_widths("input_size", pretrained.get("input_size") or (3, 224, 224))
    if len(size) != 3:
        raise ArgumentError(f"input_size must be three ints of at least 1, got {list(size)}")
    channels, height, width = size
    if arguments.get("img_size"):
        height, width = check_kernel("img_size", arguments["img_size"])
    return height, width, check_size("in_chans", arguments.get("in_chans", channels))


def _text(pretrained: Mapping[str, Any], key: str) -> str | None:
    value = pretrained.get(key)
    if not isinstance(value, str | None):
        raise ArgumentError(f"{key} must be text, got {value!r}")
    return value


def _usual_pooling(architecture: str) -> str:
    usual: Any = MODELS.get(architecture)
    return usual.head.pooling


def _differing(usual: Any, backbone: Any) -> set[str] | None:
    """Fields in which two modules differ, if they are of one class."""
    if type(usual) is not type(backbone):
        return None
    names = {field.name for field in dataclasses.fields(usual)} - _NEUTRAL
    return {name for name in names if getattr(usual, name) != getattr(backbone, name)}


def _pretrained_cfg(model: Any, reference: Reference, leaves: Mapping[str, Any]) -> dict[str, Any]:
    spec = model.spec
    height, width, channels = spec.input_shape or (224, 224, 3)
    settings: dict[str, Any] = {"input_size": [channels, height, width]}
    if spec.preprocess is not None:
        settings |= spec.preprocess.to_timm()
    kernels = [stem for stem in reference.stem if f"params/backbone/{stem}/kernel" in leaves]
    layers = [layer for layer in CLASSIFIERS if f"params/head/{layer}/kernel" in leaves]
    classifiers = [reference.head_name(layer) for layer in layers]
    settings |= {
        "num_classes": model.module.head.num_classes,
        "first_conv": _module_name(kernels[0], reference) if kernels else None,
        "classifier": classifiers if len(classifiers) > 1 else reference.classifier,
    }
    if spec.licence:
        settings["license"] = spec.licence
    return settings


def _module_name(stem: str, reference: Reference) -> str:
    return reference_name(f"params/backbone/{stem}/kernel", reference).removesuffix(".weight")


def _classes(
    config: Mapping[str, Any], pretrained: Mapping[str, Any], tag: Any, count: int
) -> tuple[str, ...] | None:
    """The names of the classes: as written, or those of the data set in the weights' tag."""
    labels = config.get("label_names") or pretrained.get("label_names") or pretrained.get("labels")
    if isinstance(labels, Mapping):
        # From the index, as text in JSON, to the name.
        labels = [labels.get(str(i)) for i in range(count)]
    if isinstance(labels, list | tuple) and len(labels) == count and None not in labels:
        return tuple(str(label) for label in labels)
    if not isinstance(tag, str):
        return None
    name = config["architecture"]
    entry = catalog.entry(name, tag) if tag in catalog.tags(name) else {}
    table = entry.get("classes") or _DATA_SETS.get(tag.rpartition("_")[2])
    names = class_names(table) if isinstance(table, str) else None
    return names if names is not None and len(names) == count else None
