"""GoogLeNet: its auxiliary classifiers in training and out of it, and what does not fit."""

import jax
import pytest

import flaxzoo as fz
from flaxzoo.layers.auxiliary import COLLECTION, sown_logits
from flaxzoo.models.googlenet import GoogLeNet

pytestmark = pytest.mark.family("googlenet")

TINY = {"layers": (1, 4, 1), "width_factor": 1 / 32}


def variables_of(backbone):
    """The shapes of images and of a backbone's variables."""
    x = jax.ShapeDtypeStruct((1, 33, 48, 3), "float32")
    return x, jax.eval_shape(backbone.init, jax.random.key(0), x)


def test_the_auxiliary_classifiers_are_of_training_alone():
    with_them, without = GoogLeNet(auxiliary=5, **TINY), GoogLeNet(**TINY)
    x, variables = variables_of(with_them)
    bare = variables_of(without)[1]
    assert COLLECTION not in variables
    assert variables["params"].keys() - bare["params"].keys() == {"aux1", "aux2"}
    # In inference they are not computed, even where somebody listens.
    _, sown = jax.eval_shape(lambda v, x: with_them.apply(v, x, mutable=[COLLECTION]), variables, x)
    assert not sown_logits(sown)

    def train(variables, x):
        options = {"mutable": [COLLECTION, "batch_stats"], "rngs": {"dropout": jax.random.key(0)}}
        return with_them.apply(variables, x, train=True, **options)[1][COLLECTION]

    sown = sown_logits(jax.eval_shape(train, variables, x))
    assert [found.logits.shape for found in sown] == [(1, 5), (1, 5)]


def test_as_many_classes_as_the_head():
    model = fz.models.get("googlenet", num_classes=7, auxiliary=True, **TINY)
    assert model.module.backbone.auxiliary == 7
    stages = list(model.module.backbone.stages())
    assert stages[stages.index("inception4a") + 1] == "aux1"
    assert stages[stages.index("inception4d") + 1] == "aux2"
    groups = list(dict.fromkeys(model.module.backbone.stage_groups().values()))
    assert groups == ["inception3", "inception4", "inception5"]
    assert fz.models.get("googlenet", auxiliary=False).module.backbone.auxiliary == 0
    assert "aux1" not in fz.models.get("googlenet").module.backbone.stages()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 1)}, "layers must be 3 numbers"),
        ({"layers": (3, 5, 2)}, "of at most"),
        ({"auxiliary": -1}, "auxiliary must be"),
        ({"auxiliary_dropout": 1.5}, "auxiliary_dropout must be"),
        ({"width_factor": 0.0}, "width_factor must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        GoogLeNet(**fields)
