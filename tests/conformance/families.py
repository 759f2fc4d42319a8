"""The table of families: for each a tiny configuration, on which every promise is tried.

A new family adds its row here; nothing else in these tests knows which families there are.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import itertools
import operator
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo.layers.gates import SqueezeExcite
from flaxzoo.layers.initializers import plain_bias
from flaxzoo.models.backbone import Backbone
from flaxzoo.models.byobnet import BilinearAttention
from flaxzoo.models.classifier import Classifier
from flaxzoo.models.registry import MODELS, Architecture

CLASSES = 3


@dataclasses.dataclass(frozen=True)
class Kind:
    """A small network of one kind of block, which timm makes as well: ``tests/parity`` reads it.

    Attributes:
      name: of one of the family's architectures.
      fields: that make it small; keywords of ``flaxzoo.models.get``.
      timm: the same in the keywords of ``timm.create_model``; ``img_size`` is added where
        ``input_shape`` is one of the architecture's fields.
      input_shape: of the images.
      create: what makes timm's, called with the name and keywords, where ``timm.create_model``
        does not take these.
      depths: whether timm says which parameters are of one depth.
      rounding: the largest relative difference of a loss in float64: that of float32 where timm
        keeps constants in float32.
    """

    name: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    timm: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    input_shape: tuple[int, int, int] = (32, 48, 3)
    create: Callable[..., Any] | None = None
    depths: bool = True
    rounding: float = 1e-9


@dataclasses.dataclass(frozen=True)
class Family:
    """A small model of a family.

    Attributes:
      name: of one of its architectures.
      fields: that make it tiny; keywords of ``flaxzoo.models.get``.
      input_shape: of one example.
      other_shape: another one that the same variables take; None where there is none.
      refused_shape: one that the model refuses with a ``ShapeError``.
      random: fields that make training draw random numbers.
      kinds: a small network for each kind of block that timm has, too.
      cropped: whether layers without padding make maps smaller than the image divided by their
        reduction.
    """

    name: str
    fields: Mapping[str, Any]
    input_shape: tuple[int, ...]
    other_shape: tuple[int, ...] | None = None
    refused_shape: tuple[int, ...] = (7,)
    random: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    kinds: tuple[Kind, ...] = ()
    cropped: bool = False

    @property
    def architecture(self) -> Architecture:
        """What the registry knows of the name."""
        return MODELS.architecture(self.name)

    def takes(self, *keywords: str) -> bool:
        """Whether ``flaxzoo.models.get`` takes keywords for this family."""
        return set(keywords) <= set(MODELS.parameters(self.name))


_RANDOM = {"dropout": 0.5, "drop_path": 0.5}
_PLAIN = {"width": 24, "depth": 2, "heads": 3}
_PLAIN_TIMM = {"embed_dim": 24, "depth": 2, "num_heads": 3}
_PYRAMID = {
    "layers": (2, 2),
    "widths": (8, 12),
    "heads": (1, 2),
    "key_strides": (2, 1),
    "mlp_ratios": (2, 2),
}
_PYRAMID_TIMM = {
    "depths": (2, 2),
    "embed_dims": (8, 12),
    "num_heads": (1, 2),
    "sr_ratios": (2, 1),
    "mlp_ratios": (2, 2),
}
_UNITS = {"layers": (1, 2), "width": 16, "window_attention": (True, False)}
_UNITS_TIMM = {
    "stages": (1, 2),
    "embed_dim": 16,
    "mask_unit_attn": (True, False),
    "mask_unit_size": (2, 2),
    "q_pool": 1,
}

_WINDOWS = {"width": 12, "heads": (1, 2), "layers": (2, 2), "window_size": 3}
_WINDOWS_TIMM = {
    "embed_dim": 12,
    "num_heads": (1, 2),
    "depths": (2, 2),
    "window_size": 3,
    "drop_path_rate": 0.0,
}

_DUAL = {"widths": (8, 12), "heads": (1, 2), "layers": (1, 2), "window_size": 3}
_DUAL_TIMM = {"embed_dims": (8, 12), "num_heads": (1, 2), "depths": (1, 2), "window_size": 3}

_DENSE = {
    "layers": (1, 2, 1),
    "growths": (8, 8, 16),
    "halving": (False, True, False),
    "gated": (False, False, True),
}
_DENSE_TIMM = {
    "num_blocks_list": (1, 2, 1),
    "growth_rates": (8, 8, 16),
    "is_downsample_block": (None, True, False),
    "block_type": ("Block", "Block", "BlockESE"),
}

_EDGE = {
    "layers": (1, 2),
    "widths": (8, 16),
    "attending": (0, 1),
    "heads": (2, 2),
    "scales": (2, 3),
    "positions": (False, True),
}
# timm's are of four stages.
_EDGES = {
    "layers": (1, 1, 2, 2),
    "widths": (8, 8, 16, 16),
    "attending": (0, 1, 1, 1),
    "heads": (2, 2, 2, 4),
    "scales": (2, 2, 3, 4),
    "positions": (False, True, False, False),
}
_EDGES_TIMM = {
    "depths": (1, 1, 2, 2),
    "dims": (8, 8, 16, 16),
    "global_block_counts": (0, 1, 1, 1),
    "heads": (2, 2, 2, 4),
    "d2_scales": (2, 2, 3, 4),
    "use_pos_emb": (False, True, False, False),
}
_COATNET = {
    "layers": (1, 2),
    "widths": (16, 24),
    "stem_widths": (8, 16),
    "blocks": ("conv", "transformer"),
    "head_dim": 8,
}
_COATNET_TIMM = {
    "depths": (1, 2),
    "embed_dim": (16, 24),
    "stem_width": (8, 16),
    "block_type": ("C", "T"),
    "transformer_dim_head": 8,
}
_MAXVIT = {
    "stem_widths": (8, 16),
    "blocks": ("max", "max"),
    "head_dim": 8,
    "widths": (16, 32),
    "layers": (1, 1),
    "partition_ratio": 16,
}
_MAXVIT_TIMM = {
    "stem_width": (8, 16),
    "block_type": ("M", "M"),
    "transformer_dim_head": 8,
    "embed_dim": (16, 32),
    "depths": (1, 1),
    "transformer_partition_ratio": 16,
}

_HALF = functools.partial(SqueezeExcite, ratio=0.5, rounding=1, bias_init=plain_bias)

_SEQUENCES = {
    "layers": (1, 2),
    "widths": (8, 12),
    "units": (4, 6),
    "patch_sizes": (4, 2),
    "mlp_ratios": (2.0, 3.0),
}


_ONE_SHOT = {
    "layers": (1, 1, 2, 1),
    "convs": 2,
    "widths": (8, 12, 16, 16),
    "block_widths": (8, 8, 12, 12),
    "stem_widths": (8, 8, 12),
}
_ONE_SHOT_TIMM = {
    "block_per_stage": [1, 1, 2, 1],
    "layer_per_block": 2,
    "stage_out_chs": [8, 12, 16, 16],
    "stage_conv_chs": [8, 8, 12, 12],
    "stem_chs": [8, 8, 12],
}


def _aggregated(name: str, levels: Any = (1, 1, 1, 2, 1, 1), **groups: int) -> Kind:
    """A small network of trees; its fields but the groups' number are called as timm's."""
    widths = (8, 8, 16, 16, 24, 24)
    timm = {"cardinality" if key == "groups" else key: n for key, n in groups.items()}
    timm |= {"levels": levels, "channels": widths}
    return Kind(name, {"layers": levels, "widths": widths, **groups}, timm, (32, 64, 3))


def _dual(name: str, width: int) -> Kind:
    """A small dual path network, whose widths timm fixes."""
    layers, growths = (1, 2, 1, 1), (4, 6, 8, 8)
    fields = {"layers": layers, "growths": growths, "block_width": width, "groups": 4}
    return Kind(name, fields, {"k_sec": layers, "inc_sec": growths, "k_r": width, "groups": 4})


def _partial(
    name: str, stem: Any, layers: tuple[int, ...], widths: tuple[int, ...], **groups: Any
) -> Kind:
    """A small CSPNet, whose sizes timm has in a table."""

    def create(name: str, **options: Any) -> Any:
        module: Any = importlib.import_module("timm.models.cspnet")
        usual = module.model_cfgs[name]
        stages = dataclasses.replace(usual.stages, depth=layers, out_chs=widths, **groups)
        small = dataclasses.replace(usual.stem, out_chs=stem)
        return module.CspNet(dataclasses.replace(usual, stem=small, stages=stages), **options)

    fields = {"layers": layers, "widths": widths, "stem_widths": stem, **groups}
    return Kind(name, fields, {}, create=create)


_BRANCHES = {
    "layers": (2, 1, 1, 2),
    "modules": (1, 2, 1),
    "width": 4,
    "first_width": 4,
    "head_widths": (2, 3, 4, 5),
    "head_features": 8,
}


def _small_hrnet(name: str, *, num_classes: int) -> Any:
    """The reference, whose head's sizes are fixed there."""
    nn: Any = importlib.import_module("torch.nn")
    module: Any = importlib.import_module("timm.models.hrnet")
    config = dict(module.cfg_cls["hrnet_w18"])
    for i, (modules, blocks) in enumerate(zip((1, 1, 2, 1), _BRANCHES["layers"], strict=True), 1):
        widths = tuple(4 * 2**j for j in range(i))
        sizes = {"num_modules": modules, "num_blocks": (blocks,) * i, "num_channels": widths}
        config[f"stage{i}"] = {**config[f"stage{i}"], **sizes}
    bias = not name.endswith("_ssld")
    network = module.HighResolutionNet(config, num_classes=num_classes)
    widths, block = _BRANCHES["head_widths"], module.Bottleneck
    network.incre_modules = nn.ModuleList(
        network._make_layer(block, 4 * 2**i, width, 1) for i, width in enumerate(widths)
    )

    def joined(inputs: int, outputs: int, size: int, stride: int) -> Any:
        conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=bias)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    pairs = itertools.pairwise(widths)
    network.downsamp_modules = nn.ModuleList(joined(4 * a, 4 * b, 3, 2) for a, b in pairs)
    network.final_layer = joined(4 * widths[-1], _BRANCHES["head_features"], 1, 1)
    network.classifier = nn.Linear(_BRANCHES["head_features"], num_classes)
    network.init_weights()
    return network


def _plain(*names: str, rounding: float = 1e-9) -> tuple[Kind, ...]:
    """Vision transformers of one width."""
    return tuple(Kind(name, _PLAIN, _PLAIN_TIMM, rounding=rounding) for name in names)


def _global_context(_name: str, **options: Any) -> Any:
    """The reference's class itself: timm's functions of names take no other depths."""
    return importlib.import_module("timm.models.gcvit").GlobalContextVit(**options)


def _small_nest(name: str, **options: Any) -> Any:
    """The reference of other sizes than its functions have."""
    module: Any = importlib.import_module("timm.models.nest")
    padding = "same" if name.endswith("_jx") else ""
    return module._create_nest(name, drop_path_rate=0.0, pad_type=padding, **options)


def _small_nextvit(name: str, **options: Any) -> Any:
    """The reference of two stages: timm's class takes no other channels."""
    import timm

    nextvit, torch = map(importlib.import_module, ("timm.models.nextvit", "torch"))
    own = {"stem_chs": (8, 8, 16), "depths": (1, 1, 5, 1), "drop_path_rate": 0.0}
    reference = timm.create_model(name, **own, **options)
    kinds = (nextvit.NextConvBlock, nextvit.NextTransformerBlock)
    stage = functools.partial(nextvit.NextStage, head_dim=16, mix_block_ratio=0.75)
    reference.stages = torch.nn.Sequential(
        stage(16, [32], kinds[:1], stride=1),
        stage(32, [48, 48, 128], (*kinds[:1] * 2, kinds[1]), sr_ratio=2),
    )
    reference.norm = torch.nn.BatchNorm2d(128)
    reference.head = nextvit.ClassifierHead(128, options["num_classes"])
    reference.feature_info = [{"reduction": 4}, {"reduction": 8}]
    reference._initialize_weights()
    return reference


def _small_bit(name: str, **options: Any) -> Any:
    """The reference: BiT's functions take no layers."""
    module = importlib.import_module("timm.models.resnetv2")
    return module._create_resnetv2_bit(name, **options)


def _small_hybrid(name: str, **options: Any) -> Any:
    """The reference on a network of two stages, or on narrower convolutions."""
    hybrid = importlib.import_module("timm.models.vision_transformer_hybrid")
    if name == "vit_base_mci_224":
        sizes: dict[str, Any] = {"kernel_size": (4, 2, 2), "stride": (4, 2, 2), "padding": 0}
        gelu = importlib.import_module("torch").nn.GELU
        trunk = hybrid.ConvStem(channels=(6, 6, 24), act_layer=gelu, **sizes)
        options |= {"no_embed_class": True, "embed_args": {"proj": False}}
    elif "resnet26d" in name:
        trunk = hybrid.resnet26d(layers=(1, 1, 1, 1), features_only=True, out_indices=[2])
    else:
        trunk = hybrid._resnetv2((1, 1))
    return hybrid._create_vision_transformer_hybrid(name, backbone=trunk, **options)


def _of_wide_attention(name: str, **options: Any) -> Any:
    """The reference, whose linear attention is of its inputs' dtype: timm's is float32."""
    import timm

    def attended(epsilon: float, q: Any, k: Any, v: Any) -> Any:
        sums = q @ (k.transpose(-1, -2) @ v)
        return sums[..., :-1] / (sums[..., -1:] + epsilon)

    reference = timm.create_model(name, **options)
    for module in reference.modules():
        if hasattr(module, "_attn"):
            module._attn = functools.partial(attended, module.eps)
    return reference


def _small_mobilevit(name: str, **options: Any) -> Any:
    """The reference of three stages: timm's functions take no other structure."""
    byobnet, mobilevit = map(
        importlib.import_module, ("timm.models.byobnet", "timm.models.mobilevit")
    )
    bottlenecks, second = mobilevit._inverted_residual_block, "v2" in name
    kind = mobilevit._mobilevitv2_block if second else mobilevit._mobilevit_block
    own = {} if second else {"transformer_dim": 24, "patch_size": 2, "br": 2.0}
    config = dataclasses.replace(
        mobilevit.model_cfgs[name],
        stem_chs=8,
        num_features=0 if second else 32,
        blocks=(
            bottlenecks(d=1, c=8, s=1, br=2.0),
            bottlenecks(d=2, c=8, s=2, br=2.0),
            kind(d=1, c=16, s=2, transformer_depth=2, **own),
        ),
    )
    return byobnet.ByobNet(config, **options)


