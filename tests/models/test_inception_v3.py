"""Inception V3: its auxiliary classifier in training and out of it, and what does not fit."""

import jax
import pytest

import flaxzoo as fz
from flaxzoo.errors import ShapeError
from flaxzoo.layers.auxiliary import COLLECTION, sown_logits
from flaxzoo.models.inception_v3 import InceptionV3

pytestmark = pytest.mark.family("inception_v3")

TINY = {"layers": (1, 1, 1), "width_factor": 1 / 32}


def variables_of(backbone, side=299):
    """The shapes of images and of a backbone's variables."""
    x = jax.ShapeDtypeStruct((1, side, side, 3), "float32")
    return x, jax.eval_shape(backbone.init, jax.random.key(0), x)


def test_the_auxiliary_classifier_is_of_training_alone():
    with_it, without = InceptionV3(auxiliary=5, **TINY), InceptionV3(**TINY)
    x, variables = variables_of(with_it)
    bare = variables_of(without)[1]
    assert COLLECTION not in variables
    assert variables["params"].keys() - bare["params"].keys() == {"AuxLogits"}
    # In inference it is not computed, even where somebody listens.
    _, sown = jax.eval_shape(lambda v, x: with_it.apply(v, x, mutable=[COLLECTION]), variables, x)
    assert not sown_logits(sown)
    text = str(jax.make_jaxpr(with_it.apply)(variables, x))
    assert text.count("conv_general") == str(jax.make_jaxpr(without.apply)(bare, x)).count(
        "conv_general"
    )
    _, sown = jax.eval_shape(
        lambda v, x: with_it.apply(v, x, train=True, mutable=[COLLECTION, "batch_stats"]),
        variables,
        x,
    )
    (found,) = sown_logits(sown[COLLECTION])
    assert found.logits.shape == (1, 5)


def test_as_many_classes_as_the_head():
    model = fz.models.get("inception_v3", num_classes=7, auxiliary=True, **TINY)
    assert model.module.backbone.auxiliary == 7
    assert fz.models.get("inception_v3", auxiliary=False, **TINY).module.backbone.auxiliary == 0
    assert list(model.module.backbone.stages())[-3:] == ["AuxLogits", "Mixed_7a", "Mixed_7b"]


def test_images_that_are_too_small():
    with pytest.raises(ShapeError, match="maps of at least 17 x 17, those of images of 299 x 299"):
        variables_of(InceptionV3(auxiliary=5, **TINY), 298)
    with pytest.raises(ShapeError, match="images must be at least 75 x 75"):
        variables_of(InceptionV3(**TINY), 74)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": (1, 1)}, "layers must be 3 numbers"),
        ({"layers": (4, 4, 2)}, "of at most"),
        ({"auxiliary": -1}, "auxiliary must be"),
        ({"width_factor": 0.0}, "width_factor must be"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises(ValueError, match=message):
        InceptionV3(**fields)
