"""Layer-wise learning-rate decay against timm's, parameter by parameter."""

import pytest

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.training.rates import rate_entries
from flaxzoo.weights.names import reference_name
from flaxzoo.weights.timm_config import reference_of

timm = pytest.importorskip("timm")
optim = pytest.importorskip("timm.optim")


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50d",
        "convnext_tiny_hnf",
    ],
)
def test_every_parameter_has_timm_s_factor(name):
    theirs = timm.create_model(name)
    names = {id(p): key for key, p in theirs.named_parameters()}
    groups = optim.param_groups_layer_decay(theirs, weight_decay=0.0, layer_decay=0.9)
    expected = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    model = fz.models.get(name)
    rates = fz.transfer.layer_decay_rates(model, 1.0, 0.9)
    entries = rate_entries(flatten(model.shapes()["params"]), rates)
    reference = reference_of(name)
    found = {
        reference_name(f"params/{path}", reference): rates[entry] for path, entry in entries.items()
    }
    assert found == pytest.approx(expected)