_DEPTHWISE = {"gs": 1, "block_kwargs": {"num_conv_branches": 2}}
_POINTWISE = {"gs": 0, "block_kwargs": {"kernel_size": 1, "num_conv_branches": 2}}
_SE = {"attn_layer": "se"}
# What attends is told by the fields ``attention`` and ``attending``.
_BYOB_KINDS = {"bottle": "bottleneck", "self_attn": "bottleneck"}


_HALO = (("block", 2), ("halo", 1), ("heads", 2))
_HALO_OF_3 = (("block", 3), ("halo", 1), ("heads", 2), ("ratio", 0.5))


def _byob(name: str, *stages: Any, fields: Mapping[str, Any], **timm: Any) -> Kind:
    """A small network of the given blocks: kind, channels, stride and timm's other words."""
    kinds = [stage[0][0] for stage in stages]
    usual = {
        "kinds": tuple(_BYOB_KINDS.get(kind, kind) for kind in kinds),
        "layers": tuple(map(len, stages)),
        "strides": tuple(stage[0][2] for stage in stages),
        "group_sizes": (0,) * len(stages),
        "ratios": (1.0,) * len(stages),
    }
    blocks = [[{"type": t, "d": 1, "c": c, "s": s, **own} for t, c, s, own in st] for st in stages]
    return Kind(name, {**usual, **fields}, {"blocks": blocks, **timm}, create=_small_byobnet)


def _small_byobnet(name: str, *, blocks: Any, **options: Any) -> Any:
    """The reference of few blocks: timm's functions take no other structure."""
    byobnet, byoanet = (importlib.import_module(f"timm.models.{m}") for m in ("byobnet", "byoanet"))
    stages = tuple(tuple(byobnet.ByoBlockCfg(**block) for block in stage) for stage in blocks)
    configs = {**byobnet.model_cfgs, **byoanet.model_cfgs}
    # Sizes stand in the names of some functions, and of fewer configurations.
    config = configs.get(name) or configs[name.removesuffix("_256")]
    config = dataclasses.replace(config, blocks=stages)
    reference = byobnet.ByobNet(config, **options)
    for module in reference.modules():
        if hasattr(module, "v") and hasattr(module, "groups"):
            module.forward = functools.partial(_wide_evo_norm, module)
    return reference


def _wide_evo_norm(module: Any, x: Any) -> Any:
    """EvoNorm S0a of its inputs' dtype: timm's statistics are float32."""
    groups = x.reshape(len(x), module.groups, -1)
    deviation = (groups.var(2, unbiased=False, keepdim=True) + module.eps).sqrt()
    gated = x if module.v is None else x * (x * module.v.view(1, -1, 1, 1)).sigmoid()
    y = (gated.reshape(groups.shape) / deviation).reshape(x.shape)
    return y * module.weight.view(1, -1, 1, 1) + module.bias.view(1, -1, 1, 1)


def _of_true_reductions(name: str, **options: Any) -> Any:
    """The reference, which says 2 of a first map that is a quarter of the image."""
    import timm

    reference = timm.create_model(name, **options)
    reference.feature_info[0]["reduction"] = 4
    return reference


def _small_repghost(_name: str, **options: Any) -> Any:
    """The reference of few blocks: timm's functions say themselves which."""
    return importlib.import_module("timm.models.repghost").RepGhostNet(**options)


def _small_vitamin(name: str, *, layers: Any, widths: Any, **options: Any) -> Any:
    """The reference of other convolutions: timm's functions say themselves what they are."""
    import timm

    vitamin = importlib.import_module("timm.models.vitamin")
    sizes = (*widths, options["embed_dim"])
    config = vitamin.VitCfg(embed_dim=sizes, depths=(*layers, 1), stem_width=widths[0])
    return timm.create_model(name, embed_cfg=config, **options)


def _without_position_dropout(name: str, **options: Any) -> Any:
    """The reference, whose network of positions drops nothing: timm has no keyword for that."""
    import timm

    reference = timm.create_model(name, **options)
    for module in reference.modules():
        if hasattr(module, "meta_mlp"):
            module.meta_mlp.drop1.p = 0.0
    return reference


def _small_convmixer(name: str, **options: Any) -> Any:
    """The reference of other sizes, which timm's functions do not take."""
    del name
    convmixer = importlib.import_module("timm.models.convmixer")
    nn = importlib.import_module("torch.nn")
    act = getattr(nn, options.pop("act_layer", "GELU"))
    return convmixer.ConvMixer(act_layer=act, **options)


