"""From the text of an option to its value."""

import argparse

import pytest

from flaxzoo.cli.data import DataSource, data_source
from flaxzoo.cli.values import Choice, checkpoint, choice, fraction, integer, key_value, literal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("1e-3", 1e-3),
        ("64,32", (64, 32)),
        ("64,", (64,)),
        ("true", True),
        ("None", None),
        ("gelu", "gelu"),
        ("'1'", "1"),
        ("2 +", "2 +"),
        ("{1}", "{1}"),
    ],
)
def test_literal(text, value):
    assert literal(text) == value
    assert type(literal(text)) is type(value)


def test_values():
    assert key_value("a=b=c") == ("a", "b=c")
    assert choice("f1:average=macro:threshold=0.2") == Choice(
        "f1", (("average", "macro"), ("threshold", 0.2))
    )
    assert checkpoint("12") == 12
    assert integer(0)("0") == 0
    assert fraction("0.5") == 0.5
    assert data_source("mnist:a:b") == DataSource("mnist", "a:b")
    assert str(data_source("mnist:a")) == "mnist:a"
    for bad in ("1=2", "x"):
        with pytest.raises(argparse.ArgumentTypeError, match="KEY=VALUE"):
            key_value(bad)
