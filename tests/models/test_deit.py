"""DeiT's second token and second classifier."""

import numpy as np
import optax
import pytest

import flaxzoo as fz
from flaxzoo.models.deit import DistilledVisionTransformer
from flaxzoo.models.heads import Head

pytestmark = pytest.mark.family("deit")

NAME = "deit_tiny_distilled_patch16_224"
TINY = {"width": 8, "depth": 1, "heads": 2, "patch_size": 8, "input_shape": (16, 24, 3)}
IMAGES = np.random.default_rng(0).random((2, 16, 24, 3)).astype(np.float32)


def test_features_are_the_mean_of_both_tokens():
    model = fz.models.get(NAME, num_classes=3, **TINY).init(rng=0)
    tokens = model.features(IMAGES)
    assert tokens.shape == (2, 2 + 6, 8)
    bare = fz.models.get(NAME, num_classes=0, **TINY)
    features = bare.with_variables({"params": {"backbone": model.variables["params"]["backbone"]}})
    np.testing.assert_allclose(features(IMAGES), tokens[:, :2].mean(1), rtol=1e-6)
    extracted = fz.transfer.extract_features(
        model, (IMAGES, np.zeros(2, np.int32)), pooling="auto", progress=False
    )
    np.testing.assert_allclose(extracted.inputs, features(IMAGES), rtol=1e-6)
    # A head of one's own has one classifier, on the same features.
    head = fz.Classifier(backbone=model.module.backbone, head=Head(2)).head
    assert (head.pooling, head.prefix_tokens, head.distilled) == ("prefix", 2, None)


def test_both_classifiers_learn_from_a_loss_each():
    model = fz.models.get(NAME, num_classes=3, distilled_training=True, **TINY).init(rng=0)

    def loss(outputs, targets):
        labels, teacher = targets[:, 0], targets[:, 1]
        cross_entropy = optax.softmax_cross_entropy_with_integer_labels
        if not isinstance(outputs, tuple):
            return cross_entropy(outputs, labels)
        return 0.5 * (cross_entropy(outputs[0], labels) + cross_entropy(outputs[1], teacher))

    options = {"optimizer": "sgd", "learning_rate": 0.1, "loss": loss, "metrics": []}
    state = fz.create_train_state(model, **options)
    batch = (IMAGES, np.array([[0, 1], [2, 2]], np.int32))
    losses = []
    for _ in range(3):
        state, metrics = fz.train_step(state, batch)
        losses.append(metrics.compute()["loss"])
    assert losses[2] < losses[1] < losses[0]
    assert np.isfinite(fz.eval_step(state, batch).compute()["loss"])


def test_fields_are_checked():
    for fields, message in (
        ({"class_token": False}, "class_token must be True of a distilled network, got False"),
        ({"register_tokens": 1}, "register_tokens must be 0 of a distilled network, got 1"),
        ({"pool_prefix": True}, "pool_prefix must be False of a distilled network"),
    ):
        with pytest.raises(ValueError, match=message):
            DistilledVisionTransformer(**fields)
    for pooling in ("avg", "token", None):
        with pytest.raises(ValueError, match="a distilled head reads .* takes pooling='prefix'"):
            fz.models.get(NAME, pooling=pooling, **TINY)
