"""RegNet against timm: designs, dilated stages, group norms, the files of its authors."""

import dataclasses
import functools
import re

import numpy as np
import pytest
from conformance.families import FAMILIES
from parity.pairs import assert_same

import flaxzoo as fz
from flaxzoo.layers.norm import GroupNorm
from flaxzoo.models.registry import MODELS
from flaxzoo.verify import fill_reference, with_reference

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")
regnet = pytest.importorskip("timm.models.regnet")

pytestmark = pytest.mark.family("regnet")

KINDS = {kind.name: kind for kind in FAMILIES["regnet"].kinds}


def close(model, reference, size=(45, 70)):
    model = with_reference(model, fill_reference(reference.eval()), source="random weights")
    assert_same(model, reference, (*size, 3))


@pytest.mark.parametrize("name", list(regnet.model_cfgs))
def test_every_design_is_timm_s(name):
    config = regnet.model_cfgs[name]
    widths, stages, groups = regnet.generate_regnet(
        config.wa, config.w0, config.wm, config.depth, config.group_size
    )
    exact = sorted(set(widths))
    rounded, sizes = regnet.adjust_widths_groups_comp(
        exact, [config.bottle_ratio] * stages, groups, config.group_min_ratio
    )
    backbone = fz.models.get(name).module.backbone
    assert backbone.layers == tuple(map(widths.count, exact))
    assert backbone.widths == tuple(rounded)
    assert [min(backbone.group_size, int(w * backbone.ratio)) for w in rounded] == sizes


@pytest.mark.parametrize(
    ("name", "stride"), [("regnety_002", 16), ("regnetv_064", 8), ("regnetz_005", 8)]
)
def test_dilated_stages(name, stride):
    kind = KINDS[name]
    model = fz.models.get(name, num_classes=5, output_stride=stride, **kind.fields)
    config = dataclasses.replace(regnet.model_cfgs[name], **kind.timm)
    close(model, regnet.RegNet(config, num_classes=5, output_stride=stride))


def test_group_norms():
    kind = KINDS["regnety_002"]
    layers = pytest.importorskip("timm.layers")
    four = functools.partial(layers.GroupNormAct, group_size=4)
    config = dataclasses.replace(regnet.model_cfgs["regnety_040_sgn"], norm_layer=four, **kind.timm)
    norm = functools.partial(GroupNorm, num_groups=None, group_size=4, use_fast_variance=False)
    model = fz.models.get("regnety_040_sgn", num_classes=5, norm=norm, **kind.fields)
    close(model, regnet.RegNet(config, num_classes=5))


def of_torchvision(name):
    """torchvision's name of a tensor of timm's."""
    name = re.sub(r"^stem\.conv", "stem.0", re.sub(r"^stem\.bn", "stem.1", name))
    for number, letter in enumerate("abc", 1):
        name = name.replace(f"conv{number}.conv", f"f.{letter}.0")
        name = name.replace(f"conv{number}.bn", f"f.{letter}.1")
    name = name.replace("downsample.conv", "proj.0").replace("downsample.bn", "proj.1")
    name = name.replace(".se.", ".f.se.").replace("head.fc", "fc")
    return re.sub(
        r"^s(\d)\.b(\d+)",
        lambda match: f"trunk_output.block{match[1]}.block{match[1]}-{int(match[2]) - 1}",
        name,
    )


def of_vissl(name):
    """The name of a tensor of timm's in SEER's files."""
    name = of_torchvision(name)
    name = re.sub(r"^trunk_output\.block(\d)\.", r"_feature_blocks.res\1.", name)
    name = name.replace("f.c.1", "f.final_bn").replace("f.c.0", "f.c")
    name = name.replace("proj.0", "proj").replace("proj.1", "bn")
    name = name.replace("f.se.fc1", "f.se.excitation.0").replace("f.se.fc2", "f.se.excitation.2")
    return re.sub(r"^stem", "_feature_blocks.conv1.stem", re.sub(r"^fc", "0.clf.0", name))


@pytest.mark.parametrize("rename", [of_torchvision, of_vissl])
def test_files_of_the_authors(rename):
    kind = KINDS["regnety_002"]
    reference = kind.create(kind.name, num_classes=5, **kind.timm)
    tensors = {key: np.asarray(value) for key, value in fill_reference(reference).items()}
    theirs = {rename(key): value for key, value in tensors.items()}
    assert not set(theirs) & set(tensors)
    if rename is of_vissl:
        # timm's own conversion of the same file, which holds trunk and head apart.
        head = {key for key in theirs if key.startswith("0.clf")}
        parts = {"trunk": {k: v for k, v in theirs.items() if k not in head}}
        parts["heads"] = {key: theirs[key] for key in head}
        nested = {"classy_state_dict": {"base_model": {"model": parts}}}
        assert set(regnet._filter_fn(nested)) == set(tensors)
        theirs = {"trunk." + k: v for k, v in parts["trunk"].items()}
        theirs |= {"heads." + k: v for k, v in parts["heads"].items()}
        theirs["heads.0.projection_head.0.weight"] = np.zeros(3)
    else:
        assert set(regnet._filter_fn(theirs)) == set(tensors)
    converted = MODELS.architecture(kind.name).reference.convert(theirs, None)
    assert converted.keys() == tensors.keys()
    assert all(converted[key] is tensors[key] for key in tensors)
    assert MODELS.architecture(kind.name).reference.convert(tensors, None) is tensors


def test_a_network_of_torchvision_s():
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.regnet_y_400mf().state_dict()
    expected = timm.create_model("regnety_004").state_dict()
    converted = MODELS.architecture("regnety_004").reference.convert(theirs, None)
    shapes = [{key: leaf.shape for key, leaf in each.items()} for each in (converted, expected)]
    assert shapes[0] == shapes[1]
