"""Checks of arguments: what passes, what it becomes, and the sentences of what does not."""

import math
import types

import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo import _checks
from flaxzoo.errors import ArgumentError, FlaxzooError


@pytest.mark.parametrize(
    ("check", "value", "result"),
    [
        (_checks.check_size, np.int64(3), 3),
        (_checks.check_widths, [1, np.int32(2)], (1, 2)),
        (_checks.check_kernel, 3, (3, 3)),
        (_checks.check_kernel, [1, 2], (1, 2)),
        (_checks.check_number, np.float32(0.5), 0.5),
        (_checks.check_number, jnp.asarray(2), 2.0),
        (_checks.check_rate, 0, 0.0),
    ],
)
def test_what_passes_comes_back_as_pythons_own(check, value, result):
    checked = check("x", value)
    assert checked == result
    assert type(checked) is type(result)


@pytest.mark.parametrize(
    ("check", "options"),
    [(_checks.check_size, {}), (_checks.check_number, {}), (_checks.check_rate, {})],
)
def test_none_where_it_is_optional(check, options):
    assert check("x", None, optional=True) is None
    with pytest.raises(ArgumentError, match="got None"):
        check("x", None)
    with pytest.raises(ArgumentError, match="or None, got 'a'"):
        check("x", "a", optional=True)


@pytest.mark.parametrize("value", [True, np.bool_(True), jnp.asarray(True), 1.0, "1", None, [1]])
def test_no_size(value):
    with pytest.raises(ArgumentError, match=r"^x must be an int of at least 0, got "):
        _checks.check_size("x", value, minimum=0)


@pytest.mark.parametrize(
    "value", [True, np.bool_(True), jnp.asarray(True), math.nan, math.inf, "1"]
)
def test_no_number(value):
    with pytest.raises(ArgumentError, match=r"^x must be a finite number, got "):
        _checks.check_number("x", value)


@pytest.mark.parametrize(
    ("bounds", "inside", "outside", "takes"),
    [
        ({"minimum": 0}, 0, -1, "a finite number of at least 0"),
        ({"above": 0}, 0.1, 0, "a finite number above 0"),
        ({"minimum": 0, "maximum": 1}, 1, 1.1, "a number in [0, 1]"),
        ({"above": 0, "maximum": 1}, 1, 0, "a number in (0, 1]"),
        ({"above": 0, "below": 1}, 0.5, 1, "a number in (0, 1)"),
        ({"minimum": 0, "below": 1}, 0, 1, "a number in [0, 1)"),
    ],
)
def test_bounds(bounds, inside, outside, takes):
    assert _checks.check_number("x", inside, **bounds) == inside
    with pytest.raises(ArgumentError) as caught:
        _checks.check_number("x", outside, **bounds)
    assert str(caught.value) == f"x must be {takes}, got {outside!r}"


def test_sequences_of_sizes():
    assert _checks.check_widths("x", (), allow_empty=True) == ()
    for value in ((), "12", (0,), (1.5,), {1}):
        with pytest.raises(ArgumentError, match="x must be one or more ints of at least 1, got"):
            _checks.check_widths("x", value)
    with pytest.raises(ArgumentError, match=r"got 3; for a single one write \(3,\)"):
        _checks.check_widths("x", 3)


def test_lists_of_sizes_of_one_length():
    owner = types.SimpleNamespace(layers=[1, 2], widths=(3, 4), heads=(1,), rates=(0, 1))
    _checks.check_lists(owner, "layers", "widths")
    with pytest.raises(
        ArgumentError, match=r"^layers and heads must be of one length, got 2 and 1"
    ):
        _checks.check_lists(owner, "layers", "heads")
    with pytest.raises(ArgumentError, match=r"^rates must be one or more ints of at least 1"):
        _checks.check_lists(owner, "layers", "rates")


def test_sequences_of_one_length():
    _checks.check_lengths(layers=(1, 2), widths=[3, 4])
    with pytest.raises(ArgumentError, match="a, b and c must be of one length, got 1, 2 and 1$"):
        _checks.check_lengths(a=(1,), b=(1, 2), c=(3,))


@pytest.mark.parametrize("value", [0, (1, 2, 3), (1, 0), "12", None])
def test_no_kernel(value):
    with pytest.raises(ArgumentError, match="x must be an int of at least 1 or a pair of them"):
        _checks.check_kernel("x", value)


def test_choices():
    assert _checks.check_choice("x", "avg", ("avg", "max")) == "avg"
    assert _checks.as_choice("x", "none", ("avg", "max")) is None
    with pytest.raises(ArgumentError, match=r"x must be one of 'avg', 'max', got 2$"):
        _checks.check_choice("x", 2, ("avg", "max"))
    with pytest.raises(ArgumentError, match=r"'max' or None, got 'mac'\. Did you mean 'max'"):
        _checks.as_choice("x", "mac", ("avg", "max"))


def test_one_exception_that_all_expect():
    assert issubclass(ArgumentError, ValueError)
    assert issubclass(ArgumentError, FlaxzooError)