def _small_nasnet(name: str, **options: Any) -> Any:
    """The reference's cells of each kind, narrow: timm's class makes twenty, of fixed widths."""
    del name
    nasnet, nn = map(importlib.import_module, ("timm.models.nasnet", "torch.nn"))
    first, width = functools.partial(nasnet.FirstCell, pad_type="same"), 8
    kinds = ("FirstCell", "NormalCell", "ReductionCell0", "ReductionCell1")
    with mock.patch.multiple(nasnet, **dict.fromkeys(kinds, nn.Identity)):
        net = nasnet.NASNetALarge(stem_size=width, num_features=24 * width, **options)
    net.cell_0 = first(width, width // 2, 2 * width, width)
    net.reduction_cell_0 = nasnet.ReductionCell0(16, 16, 48, 16, pad_type="same")
    net.cell_1 = first(2 * width, width, 8 * width, 2 * width)
    blocks = [(r"^cell_(\d+)", None), (r"^reduction_cell_0", (1,))]
    return _of_cells(net, ("conv0", "cell_0", "reduction_cell_0", "cell_1"), 12 * width, blocks)


def _small_pnasnet(name: str, **options: Any) -> Any:
    """The same of PNASNet, whose stem is as wide as those of the name, too."""
    del name
    pnasnet, nn = map(importlib.import_module, ("timm.models.pnasnet", "torch.nn"))
    own, width = {"pad_type": "same", "match_prev_layer_dims": True}, 8
    with mock.patch.multiple(pnasnet, CellStem0=nn.Identity, Cell=nn.Identity):
        net = pnasnet.PNASNet5Large(**options)
    net.conv_0 = pnasnet.ConvNormAct(
        3, width, 3, stride=2, padding=0, norm_kwargs={"eps": 1e-3}, apply_act=False
    )
    net.cell_stem_0 = pnasnet.CellStem0(width, 2, width, 2, pad_type="same")
    net.cell_stem_1 = pnasnet.Cell(width, 4, 10, 4, is_reduction=True, **own)
    net.cell_0 = pnasnet.Cell(10, width, 20, width, **own)
    return _of_cells(net, ("conv_0", "cell_0"), 5 * width, r"^cell_(\d+)")


def _of_cells(net: Any, names: tuple[str, ...], width: int, blocks: Any) -> Any:
    """A network of its stem and some of its cells, the first of which ends a stage."""
    names = (names[0], "cell_stem_0", "cell_stem_1", *names[1:])
    for name in list(net._modules):
        if "cell" in name and name not in names:
            delattr(net, name)
    net.layer_names = list(names)
    taps = dict.fromkeys((names[0], "cell_stem_0", "cell_0", names[-1]))
    net.feature_ends = [names.index(name) for name in taps]
    net.feature_info = net.feature_info[: len(taps)]
    net.num_features = width
    net.reset_classifier(net.num_classes)
    stem = rf"^{names[0]}|cell_stem_[01]"
    net.group_matcher = lambda coarse=False: {"stem": stem, "blocks": blocks}
    net.forward_features = lambda x: net.forward_intermediates(x)[0]
    return net


def _small_selecsls(name: str, **options: Any) -> Any:
    """The reference's class itself, whose stem is as wide as those of the names."""
    del name
    module: Any = importlib.import_module("timm.models.selecsls")
    blocks = [(8, 0, 8, 8, True, 2), (8, 8, 8, 12, False, 1)]
    blocks += [(12, 0, 12, 12, True, 2), (12, 12, 12, 12, False, 1), (12, 12, 12, 16, False, 1)]
    maps = {"stem.2": 2, "features.1": 4, "features.4": 8, "head.1": 16}
    config = {
        "block": module.SelecSlsBlock,
        "features": blocks,
        "head": [(16, 24, 3, 2), (24, 16, 1, 1)],
        "feature_info": [{"module": key, "reduction": n} for key, n in maps.items()],
        "num_features": 16,
    }
    net = module.SelecSls(config, **options)
    net.stem = module.conv_bn(3, 8, stride=2)
    importlib.import_module("torch.nn.init").kaiming_normal_(net.stem[0].weight, mode="fan_out")
    return net


def _of_two_blocks(name: str, **options: Any) -> Any:
    """The reference's first two blocks: timm's functions of some names take no depth."""
    import timm

    reference = timm.create_model(name, **options)
    reference.blocks, reference.feature_info = reference.blocks[:2], reference.feature_info[:2]
    return reference


def _metaformer(name: str, **options: Any) -> Kind:
    """A MetaFormer: timm's functions of these names take neither depths nor widths.

    Args:
      name: of the architecture.
      **options: its keywords in timm, classes of its module by name.
    """

    def of(module: Any, value: Any) -> Any:
        if isinstance(value, tuple):
            return [of(module, item) for item in value]
        return operator.attrgetter(value)(module) if isinstance(value, str) else value

    def create(name: str, **others: Any) -> Any:
        module: Any = importlib.import_module("timm.models.metaformer")
        own = {key: of(module, value) for key, value in options.items()}
        return module._create_metaformer(name, **own, **others)

    sizes = {"widths": (8, 12, 16, 24), "layers": (1, 1, 1, 1)}
    fields = {**sizes, **{key: options[key] for key in ("head_dim",) if key in options}}
    timm = {"dims": sizes["widths"], "depths": sizes["layers"]}
    return Kind(name, fields, timm, create=create, depths=False)


def _mvit(name: str) -> Kind:
    """An MViT v2, whose sizes timm has in a table."""

    def create(name: str, depths: Any, embed_dim: int, num_heads: int, **options: Any) -> Any:
        module: Any = importlib.import_module("timm.models.mvitv2")
        usual = module.model_cfgs[name]
        own = {"expand_attn": usual.expand_attn, "use_cls_token": usual.use_cls_token}
        sizes = {"depths": depths, "embed_dim": embed_dim, "num_heads": num_heads}
        return module.MultiScaleVit(module.MultiScaleVitCfg(**sizes, **own), **options)

    fields = {"layers": (1, 2, 1, 1), "width": 16, "heads": 2}
    timm = {"depths": fields["layers"], "embed_dim": 16, "num_heads": 2}
    return Kind(name, fields, timm, (64, 64, 3), create=create)


_GATED = {
    "layers": (1, 1, 5),
    "widths": (8, 12, 16),
    "attention_groups": (0, 0, 1),
    "key_reductions": (1, 1, 2),
}
_GATED_TIMM = {
    "depths": (1, 1, 5),
    "dims": (8, 12, 16),
    "attn_groups": (0, 0, 1),
    "attn_head_dim_reduction": (0, 0, 2),
}
_FOCAL_LARGE = {"use_post_norm": True, "use_overlap_down": True, "layerscale_value": 1e-4}


def _focal(name: str, levels: int, window: int, **options: Any) -> Kind:
    """A FocalNet: timm's functions of these names take neither depths nor widths."""

    def create(_name: str, **others: Any) -> Any:
        module: Any = importlib.import_module("timm.models.focalnet")
        return module.FocalNet(drop_path_rate=0.0, **options, **others)

    sizes = {"layers": (1, 2), "width": 8}
    fields = {**sizes, "levels": (levels,) * 2, "windows": (window,) * 2}
    timm = {"depths": (1, 2), "embed_dim": 8}
    timm |= {"focal_levels": fields["levels"], "focal_windows": fields["windows"]}
    return Kind(name, fields, timm, create=create)


def _volo(name: str) -> Kind:
    """A VOLO: timm's functions of these names take neither layers nor widths."""

    def create(name: str, **options: Any) -> Any:
        return importlib.import_module("timm.models.volo")._create_volo(name, **options)

    fields = {"layers": (2, 1, 1), "widths": (8, 12), "heads": (2, 3), "stem_width": 8}
    timm = {"layers": fields["layers"], "embed_dims": (8, 12, 12), "num_heads": (2, 3, 3)}
    return Kind(name, fields, {**timm, "stem_hidden_dim": 8}, create=create)


def _residual(*names: str) -> tuple[Kind, ...]:
    """Networks of timm's class of ResNets."""
    sizes = {"layers": (1, 2, 1, 1), "widths": (16, 16, 32, 32)}
    timm = {"layers": sizes["layers"], "channels": sizes["widths"]}
    return tuple(Kind(name, sizes, timm) for name in names)


def _senet(name: str, block: str, timm: Any = None, **fields: Any) -> Kind:
    """A SENet of an eighth of the width, whose gates lose half: timm's class has one width."""

    def create(_name: str, **options: Any) -> Any:
        senet: Any = importlib.import_module("timm.models.senet")
        torch: Any = importlib.import_module("torch")

        class Narrow(senet.SENet):
            def _make_layer(self, block: Any, planes: int, *args: Any, **keywords: Any) -> Any:
                return super()._make_layer(block, planes // 8, *args, **keywords)

        kind = getattr(senet, block)
        reference: Any = Narrow(kind, reduction=2, drop_rate=0.0, **{"groups": 1, **options})
        reference.last_linear = torch.nn.Linear(64 * kind.expansion, options["num_classes"])
        return reference

    sizes = {"layers": (1, 2, 1, 1), "widths": (8, 16, 32, 64), "gate": _HALF}
    own = {"layers": sizes["layers"], **(timm or {})}
    return Kind(name, {**sizes, **fields}, own, create=create)


def _regnet(name: str, **fields: Any) -> Kind:
    """A RegNet of six blocks, whose sizes timm has in a table."""

    def create(name: str, num_classes: int, **sizes: Any) -> Any:
        module: Any = importlib.import_module("timm.models.regnet")
        config = dataclasses.replace(module.model_cfgs[name], **sizes)
        zero = "regnetz" not in name
        return module.RegNet(config, num_classes=num_classes, zero_init_last=zero)

    sizes = {"layers": (1, 1, 2, 2), "widths": (8, 16, 24, 40), "group_size": 4}
    timm = {"depth": 6, "w0": 8, "wa": 8.0, "wm": 1.5, "group_size": 4}
    return Kind(name, {**sizes, **fields}, timm, create=create)


def _mobile(name: str, blocks: Any, network: str = "EfficientNet", **own: Any) -> Kind:
    """A small network of mobile blocks, whose lines timm reads as we do.

    Args:
      name: of the architecture.
      blocks: the lines of each stage.
      network: timm's class.
      **own: fields of ours and, as ``timm``, keywords of timm's class.
    """

    def create(_name: str, *, num_classes: int, **keywords: Any) -> Any:
        module: Any = importlib.import_module(f"timm.models.{network.lower()}")
        layers: Any = importlib.import_module("timm.layers")
        act = layers.get_act_layer(keywords.pop("act_layer", "silu"))
        if keywords.pop("hard", False):
            # The gates of MobileNet V3.
            options = {"gate_layer": "hard_sigmoid", "rd_round_fn": module.round_channels}
            options["force_act_layer"] = layers.get_act_layer("relu")
            keywords["se_layer"] = functools.partial(module.SqueezeExcite, **options)
        lines = module.decode_arch_def([list(stage) for stage in blocks])
        keywords = {"stem_size": 8, "num_features": 16, "act_layer": act, **keywords}
        own_widths = functools.partial(module.round_channels, multiplier=None)
        return getattr(module, network)(lines, num_classes, round_chs_fn=own_widths, **keywords)

    timm = own.pop("timm", {})
    sizes = {"stem_width": 8, "head_width": 16, "activation": "silu"}
    return Kind(name, {"blocks": blocks, **sizes, **own}, timm, create=create)


def _mobile_v5(name: str, blocks: Any, **own: Any) -> Kind:
    """A small MobileNet V5, likewise."""

    def create(_name: str, *, num_classes: int, **keywords: Any) -> Any:
        module: Any = importlib.import_module("timm.models.mobilenetv5")
        lines = module.decode_arch_def([list(stage) for stage in blocks])
        usual = {"stem_size": 8, "num_features": 16, "msfa_output_resolution": 2}
        own_widths = functools.partial(module.round_channels, multiplier=None)
        options = {**usual, "layer_scale_init_value": 1e-5, **keywords}
        return module.MobileNetV5(lines, num_classes, round_chs_fn=own_widths, **options)

    sizes = {"stem_width": 8, "fusion_width": 16, "fusion_size": 2}
    timm = own.pop("timm", {})
    return Kind(name, {"blocks": blocks, **sizes, **own}, timm, create=create)


def _ghost(name: str) -> Kind:
    """A small GhostNet: timm's functions of these names take no blocks."""

    def create(name: str, **options: Any) -> Any:
        module = importlib.import_module("timm.models.ghostnet")
        version = {"ghostnet_100": "v1", "ghostnetv2_100": "v2", "ghostnetv3_100": "v3"}[name]
        # Its dropout is no module, which the comparison of a training step could leave out.
        return module.GhostNet(version=version, drop_rate=0.0, **options)

    blocks = (((3, 8, 8, 0, 1),), ((5, 12, 12, 0.25, 2),), ((3, 16, 12, 0, 1), (3, 16, 16, 0, 2)))
    # timm counts the layer behind the pooling as the last block's: its own test has the others.
    return Kind(name, {"blocks": blocks}, {"cfgs": blocks}, create=create, depths=False)


def _hgnet(name: str, fields: Mapping[str, Any]) -> Kind:
    """A small PP-HGNet, whose stages timm has in a table."""

    def create(name: str, **options: Any) -> Any:
        module = importlib.import_module("timm.models.hgnet")
        version = "v1" if fields["stem"] == "plain" else "v2"
        table: dict[str, Any] = {"stem_type": version, "stem_chs": list(fields["stem_widths"])}
        before = fields["stem_widths"][-1]
        for i, width in enumerate(fields["widths"]):
            inner, count, light = (
                fields[field][i] for field in ("inner_widths", "layers", "light")
            )
            size = fields["kernel_sizes"][i]
            own = [before, inner, width, count, i > 0, light, size, fields["convolutions"]]
            table[f"stage{i + 1}"], before = own, width
        affine = fields.get("affine", False)
        return module.HighPerfGpuNet(table, use_lab=affine, head_hidden_size=20, **options)

    return Kind(name, {**fields, "head_width": 20}, create=create)


def _nfnet(name: str, **fields: Any) -> Kind:
    """A small network without norms."""
    sizes = {"layers": (1, 2, 1, 2), "widths": (16, 24, 32, 40), "stem_width": 16}
    timm = {"depths": sizes["layers"], "channels": sizes["widths"], "stem_chs": 16}
    names = {"group_size": "group_size", "head_width": "num_features"}
    timm |= {theirs: fields[ours] for ours, theirs in names.items() if ours in fields}
    return Kind(name, {**sizes, **fields}, timm)


def _aligned(name: str) -> Kind:
    """An aligned Xception, whose blocks timm has as keywords."""
    widths = ((8, 12, 12), (12, 12, 16))
    last = {"in_chs": 12, "out_chs": widths[1], "stride": 1, "no_skip": True}
    blocks = [
        {"in_chs": 64, "out_chs": 6, "stride": 2},
        {"in_chs": 6, "out_chs": 8, "stride": 2},
        {"in_chs": 8, "out_chs": 8, "stride": 1},
        {"in_chs": 8, "out_chs": widths[0], "stride": 2},
        last if name.endswith("p") else {**last, "start_with_relu": False},
    ]
    fields = {"widths": (6, 8), "strides": (2, 2), "layers": 1, "exit_widths": widths}
    return Kind(name, fields, {"block_cfg": blocks})


def _narrow(by: int, prepare: Callable[[Any], None] | None = None) -> Callable[..., Any]:
    """The reference with a fraction of its channels: functions of some names take no widths.

    Args:
      by: what all channels but those of images and classes are divided by.
      prepare: called with the reference, takes blocks out.
    """

    def create(name: str, **options: Any) -> Any:
        import torch

        from flaxzoo.verify import reference_network

        def conv(self: Any, inside: int, out: int, *args: Any, **others: Any) -> None:
            if others.get("groups", 1) > 1:
                others["groups"] //= by
            inside = inside if inside == 3 else inside // by
            whole[torch.nn.Conv2d](self, inside, out // by, *args, **others)

        def norm(self: Any, channels: int, *args: Any, **others: Any) -> None:
            whole[torch.nn.BatchNorm2d](self, channels // by, *args, **others)

        def linear(self: Any, inside: int, out: int, *args: Any, **others: Any) -> None:
            out = out if out == options["num_classes"] else out // by
            whole[torch.nn.Linear](self, inside // by, out, *args, **others)

        narrow = {torch.nn.Conv2d: conv, torch.nn.BatchNorm2d: norm, torch.nn.Linear: linear}
        whole = {kind: kind.__init__ for kind in narrow}
        with contextlib.ExitStack() as stack:
            for kind, init in narrow.items():
                stack.enter_context(mock.patch.object(kind, "__init__", init))
            reference = reference_network(name, **options)
        if prepare is not None:
            prepare(reference)
        return reference

    return create


def _small_shufflenet(name: str, **options: Any) -> Any:
    """The reference of one stage of two blocks and two of one."""
    from flaxzoo.verify import with_maps

    module: Any = importlib.import_module("torchvision.models.shufflenetv2")
    reference = module.ShuffleNetV2([2, 1, 1], [8, 12, 16, 24, 32], **options)
    return with_maps(reference, ("conv1", "maxpool", "stage2", "stage3", "stage4"), "fc")


def _few_xception(reference: Any) -> None:
    """One block in the middle: the last one takes the place behind it."""
    nothing = importlib.import_module("torch").nn.Identity()
    reference.block5 = reference.block12
    for i in range(6, 13):
        setattr(reference, f"block{i}", nothing)
    reference.feature_ends = [0, 1, 2, 4, 5]


def _few_inception_v3(reference: Any) -> None:
    """Two blocks of the first kind, so that the next one fits, and one of each other."""
    for name in ("5d", "6c", "6d", "6e", "7c"):
        setattr(reference, f"Mixed_{name}", importlib.import_module("torch").nn.Identity())


def _few_inception_v4(reference: Any) -> None:
    """One block of each kind."""
    kept = (0, 1, 2, 3, 4, 5, 6, 10, 11, 18, 19)
    reference.features = type(reference.features)(*(reference.features[i] for i in kept))
    reference.stage_ends = [2, 3, 6, 8, 10]


def _few_inception_resnet_v2(reference: Any) -> None:
    """One block of each kind, and the last one."""
    for name in ("repeat", "repeat_1", "repeat_2"):
        setattr(reference, name, getattr(reference, name)[:1])


FAMILIES: dict[str, Family] = {
    "alexnet": Family(
        "alexnet",
        {"widths": (4, 8, 8, 8, 8), "hidden": 16},
        (63, 70, 3),
        (80, 63, 3),
        (62, 70, 3),
        {"dropout": 0.5},
        cropped=True,
        kinds=(
            Kind(
                "alexnet",
                {"widths": (4, 12, 24, 16, 16), "hidden": 256},
                input_shape=(63, 95, 3),
                create=_narrow(16),
                depths=False,
            ),
        ),
    ),
    "autoencoder": Family(
        "conv_autoencoder", {"features": (4, 6), "latent_dim": 5}, (8, 8, 1), None, (8, 9, 1)
    ),
    "beit": Family(
        "beit_base_patch16_224",
        {"patch_size": 8, "width": 8, "depth": 2, "heads": 2},
        (16, 24, 3),
        None,
        (24, 16, 3),
        {"attention_dropout": 0.5, "block_dropout": 0.5, **_RANDOM},
        kinds=_plain("beit_base_patch16_224"),
    ),
    "cait": Family(
        "cait_xxs24_224",
        {"patch_size": 8, "width": 8, "depth": 2, "class_depth": 1, "heads": 2, "layer_scale": 0.5},
        (16, 24, 3),
        None,
        (24, 16, 3),
        {
            "position_dropout": 0.5,
            "attention_dropout": 0.5,
            "block_dropout": 0.5,
            **_RANDOM,
        },
        kinds=_plain("cait_xxs24_224"),
    ),
    "cnn": Family(
        "cnn",
        {"features": (4, 6), "hidden": (8,), "batch_norm": True},
        (16, 16, 3),
        None,
        (2, 16, 3),
        {"dropout": 0.5},
    ),
    "convit": Family(
        "convit_tiny",
        {"patch_size": 8, "width": 8, "depth": 2, "local_depth": 1, "heads": 2},
        (16, 24, 3),
        None,
        (24, 16, 3),
        {
            "position_dropout": 0.5,
            "attention_dropout": 0.5,
            "block_dropout": 0.5,
            **_RANDOM,
        },
        # timm's positions are those of square grids.
        kinds=(
            Kind(
                "convit_tiny",
                # More heads than a square of them.
                {**_PLAIN, "heads": 6, "local_depth": 1},
                {"embed_dim": 4, "depth": 2, "num_heads": 6, "local_up_to_layer": 1},
                (48, 48, 3),
            ),
        ),
    ),
    "convmixer": Family(
        "convmixer_768_32",
        {"width": 8, "depth": 2, "kernel_size": 3, "patch_size": 4},
        (16, 16, 3),
        (24, 16, 3),
        (16, 16),
        {"dropout": 0.5},
        kinds=tuple(
            Kind(
                name,
                {"width": 12, "depth": 2, "kernel_size": size},
                {"dim": 12, "depth": 2, "kernel_size": size, "patch_size": patch, **act},
                (42, 56, 3),
                create=_small_convmixer,
            )
            for name, size, patch, act in (
                ("convmixer_768_32", 5, 7, {"act_layer": "ReLU"}),
                ("convmixer_1024_20_ks9_p14", 3, 14, {}),
            )
        ),
    ),
    "convnext": Family(
        "convnext_atto",
        {"layers": (2, 1), "widths": (8, 12), "kernel_sizes": (7, 5)},
        (16, 16, 3),
        (24, 16, 3),
        (16, 16),
        _RANDOM,
        kinds=tuple(
            Kind(
                name,
                {"layers": (1, 2, 1, 1), "widths": (8, 12, 16, 24)},
                {"depths": (1, 2, 1, 1), "dims": (8, 12, 16, 24)},
            )
            for name in ("convnext_atto_ols", "convnextv2_atto", "convnext_tiny", "convnext_xlarge")
        ),
    ),
    "crossvit": Family(
        "crossvit_tiny_240",
        {
            "scales": (1.0, 2 / 3),
            "patch_sizes": (6, 8),
            "layers": ((1, 2), (1, 1)),
            "widths": (8, 12),
            "heads": (1, 2),
        },
        (24, 36, 3),
        None,
        (36, 24, 3),
        {
            "position_dropout": 0.5,
            "attention_dropout": 0.5,
            "block_dropout": 0.5,
            **_RANDOM,
        },
        kinds=tuple(
            Kind(
                name,
                # Not resized, which has weights of single precision.
                {
                    "scales": (1.0, 1.0),
                    "layers": ((1, 2), (1, 1)),
                    "widths": (12, 16),
                    "heads": (2, 2),
                },
                {
                    "img_scale": (1.0, 1.0),
                    "depth": ((1, 2, 0), (1, 1, 0)),
                    "embed_dim": (12, 16),
                    "num_heads": (2, 2),
                },
                (48, 48, 3),
            )
            for name in ("crossvit_tiny_240", "crossvit_9_dagger_240")
        ),
    ),
    "cspnet": Family(
        "cs3se_edgenet_x",
        {"layers": (1, 2), "widths": (8, 12), "stem_widths": (4, 8)},
        (32, 48, 3),
        (47, 31, 3),
        random=_RANDOM,
        kinds=(
            _partial("cspresnet50", (8,), (1, 2, 1, 1), (8, 12, 16, 16)),
            _partial("cspdarknet53", (8,), (1, 2, 1, 1, 1), (8, 12, 16, 16, 16)),
            _partial("darknetaa53", (8,), (1, 2, 1, 1, 1), (8, 12, 16, 16, 16)),
            _partial("cs3darknet_focus_s", (8,), (1, 2, 1, 1), (8, 12, 16, 16)),
            _partial("cs3se_edgenet_x", (6, 8), (1, 2, 1, 1), (8, 12, 16, 16)),
            _partial(
                "cs3sedarknet_xdw", (6, 8), (1, 2, 1, 1), (16, 16, 16, 32), groups=(1, 1, 4, 8)
            ),
        ),
    ),
    "cspnext": Family(
        "cspnext_tiny",
        {"layers": (1, 1), "widths": (4, 8)},
        (32, 48, 3),
        (47, 31, 3),
        random=_RANDOM,
        kinds=(
            Kind(
                "cspnext_tiny",
                {"layers": (1, 2, 1, 1), "widths": (8, 12, 16, 16)},
                {
                    "depths": (1, 2, 1, 1),
                    "channels": (8, 12, 16, 16),
                    "deepen_factor": 1.0,
                    "widen_factor": 1.0,
                },
                # Of a last map of 1 x 2, XLA without its optimisations loses gradients of pools
                # over pools behind a BatchNorm.
                (64, 96, 3),
            ),
        ),
    ),
    "davit": Family(
        "davit_tiny",
        {"widths": (8, 12), "heads": (1, 2), "layers": (1, 1), "window_size": 3},
        (16, 24, 3),
        (20, 16, 3),
        (16, 16),
        _RANDOM,
        kinds=(
            Kind("davit_tiny", _DUAL, _DUAL_TIMM),
            Kind("davit_base_fl", _DUAL, _DUAL_TIMM),
        ),
    ),
    "deit": Family(
        "deit_tiny_distilled_patch16_224",
        {"patch_size": 8, "width": 8, "depth": 2, "heads": 2, "layer_scale": 0.5},
        (16, 16, 3),
        None,
        (24, 16, 3),
        {"patch_dropout": 0.5, "attention_dropout": 0.5, "block_dropout": 0.5, **_RANDOM},
        kinds=_plain("deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"),
    ),
    "densenet": Family(
        "densenet121",
        {"layers": (2, 1), "growth": 8, "bottleneck": 2},
        (16, 24, 3),
        (32, 24, 3),
        (16, 16),
        {"block_dropout": 0.5, "dropout": 0.5},
        kinds=tuple(
            Kind(
                name,
                {"layers": (2, 1, 2), "growth": 8, "bottleneck": 2},
                {"block_config": (2, 1, 2), "growth_rate": 8, "bn_size": 2},
            )
            for name in ("densenet121", "densenetblur121d")
        ),
    ),
    "dla": Family(
        "dla60x_c",
        {"layers": (1, 1, 1, 2), "widths": (8, 8, 16, 16), "groups": 2, "base_width": 32},
        (16, 32, 3),
        (32, 16, 3),
        (36, 32, 3),
        random={"dropout": 0.5},
        kinds=(
            _aggregated("dla34"),
            _aggregated("dla46x_c", levels=(1, 1, 1, 2, 3, 1), groups=2, base_width=32),
            _aggregated("dla102"),
            _aggregated("dla60_res2net"),
            _aggregated("dla60_res2next", groups=2, base_width=16),
        ),
    ),
    "dpn": Family(
        "dpn68b",
        {
            "layers": (1, 2),
            "widths": (8, 16),
            "growths": (4, 6),
            "block_width": 8,
            "groups": 2,
            "stem_width": 6,
        },
        (32, 48, 3),
        (47, 31, 3),
        random={"dropout": 0.5},
        kinds=tuple(_dual(name, width) for name, width in (("dpn48b", 16), ("dpn92", 8))),
    ),
    "edgenext": Family(
        "edgenext_xx_small",
        {**_EDGE, "kernel_sizes": (3, 5), "layer_scale": 0.5},
        (16, 24, 3),
        (24, 16, 3),
        random={"attention_dropout": 0.5, "block_dropout": 0.5, **_RANDOM},
        kinds=(
            Kind("edgenext_xx_small", _EDGES, _EDGES_TIMM, (64, 96, 3), rounding=1e-7),
            Kind(
                "edgenext_small_rw",
                {**_EDGES, "layers": (1, 2, 2, 2)},
                {**_EDGES_TIMM, "depths": (1, 2, 2, 2)},
                (64, 96, 3),
                rounding=1e-7,
            ),
        ),
    ),
    "efficientformer": Family(
        "efficientformer_l1",
        {"layers": (1, 2), "widths": (8, 12), "mlp_ratio": 2.0, "layer_scale": 0.5},
        (16, 16, 3),
        None,
        (24, 16, 3),
        {"block_dropout": 0.5, **_RANDOM},
        kinds=(
            Kind(
                "efficientformer_l1",
                {"layers": (1, 1, 1, 3), "widths": (8, 12, 16, 24), "attending": 2},
                {"depths": (1, 1, 1, 3), "embed_dims": (8, 12, 16, 24), "num_vit": 2},
                (224, 224, 3),
            ),
        ),
    ),
    "efficientformer_v2": Family(
        "efficientformerv2_s0",
        {
            "layers": (1, 1, 1, 1),
            "widths": (4, 4, 4, 8),
            "mlp_ratios": (2, 2, 2, 2),
            "attending": 1,
            "heads": 2,
            "layer_scale": 0.5,
        },
        (32, 32, 3),
        None,
        (64, 32, 3),
        {"block_dropout": 0.5, **_RANDOM},
        kinds=(
            Kind(
                "efficientformerv2_s0",
                {
                    "layers": (1, 1, 2, 2),
                    "widths": (8, 12, 16, 24),
                    "mlp_ratios": (2, 2, (3, 2), 2),
                    "attending": 1,
                },
                {
                    "depths": (1, 1, 2, 2),
                    "embed_dims": (8, 12, 16, 24),
                    "mlp_ratios": (2, 2, (3, 2), 2),
                    "num_vit": 1,
                },
                (64, 96, 3),
            ),
        ),
    ),
    "efficientnet": Family(
        "test_efficientnet",
        {
            "blocks": (("ds_c8_se0.25",), ("ir_s2_e2_c12_se0.25", "er_e2_c12", "mqa_h2_d4_c12")),
            "stem_width": 8,
            "head_width": 16,
        },
        (16, 16, 3),
        (24, 16, 3),
        random=_RANDOM,
        kinds=(
            _mobile(
                "efficientnet_b0",
                (
                    ("cn_r1_k3_s1_c8_skip",),
                    ("ds_r2_k3_s2_c8_se0.25",),
                    ("er_r2_k3_s2_e2_c16_se0.25",),
                    ("ir_r2_k5_s2_e3_c16_se0.25", "ir_r1_k3_s1_e2_c24_noskip_nre"),
                ),
            ),
            _mobile(
                "tf_efficientnet_cc_b0_4e",
                (("ds_r1_k3_s1_c8",), ("ir_r2_k3_s2_e2_c8_se0.25_cc4",)),
                padding="SAME",
                norm_epsilon=None,
                timm={"pad_type": "same"},
            ),
            _mobile(
                "mixnet_s",
                (("ds_r1_k3_s2_c8",), ("ir_r2_k3.5.7_a1.1_p1.1_s2_e3_c16_se0.5",)),
                activation="relu",
                timm={"act_layer": "relu"},
            ),
            _mobile(
                "efficientnet_x_b3",
                (
                    ("ds_r2_k3_s1_c8_se0.25_d1",),
                    ("er_r2_k3_s2_e4_c16_se0.25",),
                    ("ir_r1_k3_s2_e2_c16",),
                ),
            ),
            _mobile(
                "mobilenetv1_100",
                (("dsa_r1_k3_s1_c8",), ("dsa_r2_k3_s2_c16",)),
                head_width=None,
                timm={"num_features": 0},
            ),
        ),
    ),
    "efficientvit_mit": Family(
        "efficientvit_b0",
        {
            "layers": (1, 1),
            "widths": (8, 16),
            "kinds": ("fused", "attention"),
            "expansions": (2, 2),
            "down_expansions": (2, 2),
            "head_width": 8,
            "classifier_widths": (16, 24),
        },
        (16, 24, 3),
        (24, 16, 3),
        random=_RANDOM,
        kinds=(
            Kind(
                "efficientvit_b0",
                {
                    "layers": (1, 0, 2),
                    "widths": (8, 16, 16),
                    "kinds": ("inverted", "inverted", "attention"),
                    "expansions": (4, 4, 4),
                    "down_expansions": (4, 4, 4),
                    "head_width": 8,
                    "classifier_widths": (24, 32),
                },
                {
                    "depths": (1, 2, 1, 2),
                    "widths": (8, 8, 16, 16),
                    "head_dim": 8,
                    "head_widths": (24, 32),
                },
                (64, 96, 3),
                create=_of_wide_attention,
            ),
            Kind(
                "efficientvit_l1",
                {
                    "layers": (1, 1, 1, 1),
                    "widths": (8, 8, 8, 16),
                    "stem_width": 8,
                    "head_width": 8,
                    "classifier_widths": (24, 32),
                },
                {
                    "depths": (1, 1, 1, 1, 1),
                    "widths": (8, 8, 8, 8, 16),
                    "head_dim": 8,
                    "head_widths": (24, 32),
                },
                (64, 96, 3),
                create=_of_wide_attention,
            ),
        ),
    ),
    "efficientvit_msra": Family(
        "efficientvit_m0",
        {
            "layers": (1, 1),
            "widths": (16, 24),
            "heads": (2, 2),
            "key_dims": (4, 4),
            "windows": (2, 2),
            "kernel_sizes": (3, 3),
        },
        (32, 32, 3),
        (48, 32, 3),
        random=_RANDOM,
        kinds=(
            Kind(
                "efficientvit_m0",
                {
                    "layers": (1, 2),
                    "widths": (16, 24),
                    "heads": (2, 3),
                    "key_dims": (4, 4),
                    "windows": (3, 3),
                },
                {
                    "depth": (1, 2),
                    "embed_dim": (16, 24),
                    "num_heads": (2, 3),
                    "key_dim": (4, 4),
                    "window_size": (3, 3),
                },
                (64, 96, 3),
            ),
        ),
    ),
    "eva": Family(
        "vit_small_patch16_rope_mixed_ape_224",
        {"patch_size": 8, "width": 16, "depth": 2, "heads": 2, "layer_scale": 0.5},
        (16, 24, 3),
        None,
        (24, 16, 3),
        {
            "patch_dropout": 0.5,
            "rope_jitter": 2.0,
            "attention_dropout": 0.5,
            "block_dropout": 0.5,
            **_RANDOM,
        },
        kinds=(
            Kind("eva_giant_patch14_224", _PLAIN, _PLAIN_TIMM, (28, 42, 3)),
            Kind("eva02_tiny_patch14_224", _PLAIN, _PLAIN_TIMM, (28, 42, 3), rounding=1e-6),
            Kind("eva02_base_patch16_clip_224", _PLAIN, _PLAIN_TIMM, rounding=1e-6),
            Kind("eva02_enormous_patch14_clip_224", _PLAIN, _PLAIN_TIMM, (28, 42, 3)),
            Kind(
                "vit_pe_core_base_patch16_224",
                {**_PLAIN, "pool_heads": 2},
                {**_PLAIN_TIMM, "attn_pool_num_heads": 2},
                rounding=1e-6,
            ),
            Kind("vit_small_patch16_rope_mixed_ape_224", _PLAIN, _PLAIN_TIMM, rounding=1e-6),
            Kind("vit_small_plus_patch16_dinov3_qkvb", _PLAIN, _PLAIN_TIMM, rounding=1e-6),
            Kind(
                "vit_large_patch16_sapiens2",
                {**_PLAIN, "key_heads": (3, 1), "rope_rescale": None},
                {**_PLAIN_TIMM, "num_kv_heads": (3, 1), "rope_rescale_coords": 1.0},
                rounding=1e-6,
            ),
        ),
    ),
    "fasternet": Family(
        "fasternet_t0",
        {"layers": (2, 1), "width": 8, "head_width": 12},
        (16, 16, 3),
        (24, 16, 3),
        (16, 16),
        _RANDOM,
        kinds=(
            Kind(
                "fasternet_t0",
                {"layers": (1, 2), "width": 16, "head_width": 24},
                {"depths": (1, 2), "embed_dim": 16, "feature_dim": 24, "drop_path_rate": 0.0},
                # The hidden layer behind the pooling is timm's last block's, here the head's.
                depths=False,
            ),
            Kind(
                "fasternet_t2",
                {"layers": (1, 1), "width": 16, "head_width": 24, "layer_scale": 0.5},
                {
                    **{"depths": (1, 1), "embed_dim": 16, "feature_dim": 24},
                    **{"drop_path_rate": 0.0, "layer_scale_init_value": 0.5},
                },
                depths=False,
            ),
        ),
    ),
    "fastvit": Family(
        "fastvit_sa12",
        {
            "layers": (1, 1),
            "widths": (8, 8),
            "mlp_ratios": (1, 1),
            "mixers": ("convolution", "attention"),
            "gated": (False, True),
            "head_width": 4,
        },
        (16, 24, 3),
        (24, 24, 3),
        (24, 24),
        {"block_dropout": 0.5, "attention_dropout": 0.5, "drop_path": 0.5},
        kinds=tuple(
            Kind(
                name,
                {"layers": count, "widths": widths, "mlp_ratios": count},
                {"layers": count, "embed_dims": widths, "mlp_ratios": count},
            )
            for name, count, widths in (
                ("fastvit_t8", (1,) * 4, (8, 8, 8, 8)),
                ("fastvit_mci0", (1,) * 4, (8, 8, 16, 32)),
                ("fastvit_mci3", (1,) * 5, (8, 8, 8, 32, 32)),
            )
        ),
    ),
    "gcvit": Family(
        "gcvit_small",
        {
            "layers": (2, 2),
            "width": 8,
            "heads": (1, 2),
            "window_ratios": (8, 8),
            "layer_scale": 0.5,
        },
        (16, 24, 3),
        None,
        (24, 16, 3),
        {"attention_dropout": 0.5, "block_dropout": 0.5, **_RANDOM},
        kinds=(
            Kind(
                "gcvit_xxtiny",
                {"layers": (2, 2), "width": 16, "heads": (1, 2), "window_ratios": (16, 8)},
                {
                    "depths": (2, 2),
                    "embed_dim": 16,
                    "num_heads": (1, 2),
                    "window_ratio": (16, 8),
                },
                create=_global_context,
            ),
            Kind(
                "gcvit_small",
                {
                    "layers": (2, 1),
                    "width": 16,
                    "heads": (1, 2),
                    "window_size": ((2, 3), (4, 6)),
                    "layer_scale": 0.5,
                },
                {
                    "depths": (2, 1),
                    "embed_dim": 16,
                    "num_heads": (1, 2),
                    "window_size": ((2, 3), (4, 6)),
                    "mlp_ratio": 2,
                    "layer_scale": 0.5,
                },
                create=_global_context,
            ),
        ),
    ),
    "focalnet": Family(
        "focalnet_tiny_srf",
        {"width": 8, "layers": (1, 1), "levels": (2, 1), "windows": (3, 3), "post_norm": True},
        (16, 24, 3),
        (20, 16, 3),
        (16, 16),
        {"block_dropout": 0.5, **_RANDOM},
        kinds=(
            _focal("focalnet_tiny_srf", 2, 3),
            _focal("focalnet_large_fl3", 3, 5, **_FOCAL_LARGE),
            _focal("focalnet_huge_fl4", 4, 3, use_post_norm_in_modulation=True, **_FOCAL_LARGE),
        ),
    ),
    "ghostnet": Family(
        "ghostnetv3_050",
        {
            "blocks": (((3, 8, 8, 0, 1),), ((3, 12, 8, 0.25, 2),), ((3, 16, 12, 0, 1),)),
            "head_width": 16,
        },
        (16, 24, 3),
        (24, 16, 3),
        random={"dropout": 0.5},
        kinds=(_ghost("ghostnet_100"), _ghost("ghostnetv2_100"), _ghost("ghostnetv3_100")),
    ),
    "hardcorenas": Family(
        "hardcorenas_a",
        {
            "blocks": (("ds_c8_nre",), ("ir_s2_e2_c12_se0.5", "mqa_h2_d4_c12")),
            "stem_width": 8,
            "head_width": 16,
        },
        (16, 16, 3),
        (24, 16, 3),
        random=_RANDOM,
        kinds=(
            _mobile(
                "hardcorenas_a",
                (
                    ("ds_r1_k3_s1_c8_nre",),
                    ("ir_r1_k5_s2_e3_c16_nre", "ir_r1_k5_s1_e3_c16_se0.25"),
                    ("cn_r1_k1_s1_c24",),
                ),
                "MobileNetV3",
                activation="hard_swish",
                timm={"act_layer": "hard_swish", "hard": True},
            ),
        ),
    ),
    "googlenet": Family(
        "googlenet",
        {"layers": (1, 1, 1), "width_factor": 1 / 16},
        (32, 48, 3),
        (48, 33, 3),
        random={"dropout": 0.5},
        kinds=(Kind("googlenet", {"width_factor": 1 / 8}, create=_narrow(8), depths=False),),
    ),
    "hgnet": Family(
        "hgnetv2_b0",
        {
            "layers": (1, 2),
            "widths": (12, 16),
            "inner_widths": (4, 6),
            "convolutions": 2,
            "kernel_sizes": (3, 5),
            "light": (False, True),
            "stem_widths": (4, 6),
            "head_width": 16,
        },
        (16, 24, 3),
        (24, 16, 3),
        random=_RANDOM,
        kinds=(
            _hgnet(
                "hgnet_tiny",
                {
                    "layers": (1, 2, 1, 1),
                    "widths": (12, 16, 16, 20),
                    "inner_widths": (4, 6, 8, 8),
                    "convolutions": 2,
                    "kernel_sizes": (3, 3, 3, 3),
                    "light": (False,) * 4,
                    "stem": "plain",
                    "stem_widths": (4, 6, 8),
                },
            ),
            _hgnet(
                "hgnetv2_b0",
                {
                    "layers": (1, 2, 1, 1),
                    "widths": (12, 16, 16, 20),
                    "inner_widths": (4, 6, 8, 8),
                    "convolutions": 2,
                    "kernel_sizes": (3, 3, 5, 5),
                    "light": (False, False, True, True),
                    "stem": "branched",
                    "stem_widths": (8, 6),
                    "affine": True,
                },
            ),
        ),
    ),
    "hiera": Family(
        "hiera_tiny_224",
        {"layers": (1, 2), "width": 8, "window_attention": (True, False), "layer_scale": 0.5},
        (16, 24, 3),
        None,
        (24, 16, 3),
        {"patch_dropout": 0.5, **_RANDOM},
        kinds=(
            Kind("hiera_tiny_224", _UNITS, _UNITS_TIMM),
            Kind("hiera_small_abswin_256", _UNITS, _UNITS_TIMM),
        ),
    ),
    "hrnet": Family(
        "hrnet_w18_small",
        {
            "layers": (1, 1, 1),
            "modules": (1, 1),
            "width": 4,
            "first_width": 4,
            "stem_widths": (4, 8),
            "head_widths": (2, 3, 4),
            "head_features": 8,
        },
        (16, 32, 3),
        (32, 16, 3),
        (24, 32, 3),
        random={"dropout": 0.5},
        kinds=tuple(
            Kind(name, _BRANCHES, {}, (32, 64, 3), create=_small_hrnet)
            for name in ("hrnet_w18", "hrnet_w18_ssld")
        ),
    ),
    "iformer": Family(
        "iformer_h",
        {
            "layers": (1, 4),
            "widths": (4, 8),
            "attention_groups": (0, 1),
            "key_reductions": (1, 2),
            "layer_scale": 0.5,
        },
        (16, 24, 3),
        (20, 16, 3),
        random=_RANDOM,
        kinds=(
            Kind("iformer_m", _GATED, _GATED_TIMM, (64, 96, 3)),
            Kind("iformer_h", _GATED, _GATED_TIMM, (64, 96, 3)),
            Kind("iformer_m_distilled", _GATED, _GATED_TIMM, (64, 96, 3)),
        ),
    ),
    "inception_next": Family(
        "inception_next_tiny",
        {"layers": (2, 1), "widths": (8, 12), "mlp_ratios": (2, 3), "layer_scale": 0.5},
        (32, 32, 3),
        (48, 32, 3),
        (32, 32),
        _RANDOM,
        kinds=(
            Kind(
                "inception_next_tiny",
                {"layers": (1, 2), "widths": (16, 24), "mlp_ratios": (4, 3)},
                {"depths": (1, 2), "dims": (16, 24), "mlp_ratios": (4, 3)},
            ),
            Kind(
                "inception_next_atto",
                {"layers": (1, 1), "widths": (12, 16), "mlp_ratios": (2, 2), "output_stride": 8},
                {"depths": (1, 1), "dims": (12, 16), "mlp_ratios": 2, "output_stride": 8},
            ),
        ),
    ),
    "inception_resnet_v2": Family(
        "inception_resnet_v2",
        # One channel would be all zeros behind a ReLU.
        {"layers": (1, 1, 1), "width_factor": 1 / 18},
        (75, 83, 3),
        (91, 75, 3),
        (74, 80, 3),
        {"dropout": 0.5},
        cropped=True,
        kinds=(
            Kind(
                "inception_resnet_v2",
                {"layers": (1, 1, 2), "width_factor": 1 / 16},
                input_shape=(75, 91, 3),
                create=_narrow(16, _few_inception_resnet_v2),
            ),
        ),
    ),
    "inception_v3": Family(
        "inception_v3",
        {"layers": (1, 1, 1), "width_factor": 1 / 32},
        (75, 83, 3),
        (91, 75, 3),
        (74, 80, 3),
        {"dropout": 0.5},
        cropped=True,
        kinds=(
            Kind(
                "inception_v3",
                {"layers": (2, 1, 1), "width_factor": 1 / 16},
                input_shape=(75, 91, 3),
                create=_narrow(16, _few_inception_v3),
            ),
        ),
    ),
    "inception_v4": Family(
        "inception_v4",
        {"layers": (1, 1, 1), "width_factor": 1 / 32},
        (75, 83, 3),
        (91, 75, 3),
        (74, 80, 3),
        {"dropout": 0.5},
        cropped=True,
        kinds=(
            Kind(
                "inception_v4",
                {"layers": (1, 1, 1), "width_factor": 1 / 16},
                input_shape=(75, 91, 3),
                create=_narrow(16, _few_inception_v4),
            ),
        ),
    ),
    "levit": Family(
        "levit_128s",
        {"layers": (1, 1), "widths": (16, 16), "heads": (1, 2), "key_width": 8, "stem_stride": 8},
        (16, 24, 3),
        None,
        (24, 16, 3),
        {"drop_path": 0.5},
        kinds=tuple(
            Kind(
                name,
                {"layers": (1, 1), "widths": (16, 24), "heads": (2, 3), "key_width": 8},
                {"depth": (1, 1), "embed_dim": (16, 24), "num_heads": (2, 3), "key_dim": 8},
            )
            for name in ("levit_128s", "levit_conv_512_s8")
        ),
    ),
    "lcnetv2": Family(
        "lcnetv2_small",
        {"layers": (1, 1, 1, 2), "width": 4, "head_width": 12},
        (32, 32, 3),
        (48, 32, 3),
        (16, 16),
        {"dropout": 0.5},
        kinds=(
            Kind(
                "lcnetv2_small",
                {"layers": (1, 1, 2, 2), "width": 8, "head_width": 24},
                {"scale": 0.25, "depths": (1, 1, 2, 2), "head_hidden_size": 24},
            ),
        ),
    ),
    "lstm": Family(
        "lstm",
        {"hidden_size": 6, "num_layers": 2, "bidirectional": True},
        (7, 5),
        (4, 5),
        (7,),
        {"dropout": 0.5},
    ),
    "mambaout": Family(
        "test_mambaout",
        {"layers": (1, 2), "widths": (8, 12), "kernel_size": 3},
        (16, 24, 3),
        (24, 16, 3),
        random=_RANDOM,
        kinds=(
            Kind(
                "mambaout_femto",
                {"layers": (1, 2), "widths": (8, 12)},
                {"depths": (1, 2), "dims": (8, 12)},
            ),
            Kind(
                "mambaout_base_wide_rw",
                {"layers": (1, 2), "widths": (8, 12)},
                {"depths": (1, 2), "dims": (8, 12)},
            ),
        ),
    ),
    "maxxvit": Family(
        "coatnet_0_224",
        {
            "layers": (1, 1),
            "widths": (8, 16),
            "stem_widths": (8, 8),
            "blocks": ("max", "transformer"),
            "head_dim": 8,
            "head_width": 8,
            "partition_ratio": 8,
            "layer_scale": 0.5,
        },
        (16, 24, 3),
        None,
        (24, 16, 3),
        {"attention_dropout": 0.5, "block_dropout": 0.5, **_RANDOM},
        kinds=(
            *(
                Kind(name, {**_COATNET, **fields}, {**_COATNET_TIMM, **timm})
                for name, fields, timm in (
                    ("coatnet_0_224", {"head_width": 24}, {"head_hidden_size": 24}),
                    ("coatnet_0_rw_224", {}, {}),
                    ("coatnet_bn_0_rw_224", {}, {}),
                    (
                        "coatnet_rmlp_1_rw2_224",
                        {"position_hidden": 8, "position_dropout": 0.0},
                        {"transformer_rel_pos_dim": 8},
                    ),
                    ("coatnext_nano_rw_224", {}, {}),
                )
            ),
            *(
                Kind(name, {**_MAXVIT, **fields}, {**_MAXVIT_TIMM, **timm})
                for name, fields, timm in (
                    ("maxvit_tiny_tf_224", {"head_width": 32}, {"head_hidden_size": 32}),
                    (
                        "maxvit_tiny_pm_256",
                        {"blocks": ("parallel", "parallel")},
                        {"block_type": ("PM", "PM")},
                    ),
                    ("maxvit_tiny_rw_224", {}, {}),
                    ("maxxvitv2_nano_rw_256", {}, {}),
                )
            ),
        ),
    ),
    "metaformer": Family(
        "caformer_s18",
        {
            "layers": (1, 1, 1),
            "widths": (8, 12, 16),
            "mixers": ("conv", "pool", "attention"),
            "residual_scales": (None, None, 1.0),
            "head_dim": 8,
            "layer_scale": 0.5,
        },
        (16, 16, 3),
        (24, 16, 3),
        (2, 16, 3),
        {"attention_dropout": 0.5, "block_dropout": 0.5, **_RANDOM},
        kinds=(
            _metaformer(
                "poolformer_s12",
                norm_layers="GroupNorm1",
                mlp_act="nn.GELU",
                mlp_bias=True,
                downsample_norm=None,
                layer_scale_init_values=1e-5,
                res_scale_init_values=None,
                use_mlp_head=False,
            ),
            _metaformer("poolformerv2_s12", norm_layers="GroupNorm1NoBias", use_mlp_head=False),
            _metaformer(
                "caformer_s18",
                token_mixers=("SepConv", "SepConv", "Attention", "Attention"),
                norm_layers=(*("LayerNorm2dNoBias",) * 2, *("LayerNormNoBias",) * 2),
                head_dim=8,
            ),
        ),
    ),
    "mlp": Family(
        "mlp",
        {"features": (8, 6), "norm": "batch"},
        (4, 4, 3),
        None,
        (4, 5, 3),
        {"dropout": 0.5},
    ),
    "mlp_mixer": Family(
        "gmixer_12_224",
        {"patch_size": 8, "width": 8, "depth": 2},
        (16, 24, 3),
        None,
        (24, 16, 3),
        {"block_dropout": 0.5, **_RANDOM},
        kinds=tuple(
            Kind(name, {"depth": 2}, create=_of_two_blocks)
            for name in ("mixer_s16_224", "gmixer_12_224", "resmlp_12_224", "gmlp_ti16_224")
        ),
    ),
    "nasnet": Family(
        "nasnetalarge",
        {"layers": (1,), "width": 4, "stem_width": 4},
        (16, 16, 3),
        (24, 16, 3),
        (16, 16),
        {"dropout": 0.5},
        cropped=True,
        kinds=(
            Kind(
                "nasnetalarge",
                {"layers": (1, 1), "width": 8, "stem_width": 8},
                create=_small_nasnet,
            ),
        ),
    ),
    "nest": Family(
        "nest_tiny",
        {"patch_size": 2, "layers": (1, 2), "widths": (8, 12), "heads": (1, 2)},
        (16, 24, 3),
        None,
        (24, 16, 3),
        {"attention_dropout": 0.5, "block_dropout": 0.5, **_RANDOM},
        kinds=tuple(
            Kind(
                name,
                {"layers": (1, 2), "widths": (8, 12), "heads": (1, 2)},
                {"num_levels": 2, "depths": (1, 2), "embed_dims": (8, 12), "num_heads": (1, 2)},
                (32, 32, 3),
                create=_small_nest,
            )
            for name in ("nest_tiny", "nest_tiny_jx")
        ),
    ),
    "nextvit": Family(
        "nextvit_small",
        {
            "layers": (1, 2),
            "widths": (16, 24),
            "attention_widths": (64, 64),
            "attention_every": (0, 2),
            "key_strides": (2, 2),
            "attention_share": 0.5,
            "stem_widths": (8, 16),
            "head_width": 8,
            "attention_mlp_ratio": 1,
        },
        (16, 24, 3),
        (24, 16, 3),
        random={"attention_dropout": 0.5, "block_dropout": 0.5, **_RANDOM},
        kinds=(
            Kind(
                "nextvit_small",
                {
                    "layers": (1, 3),
                    "widths": (32, 48),
                    "attention_widths": (64, 128),
                    "attention_every": (0, 3),
                    "key_strides": (8, 2),
                    "stem_widths": (8, 8, 16),
                    "head_width": 16,
                },
                input_shape=(36, 44, 3),
                create=_small_nextvit,
            ),
        ),
    ),
    "nfnet": Family(
        "dm_nfnet_f0",
        {
            "layers": (1, 2),
            "widths": (16, 24),
            "stem_width": 16,
            "group_size": 4,
            "head_width": 16,
        },
        (16, 24, 3),
        (24, 16, 3),
        random=_RANDOM,
        kinds=(
            _nfnet("dm_nfnet_f0", group_size=8, head_width=24),
            _nfnet("nfnet_l0", group_size=8, head_width=24),
            _nfnet("eca_nfnet_l0", group_size=8, head_width=24),
            _nfnet("nf_regnet_b0", head_width=24),
            _nfnet("nf_seresnet26"),
        ),
    ),
    "pit": Family(
        "pit_ti_distilled_224",
        {
            "patch_size": 4,
            "patch_stride": 4,
            "layers": (1, 2),
            "widths": (8, 16),
            "heads": (1, 2),
        },
        (16, 16, 3),
        None,
        (24, 16, 3),
        {
            "position_dropout": 0.5,
            "attention_dropout": 0.5,
            "block_dropout": 0.5,
            **_RANDOM,
        },
        kinds=tuple(
            Kind(
                name,
                {"layers": (1, 2), "widths": (8, 16), "heads": (1, 2)},
                {"depth": (1, 2), "base_dims": (8, 8), "heads": (1, 2)},
            )
            for name in ("pit_ti_224", "pit_ti_distilled_224")
        ),
    ),
    "mobilenetv3": Family(
        "mobilenetv3_small_050",
        {
            "blocks": (("ds_c8_se0.25",), ("ir_s2_e2_c12", "mqa_h2_d4_c12"), ("uir_k0_a3_e2_c12",)),
            "stem_width": 8,
            "head_width": 16,
        },
        (16, 16, 3),
        (24, 16, 3),
        random=_RANDOM,
        kinds=(
            _mobile(
                "mobilenetv3_large_100",
                (
                    ("ds_r1_k3_s1_c8_nre",),
                    ("ir_r2_k5_s2_e3_c16_se0.25_nre",),
                    ("ir_r2_k3_s2_e2.5_c16_se0.25", "cn_r1_k1_s1_c24"),
                ),
                "MobileNetV3",
                activation="hard_swish",
                timm={"act_layer": "hard_swish", "hard": True},
            ),
            _mobile(
                "fbnetv3_b",
                (("ds_r1_k3_s1_c8",), ("ir_r2_k3_s2_e2_c32_se0.25",)),
                "MobileNetV3",
                gate_activation="sigmoid",
                squeeze_rounding=None,
                timm={"head_bias": False, "se_from_exp": False},
            ),
            _mobile(
                "mobilenetv4_conv_aa_medium",
                (
                    ("er_r1_k3_s2_e2_c8",),
                    ("uir_r1_a3_k5_s2_e2_c16", "uir_r2_a0_k3_s1_e2_c16", "uir_r1_a5_k0_s1_e2_c16"),
                    ("uir_r1_a3_k0_s2_e2_c16", "uir_r1_a0_k0_s1_e2_c16"),
                ),
                "MobileNetV3",
                timm={"head_norm": True, "aa_layer": "avg"},
            ),
            _mobile(
                "mobilenetv4_hybrid_medium",
                (
                    ("er_r1_k3_s2_e2_c8",),
                    ("uir_r1_a0_k3_s2_e2_c16_p3", "mqa_r1_k3_h2_s1_v2_d8_c16"),
                    # timm can't tell the channels of a stage that attention ends.
                    ("mqa_r1_k3_h2_s1_d8_c16", "uir_r1_a0_k0_s1_e2_c16"),
                ),
                "MobileNetV3",
                timm={"head_norm": True, "layer_scale_init_value": 1e-5},
            ),
        ),
    ),
    "mobilenetv5": Family(
        "mobilenetv5_base",
        {
            "blocks": (
                ("er_s2_e2_c8",),
                ("uir_a3_k3_s2_e2_c12",),
                ("uir_s2_e2_c12", "mqa_h2_d4_c12"),
            ),
            "stem_width": 8,
            "fusion_width": 16,
            "fusion_size": 2,
        },
        (32, 32, 3),
        (48, 32, 3),
        random=_RANDOM,
        kinds=(
            _mobile_v5(
                "mobilenetv5_base",
                (
                    ("er_r1_k3_s2_e2_c8",),
                    ("uir_r1_a3_k5_s2_e2_c16", "uir_r1_a5_k0_s1_e2_c16"),
                    (
                        *("uir_r1_a0_k3_s2_e2_c16", "mqa_r1_k3_h2_s1_v2_d8_c16"),
                        "uir_r1_a0_k0_s1_e2_c16",
                    ),
                    (
                        *("uir_r1_a3_k3_s2_e2_c24", "mqa_r1_k3_h2_s1_d8_c24"),
                        "uir_r1_a0_k0_s1_e2_c24",
                    ),
                ),
            ),
            _mobile_v5(
                "mobilenetv5_300m",
                (
                    ("er_r1_k3_s2_e2_c8",),
                    ("uir_r1_a3_k3_s2_e2_c16",),
                    ("uir_r1_a3_k3_s2_e2_c16",),
                    ("uir_r1_a3_k3_s2_e2_c24",),
                ),
                padding="SAME",
                fusion_size=1,
                timm={"pad_type": "same", "msfa_output_resolution": 1},
            ),
        ),
    ),
    "mobilevit": Family(
        "mobilevit_xxs",
        {
            "layers": (1, 2, 1),
            "widths": (8, 8, 16),
            "attention_layers": (0, 0, 1),
            "token_widths": (16,),
            "stem_width": 8,
            "final_width": 24,
            "heads": 2,
        },
        (16, 32, 3),
        (24, 16, 3),
        random={"attention_dropout": 0.5, "block_dropout": 0.5, **_RANDOM},
        kinds=tuple(
            Kind(
                name,
                {
                    "layers": (1, 2, 1),
                    "widths": (8, 8, 16),
                    "attention_layers": (0, 0, 2),
                    "stem_width": 8,
                    **fields,
                },
                input_shape=(32, 40, 3),
                create=_small_mobilevit,
            )
            for name, fields in (
                ("mobilevit_xxs", {"token_widths": (24,), "final_width": 32}),
                ("mobilevitv2_050", {}),
            )
        ),
    ),
    "mvitv2": Family(
        "mvitv2_tiny",
        {"layers": (1, 2), "width": 8, "key_stride": 2, "class_token": True},
        (16, 16, 3),
        None,
        (24, 24, 3),
        _RANDOM,
        kinds=tuple(map(_mvit, ("mvitv2_tiny", "mvitv2_large", "mvitv2_small_cls"))),
    ),
    "pnasnet": Family(
        "pnasnet5large",
        {"layers": (1,), "width": 4, "stem_width": 4},
        (16, 16, 3),
        (24, 16, 3),
        (16, 16),
        {"dropout": 0.5},
        cropped=True,
        kinds=(
            Kind(
                "pnasnet5large",
                {"layers": (1,), "width": 8, "stem_width": 8},
                create=_small_pnasnet,
            ),
        ),
    ),
    "pvt_v2": Family(
        "pvt_v2_b0",
        {
            "layers": (2, 1),
            "widths": (8, 16),
            "heads": (1, 2),
            "key_strides": (2, 1),
            "mlp_ratios": (2, 2),
        },
        (16, 16, 3),
        (24, 16, 3),
        (4, 4, 3),
        {"attention_dropout": 0.5, "block_dropout": 0.5, **_RANDOM},
        kinds=(
            Kind("pvt_v2_b0", _PYRAMID, _PYRAMID_TIMM),
            Kind("pvt_v2_b2_li", _PYRAMID, _PYRAMID_TIMM),
        ),
    ),
    "rdnet": Family(
        "rdnet_tiny",
        {**_DENSE, "stem_width": 8, "layer_scale": 0.5, "expansion": 2.0},
        (16, 16, 3),
        (24, 16, 3),
        (16, 16),
        {"block_dropout": 0.5, **_RANDOM},
        kinds=(
            Kind(
                "rdnet_tiny", {**_DENSE, "stem_width": 8}, {**_DENSE_TIMM, "num_init_features": 8}
            ),
        ),
    ),
    "resnest": Family(
        "resnest14d",
        {"layers": (2, 1), "widths": (4, 8), "stem_width": 8},
        (16, 16, 3),
        (24, 16, 3),
        (16, 16),
        _RANDOM,
        kinds=_residual("resnest14d"),
    ),
    "resnetv2": Family(
        "resnetv2_50",
        {"layers": (2, 1), "widths": (32, 64), "stem_width": 16},
        (16, 16, 3),
        (24, 16, 3),
        (16, 16),
        _RANDOM,
        kinds=(
            Kind(
                "resnetv2_50x1_bit",
                {"layers": (1, 2), "widths": (128, 256)},
                {"layers": (1, 2), "channels": (128, 256), "width_factor": 1},
                create=_small_bit,
            ),
            *(
                Kind(
                    name,
                    {"layers": (1, 2), "widths": (16, 32), "stem_width": 16},
                    {"layers": (1, 2), "channels": (16, 32), "stem_chs": 16},
                )
                for name in ("resnetv2_18", "resnetv2_18d", "resnetv2_50", "resnetv2_50t")
            ),
        ),
    ),
    "byoanet": Family(
        "lamhalobotnet50ts_256",
        {
            "layers": (2, 2, 2),
            "widths": (16, 32, 32),
            "kinds": ("rep", "bottleneck", "bottleneck"),
            "strides": (1, 2, 1),
            "group_sizes": (0,) * 3,
            "ratios": (0.5,) * 3,
            "attention": ("lambda", "halo", "bottleneck"),
            "attention_fields": ((("size", 5),), _HALO, ()),
            "attending": ((1,), (1,), (0, 1)),
            "stem_widths": (4, 8),
        },
        (32, 32, 3),
        random=_RANDOM,
        kinds=(
            _byob(
                "botnet26t_256",
                [["bottle", 32, 1, {"br": 0.5}]],
                [["bottle", 64, 2, {"br": 0.5}], ["self_attn", 64, 1, {"br": 0.5}]],
                [["self_attn", 64, 2, {"br": 0.5}]],
                fields={
                    **{"widths": (32, 64, 64), "ratios": (0.5,) * 3, "stem_widths": (6, 8, 16)},
                    **{"attention": ("bottleneck",) * 3, "attending": ((), (1,), (0,))},
                },
                stem_chs=16,
            ),
            _byob(
                "halonet_h1",
                [["self_attn", 16, 1, {"br": 1.0}], ["self_attn", 16, 1, {"br": 1.0}]],
                [["self_attn", 32, 2, {"br": 1.0}]],
                fields={
                    **{"widths": (16, 32), "stem_widths": (16,), "attention": ("halo",) * 2},
                    **{"attention_fields": (_HALO,) * 2, "attending": ((0, 1), (0,))},
                },
                stem_chs=16,
                self_attn_kwargs={"block_size": 2, "halo_size": 1, "num_heads": 2},
            ),
            dataclasses.replace(
                _byob(
                    "haloregnetz_b",
                    [["bottle", 16, 2, {"br": 2, "gs": 16}]],
                    [["bottle", 16, 1, {"br": 2, "gs": 16}], ["self_attn", 16, 1, {"br": 2}]],
                    [["self_attn", 32, 2, {"br": 2}]],
                    fields={
                        **{"widths": (16, 16, 32), "group_sizes": (16,) * 3, "ratios": (2.0,) * 3},
                        **{"stem_widths": (8,), "final_width": 48, "attention": ("halo",) * 3},
                        **{"attention_fields": (_HALO_OF_3,) * 3, "attending": ((), (1,), (0,))},
                    },
                    **{"stem_chs": 8, "num_features": 48},
                    self_attn_kwargs={
                        **{"block_size": 3, "halo_size": 1, "num_heads": 2, "qk_ratio": 0.5}
                    },
                ),
                input_shape=(48, 96, 3),
            ),
            _byob(
                "lambda_resnet26t",
                [["self_attn", 32, 1, {"br": 0.5}]],
                [["bottle", 64, 2, {"br": 0.5}], ["self_attn", 64, 1, {"br": 0.5}]],
                [["self_attn", 64, 2, {"br": 0.5}]],
                fields={
                    **{"widths": (32, 64, 64), "ratios": (0.5,) * 3, "stem_widths": (6, 8, 16)},
                    **{"attention": ("lambda",) * 3, "attending": ((0,), (1,), (0,))},
                    "attention_fields": ((("size", 5),),) * 3,
                },
                stem_chs=16,
                self_attn_kwargs={"r": 5},
            ),
            _byob(
                "lambda_resnet26rpt_256",
                [["bottle", 32, 1, {"br": 0.5}]],
                [["self_attn", 64, 2, {"br": 0.5}], ["self_attn", 64, 1, {"br": 0.5}]],
                fields={
                    **{"widths": (32, 64), "ratios": (0.5,) * 2, "stem_widths": (6, 8, 16)},
                    **{"attention": ("lambda",) * 2, "attending": ((), (0, 1))},
                    "attention_fields": ((("size", None),),) * 2,
                },
                stem_chs=16,
                self_attn_kwargs={"r": None},
            ),
        ),
    ),
    "byobnet": Family(
        "repvgg_a0",
        {
            "kinds": ("rep", "bottleneck"),
            "layers": (2, 1),
            "widths": (8, 16),
            "strides": (2, 2),
            "group_sizes": (0, 4),
            "ratios": (1.0, 0.5),
            "stem_widths": (8,),
            "gate": "se",
            "final_width": 16,
        },
        (16, 16, 3),
        (24, 16, 3),
        random=_RANDOM,
        kinds=(
            _byob(
                "repvgg_b1g4",
                [["rep", 16, 2, {}]],
                [["rep", 16, 2, {}], ["rep", 16, 1, {"gs": 4}], ["rep", 16, 1, {}]],
                fields={"widths": (16, 16), "stem_widths": (8,)},
                stem_chs=8,
            ),
            _byob(
                "mobileone_s4",
                [["one", 8, 2, _DEPTHWISE], ["one", 16, 1, _POINTWISE]],
                [
                    *(["one", 16, 2, _DEPTHWISE], ["one", 24, 1, _POINTWISE]),
                    *(["one", 24, 1, {**_DEPTHWISE, **_SE}], ["one", 24, 1, {**_POINTWISE, **_SE}]),
                ],
                fields={
                    **{"widths": (16, 24), "stem_widths": (8,), "branches": 2},
                    "gated": (0, 2),
                },
                stem_chs=8,
            ),
            _byob(
                "resnet61q",
                [["edge", 32, 1, {"br": 1.0, "block_kwargs": {}}]],
                [
                    ["bottle", 64, 2, {"br": 0.5, "gs": 16}],
                    ["bottle", 64, 1, {"br": 0.5, "gs": 16}],
                ],
                fields={
                    **{"widths": (32, 64), "group_sizes": (0, 16), "ratios": (1.0, 0.5)},
                    **{"stem_widths": (4, 8, 16, 32), "final_width": 32},
                },
                stem_chs=32,
                num_features=32,
            ),
            *(
                _byob(
                    name,
                    [["bottle", 32, 1, {"br": 0.5, "gs": 8}]],
                    [["bottle", 64, 2, {"br": 0.5, "gs": 8}]],
                    fields={
                        **{"widths": (32, 64), "group_sizes": (8, 8), "ratios": (0.5, 0.5)},
                        **{"stem_widths": (6, 8, 16), **own},
                    },
                    stem_chs=16,
                    **more,
                )
                for name, own, more in (
                    ("gcresnext26ts", {}, {}),
                    ("eca_resnext26ts", {}, {}),
                    (
                        "bat_resnext26ts",
                        {"gate": functools.partial(BilinearAttention, blocks=2, dropout=0.0)},
                        {"attn_kwargs": {"block_size": 2, "drop_rate": 0.0}},
                    ),
                )
            ),
            _byob(
                "regnetz_c16_evos",
                [["bottle", 16, 2, {"br": 2, "gs": 16}], ["bottle", 16, 1, {"br": 2, "gs": 16}]],
                [["bottle", 32, 2, {"br": 2, "gs": 16}]],
                fields={
                    **{"widths": (16, 32), "group_sizes": (16, 16), "ratios": (2.0, 2.0)},
                    **{"stem_widths": (16,), "final_width": 32},
                },
                stem_chs=16,
                num_features=32,
            ),
            *(
                _byob(
                    name,
                    [["bottle", 32, 1, {"br": 0.25}]],
                    [["bottle", 128, 2, {"br": 0.25}], ["bottle", 128, 1, {"br": 0.25}]],
                    fields={
                        **{"widths": (32, 128), "ratios": (0.25, 0.25), "group_sizes": (0, 0)},
                        **{"stem_widths": (8, 8, 16), **own},
                    },
                    stem_chs=(8, 8, 16),
                    **more,
                )
                for name, own, more in (
                    ("resnet50_clip", {}, {}),
                    ("resnet50_mlp", {"head_width": 16}, {"head_hidden_size": 16}),
                )
            ),
            Kind("test_byobnet"),
        ),
    ),
    "tresnet": Family(
        "tresnet_m",
        {
            "layers": (1, 2),
            "widths": (8, 4),
            "kinds": ("basic", "bottleneck"),
            "gated": (True, False),
        },
        (16, 16, 3),
        (24, 16, 3),
        (18, 16, 3),
        random=_RANDOM,
        kinds=tuple(
            Kind(
                name,
                {"layers": (1, 2, 1, 1), "widths": (16, 32, 64, 128)},
                {"layers": (1, 2, 1, 1), "width_factor": 0.25},
                create=_of_true_reductions,
            )
            for name in ("tresnet_m", "tresnet_v2_l")
        ),
    ),
    "repghost": Family(
        "repghostnet_050",
        {
            "layers": (1, 2),
            "widths": (8, 12, 12),
            "hidden_widths": (8, 16, 8),
            "gate_ratios": (0.0, 0.25, 0.0),
            "strides": (1, 2),
            "kernel_sizes": (3, 5),
            "stem_width": 8,
            "last_width": 16,
            "head_width": 16,
        },
        (16, 16, 3),
        (24, 16, 3),
        random=_RANDOM,
        kinds=(
            Kind(
                "repghostnet_050",
                {
                    "layers": (1, 1, 2),
                    "widths": (16, 12, 12, 12),
                    "hidden_widths": (8, 16, 16, 8),
                    "gate_ratios": (0.0, 0.25, 0.0, 0.25),
                    "strides": (1, 2, 1),
                    "kernel_sizes": (3, 5, 3),
                    "stem_width": 16,
                    "last_width": 16,
                },
                {
                    "cfgs": [
                        [[3, 8, 16, 0, 1]],
                        [[5, 16, 12, 0.25, 2]],
                        [[3, 16, 12, 0, 1], [3, 8, 12, 0.25, 1]],
                    ],
                    "drop_rate": 0.0,
                },
                create=_small_repghost,
                # Its layer behind the pooling is part of our head, and of the last block in timm.
                depths=False,
            ),
        ),
    ),
    "repvit": Family(
        "repvit_m0_9",
        {"layers": (1, 2), "widths": (8, 16)},
        (16, 24, 3),
        (24, 24, 3),
        random=_RANDOM,
        kinds=tuple(
            Kind(
                name,
                {"layers": (2, 1), "widths": (8, 16)},
                {"depth": (2, 1), "embed_dim": (8, 16)},
            )
            for name in ("repvit_m1", "repvit_m0_9")
        ),
    ),
    "resnet": Family(
        "test_resnet",
        {
            "block": ("basic", "bottleneck"),
            "layers": (2, 1),
            "widths": (8, 4),
            "stem_width": 8,
        },
        (16, 16, 3),
        (24, 16, 3),
        (16, 16),
        _RANDOM,
        kinds=_residual("resnet18", "resnet50d", "seresnet50", "ecaresnet26t", "resnetrs50"),
    ),
    "selecsls": Family(
        "selecsls42b",
        {
            "layers": (1, 2),
            "block_widths": (4, 6),
            "widths": (8, 12),
            "stem_width": 4,
            "head_widths": (12, 16),
            "head_kernel_sizes": (3, 1),
        },
        (32, 48, 3),
        (47, 31, 3),
        random={"dropout": 0.5},
        kinds=(
            Kind(
                "selecsls42b",
                {
                    "layers": (2, 3),
                    "block_widths": (8, 12),
                    "widths": (12, 16),
                    "stem_width": 8,
                    "head_widths": (24, 16),
                    "head_kernel_sizes": (3, 1),
                },
                create=_small_selecsls,
            ),
        ),
    ),
    "senet": Family(
        "legacy_seresnet50",
        {"layers": (2, 1), "widths": (4, 8)},
        (16, 16, 3),
        (24, 16, 3),
        (16, 16),
        _RANDOM,
        kinds=(
            _senet("legacy_seresnet18", "SEResNetBlock"),
            _senet("legacy_seresnet50", "SEResNetBottleneck"),
            _senet(
                "legacy_senet154",
                "SEBottleneck",
                {
                    "groups": 4,
                    "inplanes": 128,
                    "input_3x3": True,
                    "downsample_kernel_size": 3,
                    "downsample_padding": 1,
                },
                groups=4,
                base_width=64,
            ),
        ),
    ),
    "shufflenet_v2": Family(
        "shufflenet_v2_x1_0",
        {"layers": (2, 1, 1), "widths": (8, 12, 16), "stem_width": 8, "last_width": 16},
        (32, 48, 3),
        (48, 33, 3),
        random={"dropout": 0.5},
        kinds=(
            Kind(
                "shufflenet_v2_x1_0",
                {"layers": (2, 1, 1), "widths": (12, 16, 24), "stem_width": 8, "last_width": 32},
                create=_small_shufflenet,
                depths=False,
            ),
        ),
    ),
    "sknet": Family(
        "skresnet18",
        {"layers": (2, 1), "widths": (8, 8)},
        (16, 16, 3),
        (24, 16, 3),
        (16, 16),
        _RANDOM,
        kinds=_residual("skresnet18", "skresnet50d", "skresnext50_32x4d"),
    ),
    "res2net": Family(
        "res2net50_26w_4s",
        {"layers": (2, 1), "widths": (4, 8)},
        (16, 16, 3),
        (24, 16, 3),
        (16, 16),
        _RANDOM,
        kinds=_residual("res2net50_26w_4s", "res2net50d", "res2next50"),
    ),
    "rexnet": Family(
        "rexnetr_100",
        {
            "layers": (1, 2),
            "strides": (1, 2),
            "gated": (False, True),
            "width_factor": 0.05,
            "growth": 200,
        },
        (16, 24, 3),
        (24, 16, 3),
        random=_RANDOM,
        kinds=(
            Kind(
                "rexnet_100",
                {"layers": (1, 1, 1, 2, 2, 3), "width_factor": 0.2, "growth": 200},
                {"depth_mult": 0.5, "width_mult": 0.2, "final_chs": 200},
                (64, 96, 3),
            ),
        ),
    ),
    "regnet": Family(
        "regnety_002",
        {"layers": (1, 2), "widths": (8, 16), "group_size": 4, "stem_width": 8},
        (16, 16, 3),
        (24, 16, 3),
        (16, 16),
        _RANDOM,
        kinds=(
            _regnet("regnetx_002"),
            _regnet("regnety_002"),
            _regnet("regnetv_040"),
            _regnet("regnetv_064"),
            _regnet("regnetz_005", ratio=4.0),
        ),
    ),
    "squeezenet": Family(
        "squeezenet1_1",
        {"layers": (1, 1, 1), "widths": (16, 16, 32), "squeeze": 2, "stem_width": 8},
        (32, 48, 3),
        (48, 33, 3),
        random={"dropout": 0.5},
        cropped=True,
        kinds=(Kind("squeezenet1_1", depths=False),),
    ),
    "starnet": Family(
        "starnet_s050",
        {"layers": (2, 1), "width": 8, "stem_width": 8, "mlp_ratio": 2},
        (16, 16, 3),
        (24, 16, 3),
        (16, 16),
        _RANDOM,
        kinds=(
            Kind(
                "starnet_s1",
                {"layers": (1, 2), "width": 12, "mlp_ratio": 2},
                {"depths": (1, 2), "base_dim": 12, "mlp_ratio": 2},
            ),
        ),
    ),
    "tiny_vit": Family(
        "tiny_vit_5m_224",
        {"layers": (1, 1), "widths": (8, 16), "heads": (1, 2), "window_size": 3, "mlp_ratio": 2},
        (16, 24, 3),
        (24, 24, 3),
        (24, 24),
        {"block_dropout": 0.5, "drop_path": 0.5},
        kinds=(
            Kind(
                "tiny_vit_5m_224",
                {
                    "layers": (1, 2),
                    "widths": (8, 16),
                    "heads": (1, 2),
                    "window_size": ((7, 7), (3, 3)),
                },
                {
                    "depths": (1, 2),
                    "embed_dims": (8, 16),
                    "num_heads": (1, 2),
                    "window_sizes": (7, 3),
                    "drop_path_rate": 0.0,
                },
            ),
        ),
    ),
    "tnt": Family(
        "tnt_s_patch16_224",
        {
            "patch_size": 8,
            "width": 8,
            "pixel_width": 4,
            "depth": 2,
            "heads": 2,
            "pixel_heads": 2,
        },
        (16, 24, 3),
        None,
        (24, 16, 3),
        {
            "position_dropout": 0.5,
            "attention_dropout": 0.5,
            "block_dropout": 0.5,
            **_RANDOM,
        },
        kinds=tuple(
            Kind(
                name,
                {**_PLAIN, "pixel_width": 8, "pixel_heads": 2},
                {
                    "embed_dim": 24,
                    "inner_dim": 8,
                    "depth": 2,
                    "num_heads_outer": 3,
                    "num_heads_inner": 2,
                },
            )
            for name in ("tnt_s_patch16_224", "tnt_s_legacy_patch16_224")
        ),
    ),
    "twins": Family(
        "twins_svt_small",
        {
            "layers": (2, 1),
            "widths": (8, 16),
            "heads": (1, 2),
            "windows": (3, 2),
            "key_strides": (2, 1),
            "mlp_ratios": (2, 2),
        },
        (16, 16, 3),
        (24, 16, 3),
        (4, 4, 3),
        {
            "position_dropout": 0.5,
            "attention_dropout": 0.5,
            "block_dropout": 0.5,
            **_RANDOM,
        },
        kinds=(
            Kind("twins_pcpvt_small", _PYRAMID, _PYRAMID_TIMM),
            Kind(
                "twins_svt_small", {**_PYRAMID, "windows": (5, 3)}, {**_PYRAMID_TIMM, "wss": (5, 3)}
            ),
        ),
    ),
    "sequencer": Family(
        "sequencer2d_s",
        _SEQUENCES,
        (16, 24, 3),
        (24, 16, 3),
        random={"block_dropout": 0.5, **_RANDOM},
        kinds=(
            Kind(
                "sequencer2d_s",
                _SEQUENCES,
                {
                    "layers": (1, 2),
                    "embed_dims": (8, 12),
                    "hidden_sizes": (4, 6),
                    "patch_sizes": (4, 2),
                    "mlp_ratios": (2.0, 3.0),
                },
            ),
        ),
    ),
    "shvit": Family(
        "shvit_s1",
        {
            "layers": (1, 2),
            "widths": (8, 16),
            "partial_widths": (4, 6),
            "attention": (False, True),
            "key_width": 4,
        },
        (32, 48, 3),
        (48, 32, 3),
        random=_RANDOM,
        kinds=(
            Kind(
                "shvit_s1",
                {
                    "layers": (1, 2),
                    "widths": (16, 24),
                    "partial_widths": (8, 10),
                    "attention": (False, True),
                },
                {
                    "depth": (1, 2),
                    "embed_dim": (16, 24),
                    "partial_dim": (8, 10),
                    "qk_dim": (16, 16),
                    "types": ("i", "s"),
                },
                (64, 96, 3),
            ),
        ),
    ),
    "swiftformer": Family(
        "swiftformer_xs",
        {
            "layers": (1, 2),
            "widths": (8, 12),
            "downsamples": (False, True),
            "mlp_ratio": 2.0,
            "layer_scale": 0.5,
        },
        (16, 24, 3),
        (24, 16, 3),
        random={"block_dropout": 0.5, **_RANDOM},
        kinds=(
            Kind(
                "swiftformer_xs",
                {"layers": (1, 2, 1, 2), "widths": (8, 12, 16, 24)},
                {"layers": (1, 2, 1, 2), "embed_dims": (8, 12, 16, 24)},
                (64, 96, 3),
            ),
        ),
    ),
    "swin_transformer": Family(
        "swin_tiny_patch4_window7_224",
        {"width": 4, "heads": (1, 2), "layers": (2, 1), "window_size": 3},
        (16, 24, 3),
        None,
        (24, 16, 3),
        {"attention_dropout": 0.5, "block_dropout": 0.5, **_RANDOM},
        kinds=(Kind("swin_tiny_patch4_window7_224", _WINDOWS, _WINDOWS_TIMM),),
    ),
    "swin_transformer_v2": Family(
        "swinv2_tiny_window8_256",
        {"width": 8, "heads": (2, 2), "layers": (2, 1), "window_size": 3},
        (16, 24, 3),
        None,
        (24, 16, 3),
        {"attention_dropout": 0.5, "block_dropout": 0.5, **_RANDOM},
        kinds=(Kind("swinv2_tiny_window8_256", _WINDOWS, _WINDOWS_TIMM),),
    ),
    "swin_transformer_v2_cr": Family(
        "swinv2_cr_tiny_ns_224",
        {
            "width": 8,
            "heads": (2, 2),
            "layers": (2, 1),
            "window_size": 3,
            "layer_scale": 0.5,
            "position_width": 8,
            "position_mlp_dropout": 0.0,
        },
        (16, 24, 3),
        None,
        (24, 16, 3),
        {
            "attention_dropout": 0.5,
            "block_dropout": 0.5,
            "position_mlp_dropout": 0.5,
            **_RANDOM,
        },
        kinds=tuple(
            Kind(
                name,
                {**_WINDOWS, "position_mlp_dropout": 0.0, **fields},
                {**_WINDOWS_TIMM, **fields},
                create=_without_position_dropout,
                rounding=1e-6,
            )
            for name, fields in (
                ("swinv2_cr_tiny_ns_224", {}),
                ("swinv2_cr_huge_224", {"extra_norm_period": 1}),
            )
        ),
    ),
    "vgg": Family(
        "vgg11_bn",
        {"layers": (1, 2), "widths": (4, 6), "hidden": 8, "kernel_size": 5},
        (16, 16, 3),
        (24, 16, 3),
        (16, 16),
        {"dropout": 0.5},
    ),
    "visformer": Family(
        "visformer_tiny",
        {
            "layers": (1, 1),
            "widths": (8, 16),
            "patch_sizes": (2, 2),
            "stem_width": 4,
            "attention": (False, True),
            "spatial": (True, False),
            "head_ratios": (0.5, 1),
            "heads": 2,
        },
        (16, 16, 3),
        None,
        (24, 16, 3),
        {
            "position_dropout": 0.5,
            "attention_dropout": 0.5,
            "block_dropout": 0.5,
            **_RANDOM,
        },
        kinds=(
            Kind(
                "visformer_tiny",
                {"layers": (2, 1, 1), "widths": (8, 16, 32), "stem_width": 4, "heads": 2},
                {"depth": (2, 1, 1), "embed_dim": 16, "init_channels": 4, "num_heads": 2},
                (64, 96, 3),
            ),
        ),
    ),
    "vision_transformer": Family(
        "test_vit",
        {"patch_size": 8, "width": 8, "depth": 2, "layer_scale": 0.5},
        (16, 16, 3),
        (24, 16, 3),
        (16, 20, 3),
        {"patch_dropout": 0.5, "attention_dropout": 0.5, "block_dropout": 0.5, **_RANDOM},
        kinds=_plain(
            "test_vit",
            "test_vit2",
            "test_vit3",
            "beit3_base_patch16_224",
            "vit_base_patch16_rpn_224",
            "vit_small_patch16_18x2_224",
            "vit_base_patch16_xp_224",
            "vit_giant_patch14_dinov2",
            "aimv2_large_patch14_224",
        )
        + _plain("vit_dwee_patch16_reg1_gap_256", "vit_dpwee_patch16_reg1_gap_256", rounding=1e-6),
    ),
    "volo": Family(
        "volo_d1_224",
        {
            "patch_size": 4,
            "stem_width": 4,
            "layers": (1, 1),
            "widths": (4, 8),
            "heads": (1, 2),
            "class_depth": 1,
        },
        (16, 24, 3),
        None,
        (24, 16, 3),
        {"position_dropout": 0.5, "attention_dropout": 0.5, **_RANDOM},
        kinds=(_volo("volo_d1_224"),),
    ),
    "vision_transformer_hybrid": Family(
        "vit_small_r26_s32_224",
        {
            "trunk_layers": (1,),
            "trunk_widths": (128,),
            "trunk_stem": 32,
            "width": 8,
            "depth": 2,
            "heads": 2,
            "dynamic_size": True,
        },
        (16, 16, 3),
        (24, 16, 3),
        (16, 16),
        {"patch_dropout": 0.5, "attention_dropout": 0.5, "block_dropout": 0.5, **_RANDOM},
        kinds=(
            Kind("vit_tiny_r_s16_p8_224", _PLAIN, _PLAIN_TIMM, input_shape=(32, 64, 3)),
            Kind("vit_base_mci_224", _PLAIN, _PLAIN_TIMM, create=_small_hybrid),
            *(
                Kind(name, {"trunk_layers": (1, 1), **_PLAIN}, _PLAIN_TIMM, create=_small_hybrid)
                for name in ("vit_small_r26_s32_224", "vit_base_resnet26d_224")
            ),
        ),
    ),
    "vitamin": Family(
        "vitamin_small_224",
        {"conv_layers": (1, 1), "conv_widths": (4, 8), "width": 8, "depth": 2, "heads": 2},
        (32, 48, 3),
        None,
        (48, 32, 3),
        {"position_dropout": 0.5, "attention_dropout": 0.5, "block_dropout": 0.5, **_RANDOM},
        kinds=(
            Kind(
                "vitamin_small_224",
                {"conv_layers": (1, 2), "conv_widths": (8, 12), **_PLAIN},
                {**_PLAIN_TIMM, "layers": (1, 2), "widths": (8, 12)},
                create=_small_vitamin,
            ),
            Kind(
                "vitamin_xlarge_256",
                {"conv_layers": (1, 1), "conv_widths": (8, 8), **_PLAIN},
                {**_PLAIN_TIMM, "layers": (1, 1), "widths": (8, 8)},
                create=_small_vitamin,
            ),
        ),
    ),
    "xception": Family(
        "legacy_xception",
        {"stem_widths": (4, 6), "widths": (6, 8), "layers": 1, "exit_widths": (10, 12, 16)},
        (35, 43, 3),
        (51, 35, 3),
        (6, 35, 3),
        {"dropout": 0.5},
        cropped=True,
        kinds=(
            Kind(
                "legacy_xception",
                {
                    "stem_widths": (8, 16),
                    "widths": (32, 64, 182),
                    "layers": 1,
                    "exit_widths": (256, 384, 512),
                },
                input_shape=(67, 75, 3),
                create=_narrow(4, _few_xception),
            ),
        ),
    ),
    "xception_aligned": Family(
        "xception41",
        {
            "stem_widths": (4, 6),
            "widths": (6, 8),
            "strides": (2, 2),
            "layers": 1,
            "exit_widths": ((8, 10, 10), (12, 12, 16)),
        },
        (16, 24, 3),
        (32, 24, 3),
        (16, 16),
        _RANDOM,
        kinds=(_aligned("xception41"), _aligned("xception41p")),
    ),
    "vovnet": Family(
        "ese_vovnet19b_slim_dw",
        {
            "layers": (1, 2),
            "convs": 2,
            "widths": (12, 16),
            "block_widths": (8, 12),
            "stem_widths": (8, 8, 8),
        },
        (32, 48, 3),
        (47, 31, 3),
        random=_RANDOM,
        kinds=(
            *(
                Kind(name, _ONE_SHOT, _ONE_SHOT_TIMM)
                for name in ("vovnet39a", "ese_vovnet39b", "eca_vovnet39b")
            ),
            # timm's depthwise blocks do not add their input.
            Kind(
                "ese_vovnet19b_dw",
                {**_ONE_SHOT, "layers": (1, 1, 1, 1)},
                {**_ONE_SHOT_TIMM, "block_per_stage": [1, 1, 1, 1]},
            ),
        ),
    ),
    "xcit": Family(
        "xcit_tiny_12_p8_224",
        {"width": 8, "depth": 2, "class_depth": 1, "heads": 2, "layer_scale": 0.5},
        (16, 16, 3),
        (24, 16, 3),
        (16, 16),
        {
            "position_dropout": 0.5,
            "attention_dropout": 0.5,
            "block_dropout": 0.5,
            **_RANDOM,
        },
        kinds=tuple(
            Kind(
                name,
                {"width": 32, "depth": 2, "heads": 4},
                {"embed_dim": 32, "depth": 2, "num_heads": 4},
                rounding=1e-6,
            )
            for name in ("xcit_nano_12_p8_224", "xcit_tiny_12_p16_224")
        ),
    ),
    "vision_transformer_relpos": Family(
        "vit_srelpos_small_patch16_224",
        {
            "patch_size": 8,
            "width": 8,
            "depth": 2,
            "heads": 2,
            "layer_scale": 0.5,
            "class_token": True,
            "position_width": 8,
        },
        (16, 24, 3),
        None,
        (24, 16, 3),
        {"attention_dropout": 0.5, "block_dropout": 0.5, **_RANDOM},
        kinds=tuple(
            Kind(name, {**_PLAIN, "position_mlp_dropout": 0.0}, _PLAIN_TIMM)
            for name in (
                "vit_relpos_small_patch16_224",
                "vit_srelpos_small_patch16_224",
                "vit_relpos_medium_patch16_cls_224",
                "vit_relpos_small_patch16_rpn_224",
            )
        ),
    ),
}


def get(family: str, **changes: Any) -> fz.Model:
    """The family's tiny model, without variables; ``changes`` are other keywords of ``get``."""
    row = FAMILIES[family]
    usual: dict[str, Any] = {**row.fields, "input_shape": row.input_shape}
    if row.takes("num_classes"):
        usual["num_classes"] = CLASSES
    if "in_channels" in changes:
        usual["input_shape"] = (*row.input_shape[:-1], changes["in_channels"])
    return fz.models.get(row.name, **{**usual, **changes})


@functools.cache
def tiny(family: str) -> fz.Model:
    """The family's tiny model with random variables, shared by all tests of a process."""
    return with_random_variables(get(family))


def with_random_variables(model: fz.Model, seed: int = 0) -> fz.Model:
    """The model with variables in which no norm is the identity and no branch is zero."""
    rng = np.random.default_rng(seed)

    def fill(path: Any, leaf: Any) -> jax.Array:
        values = rng.standard_normal(leaf.shape)
        if leaf.ndim > 1:
            values /= np.sqrt(np.prod(leaf.shape[:-1]))
        elif path[-1].key in ("var", "scale"):
            values = 0.5 + np.abs(values)
        else:
            values *= 0.1
        return jax.numpy.asarray(values, leaf.dtype)

    return model.with_variables(jax.tree_util.tree_map_with_path(fill, model.shapes()))


@functools.cache
def saved(family: str) -> Path:
    """A directory with the tiny model and its variables, as ``Model.save`` writes it."""
    directory = Path(tempfile.mkdtemp(prefix=f"flaxzoo-{family}-{os.getpid()}-"))
    tiny(family).save(directory)
    return directory


def inputs(family: str, batch: int = 4, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Examples of the family, the same in every test."""
    size = (batch, *(shape or FAMILIES[family].input_shape))
    return np.random.default_rng(1).uniform(0, 1, size).astype(np.float32)


def batch_of(family: str, batch: int = 4) -> tuple[np.ndarray, ...]:
    """Examples with the targets that the family's task asks for."""
    x = inputs(family, batch)
    if not FAMILIES[family].takes("num_classes"):
        return (x, x)
    return (x, (np.arange(batch) % CLASSES).astype(np.int32))


def is_classifier(family: str) -> bool:
    """Whether the family's models are a backbone and a head."""
    return isinstance(get(family).module, Classifier)


def backbone(family: str) -> Backbone | None:
    """The family's backbone, or None where its models are no ``Classifier`` of one."""
    module = getattr(get(family).module, "backbone", None)
    return module if isinstance(module, Backbone) else None


def only(predicate: Callable[[str], Any]) -> pytest.MarkDecorator:
    """Runs a test for each family that a predicate is true of."""
    return pytest.mark.parametrize("family", [name for name in FAMILIES if predicate(name)])


def taking(*keywords: str) -> Callable[[str], bool]:
    """Whether ``flaxzoo.models.get`` takes keywords for a family."""
    return lambda family: FAMILIES[family].takes(*keywords)


def every(family: str) -> bool:
    """True: the promise is for all."""
    del family
    return True


def has_maps(family: str) -> bool:
    """Whether the family has feature maps."""
    network = backbone(family)
    return network is not None and bool(network.reductions())


def has_reference(family: str) -> bool:
    """Whether another library has weights for it."""
    return FAMILIES[family].architecture.reference is not None


def has_branches(family: str) -> bool:
    """Whether the family's branches are one convolution in inference."""
    return hasattr(backbone(family), "fused")


def takes_images(family: str) -> bool:
    """Whether an example is an image ``[H, W, C]`` that is classified."""
    return len(FAMILIES[family].input_shape) == 3 and FAMILIES[family].takes("num_classes")
