"""Small models against numbers that timm computed: parity without timm or torch.

``scripts/make_golden.py`` wrote the file; what is in it, and why, stands there.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import flaxzoo as fz
from flaxzoo._trees import flatten, unflatten
from flaxzoo.models import registry
from flaxzoo.verify import outputs
from flaxzoo.weights.names import from_reference, to_reference
from flaxzoo.weights.synthetic import synthetic_images, synthetic_tensors

GOLDEN = Path(__file__).parents[1] / "golden" / "resnet.npz"
MODELS = json.loads(GOLDEN.with_suffix(".json").read_text("utf-8"))
# As in the script.
DEFAULTS = {
    "layers": (1, 1, 1, 1),
    "widths": (16, 24, 32, 48),
    "num_classes": 5,
    "size": (43, 29),
}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN, allow_pickle=False) as file:
        return dict(file)


def shapes_of(expected, rules):
    """The reference's names and shapes of all leaves."""
    placeholders = {path: np.zeros(leaf.shape, np.int8) for path, leaf in expected.items()}
    return {key: value.shape for key, value in to_reference(placeholders, rules).items()}


@pytest.mark.parametrize("name", MODELS)
def test_outputs(golden, name):
    config = {**DEFAULTS, **MODELS[name]}
    shape = (*config.pop("size"), config.get("in_channels", 3))
    model = fz.models.get(name, input_shape=shape, **config)
    expected, rules = flatten(model.shapes()), registry.MODELS.architecture(name).reference
    tensors = synthetic_tensors(shapes_of(expected, rules))
    variables = from_reference(expected, tensors, rules, source="synthetic weights")
    found = outputs(model.with_variables(unflatten(variables)), synthetic_images((2, *shape)))

    stages = [key for key in found if key not in ("features", "logits")]
    assert stages == ["stem", "layer1", "layer2", "layer3", "layer4"]
    digest = {key: found[key] for key in ("features", "logits")}
    for stage in stages:
        digest[f"{stage}.means"] = found[stage].mean((0, 1, 2))
        digest[f"{stage}.first"] = found[stage][1, :, :, 0]
    assert {f"{name}/{key}" for key in digest} == {k for k in golden if k.startswith(f"{name}/")}
    for key, ours in digest.items():
        theirs = golden[f"{name}/{key}"]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_synthetic_numbers_are_these():
    """The stored outputs hold for these weights alone, on every machine and version of NumPy."""
    tensors = synthetic_tensors({"conv1.weight": (2, 1, 1, 3), "bn1.running_var": (2,)})
    assert tensors["conv1.weight"].dtype == np.float32
    assert tensors["conv1.weight"].ravel().tolist() == [
        0.17484746873378754,
        -0.17516790330410004,
        1.0621877908706665,
        1.303381323814392,
        0.12387430667877197,
        -0.58101886510849,
    ]
    assert tensors["bn1.running_var"].tolist() == [1.2734243869781494, 1.070790410041809]
