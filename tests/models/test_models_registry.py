from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import pytest

import flaxzoo as fz
from flaxzoo.errors import UnknownArgumentError, UnknownNameError
from flaxzoo.models.backbone import Backbone
from flaxzoo.models.registry import MODELS, row, variants


def test_list_and_info():
    names = fz.models.list()
    assert names == sorted(names)
    assert {"autoencoder", "cnn", "lstm", "mlp"} <= set(names)
    assert fz.models.list("cn?") == ["cnn"]
    info = fz.models.info("cnn")
    assert info.input_shape == (28, 28, 1)
    assert info.task == "classification"
    for name in names:
        assert fz.models.info(name).description


SMALL = ("autoencoder", "cnn", "conv_autoencoder", "lstm", "mlp", "resnet10t", "test_resnet")


def test_small_models_build_initialise_and_run():
    # tests/conformance runs every family; these have fields of their own as they come.
    assert set(SMALL) <= set(fz.models.list())
    for name in SMALL:
        model = fz.models.get(name).init()
        batch = jnp.zeros((2, *model.spec.input_shape), model.spec.input_dtype)
        assert model(batch).shape[0] == 2, name
        assert model.summary().parameters > 0


def test_unknown_names_and_keywords():
    with pytest.raises(UnknownNameError, match=r"unknown model 'cn'.*'cnn'"):
        fz.models.get("cn")
    with pytest.raises(UnknownArgumentError, match=r"does not take 'feature'.*'features'"):
        fz.models.get("cnn", feature=(3,))
    with pytest.raises(UnknownArgumentError, match="does not take 'num_classes'"):
        fz.models.get("autoencoder", num_classes=3)
    with pytest.raises(UnknownNameError, match="unknown weights 'cnn.nope'"):
        fz.models.get("cnn.nope", pretrained=True)
    for wrong in ("ten", -1, 2.0, True):
        with pytest.raises(ValueError, match="num_classes must be an int of at least 0"):
            fz.models.get("cnn", num_classes=wrong)
    for wrong in (8, (8, 0), "8"):
        with pytest.raises(ValueError, match="input_shape"):
            fz.models.get("mlp", input_shape=wrong)
    with pytest.raises(UnknownNameError, match="model 'mlp' has no pretrained weights"):
        fz.models.get("mlp", pretrained=True)


def test_register_your_own():
    try:

        @fz.models.register("tiny_net", input_shape=(4,), aliases=("tiny",))
        class TinyNet(nn.Module):
            """A net of one layer."""

            width: int = 3

            @nn.compact
            def __call__(self, x):
                return nn.Dense(self.width)(x)

        model = fz.models.get("tiny", width=5).init()
        assert model(jnp.ones((2, 4))).shape == (2, 5)
        assert fz.models.info("tiny_net").description == "A net of one layer."
        with pytest.raises(UnknownArgumentError, match=r"does not take 'depth'.* takes: width"):
            fz.models.get("tiny_net", depth=3)
        with pytest.raises(ValueError, match="registered already"):
            fz.models.register("tiny_net")(TinyNet)
    finally:
        MODELS._entries.pop("tiny_net", None)
        MODELS._aliases.pop("tiny", None)


class Sized(Backbone):
    """A backbone that is built for images of one size."""

    input_shape: tuple[int, int, int] = (224, 224, 3)
    dtype: Any = None
    param_dtype: Any = jnp.float32


class Dropped(Sized):
    """A backbone with the dropout of its head."""

    dropout: float = 0.0


def test_dropout_reaches_a_network_that_takes_it(monkeypatch):
    for registered in ("architectures", "_entries"):
        monkeypatch.setattr(MODELS, registered, dict(getattr(MODELS, registered)))
    variants(Dropped, {"dropped": row("Dropped")}, paper="", reference=None)
    module = MODELS.get("dropped", dropout=0.25)
    assert module.backbone.dropout == module.head.dropout == 0.25
    assert MODELS.get("dropped").backbone.dropout == 0.0


def test_a_row_s_input_shape_reaches_the_network(monkeypatch):
    rows = {"sized": row("Sized"), "sized_384": row("Sized at 384", input_shape=(384, 384, 3))}
    for registered in ("architectures", "_entries"):
        monkeypatch.setattr(MODELS, registered, dict(getattr(MODELS, registered)))
    variants(Sized, rows, paper="", reference=None, input_shape=(160, 160, 3))
    for name, size in (("sized", 160), ("sized_384", 384)):
        assert MODELS.architecture(name).input_shape == (size, size, 3)
        assert MODELS.get(name).backbone.input_shape == (size, size, 3)
        assert MODELS.parameters(name)["input_shape"].default == (size, size, 3)
        assert MODELS.get(name, input_shape=(96, 96, 3)).backbone.input_shape == (96, 96, 3)
