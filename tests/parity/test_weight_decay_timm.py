"""What weight decay touches against timm's, parameter by parameter."""

import pytest

import flaxzoo as fz
from flaxzoo._trees import flatten
from flaxzoo.optimizers.decay_masks import PatternMask
from flaxzoo.weights.names import reference_name
from flaxzoo.weights.timm_config import reference_of

timm = pytest.importorskip("timm")
optim = pytest.importorskip("timm.optim")
torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "convnext_atto",
        "convnextv2_atto",
    ],
)
def test_the_same_parameters_decay(name):
    with torch.device("meta"):
        theirs = timm.create_model(name)
    exempt = theirs.no_weight_decay() if hasattr(theirs, "no_weight_decay") else ()
    names = {id(p): key for key, p in theirs.named_parameters()}
    groups = optim.param_groups_weight_decay(theirs, 0.1, no_weight_decay_list=exempt)
    expected = {names[id(p)] for group in groups if group["weight_decay"] for p in group["params"]}
    model = fz.models.get(name)
    globs = model.module.backbone.no_weight_decay()
    mask = flatten(PatternMask(tuple(f"!backbone/{g}" for g in globs))(model.shapes()["params"]))
    reference = reference_of(name)
    decayed = {reference_name(f"params/{path}", reference) for path, on in mask.items() if on}
    assert decayed == expected
