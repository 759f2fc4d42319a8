import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

from flaxzoo.errors import UnknownArgumentError, UnknownNameError
from flaxzoo.registry import Registry, bind_entry


@pytest.fixture
def registry():
    registry = Registry("optimizer")

    @registry.register("adam", aliases=("Adam",))
    def adam(learning_rate, *, b1=0.9):
        """Adaptive moments,
        in two lines.

        More text.
        """
        return ("adam", learning_rate, b1)

    @registry.register
    def adamw(learning_rate=0.1):
        """Adam with decay."""
        return ("adamw", learning_rate)

    return registry


def test_get_by_name_and_alias(registry):
    assert registry.get("adam", learning_rate=1.0) == ("adam", 1.0, 0.9)
    assert registry.get("Adam", learning_rate=1.0, b1=0.5) == ("adam", 1.0, 0.5)
    assert registry.get("adamw") == ("adamw", 0.1)
    assert "Adam" in registry
    assert "sgd" not in registry


def test_list_is_sorted_and_globs(registry):
    assert registry.list() == ["adam", "adamw"]
    assert registry.list("*w") == ["adamw"]
    assert registry.list("z*") == []
    # An alias finds its entry.
    assert registry.list("A*") == ["adam"]


def test_unknown_name_is_a_key_error_with_the_closest_matches(registry):
    with pytest.raises(KeyError) as caught:
        registry.get("adma")
    assert isinstance(caught.value, UnknownNameError)
    text = str(caught.value)
    assert "unknown optimizer 'adma'" in text
    assert "'adam'" in text
    assert "flaxzoo.optimizers.list()" in text


def test_unknown_keyword_lists_what_it_takes(registry):
    with pytest.raises(TypeError, match="does not take 'beta1'") as caught:
        registry.get("adam", learning_rate=1.0, beta1=0.9)
    assert isinstance(caught.value, UnknownArgumentError)
    assert "It takes: learning_rate, b1." in str(caught.value)


def test_missing_keyword(registry):
    with pytest.raises(TypeError, match="needs 'learning_rate'"):
        registry.get("adam")


def test_taken_names_are_refused_unless_overridden(registry):
    with pytest.raises(ValueError, match="'adam' is registered already"):
        registry.register("adam")(lambda: None)
    with pytest.raises(ValueError, match="'Adam' is registered already"):
        registry.register("other", aliases=("Adam",))(lambda: None)
    assert registry.list() == ["adam", "adamw"]
    registry.register("adam", override=True)(lambda: "mine")
    assert registry.get("adam") == "mine"


def test_overriding_an_alias_moves_it(registry):
    registry.register("Adam", override=True)(lambda: "mine")
    assert registry.get("Adam") == "mine"
    assert registry.get("adam", learning_rate=1.0)[0] == "adam"


def test_register_returns_the_callable_unchanged(registry):
    def entry():
        return 1

    assert registry.register("entry")(entry) is entry


def test_keywords_that_were_renamed(registry):
    @registry.register("new", renamed={"old": "size"})
    def new(size=1):
        return size

    with pytest.warns(DeprecationWarning, match="'old' is called 'size' now"):
        assert registry.get("new", old=3) == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert registry.get("new", size=2) == 2
        assert registry.current_keywords("new", {"old": 3, "other": 4}) == {"size": 3, "other": 4}
    with pytest.raises(UnknownArgumentError, match="got both 'size' and 'old', its former name"):
        registry.get("new", old=3, size=3)


def test_info(registry):
    info = registry.info("Adam")
    assert info.name == "adam"
    assert info.aliases == ("Adam",)
    assert info.summary == "Adaptive moments, in two lines."
    assert str(info).startswith("optimizer adam(learning_rate, *, b1=0.9)\n")


def test_bound_entries_keep_their_array_arguments():
    registry = Registry("loss", build=bind_entry, skip=("predictions", "targets"))

    @registry.register
    def scaled(predictions, targets, *, scale=1.0):
        return scale * (predictions - targets)

    assert registry.get("scaled") is scaled
    assert registry.get("scaled", scale=2.0)(3.0, 1.0) == 4.0
    with pytest.raises(TypeError, match="does not take 'targets'"):
        registry.get("scaled", targets=1.0)


@pytest.mark.parametrize("typed", ["adamw", "AdamW", "ADAMW", "adam_w", "Adam-W", "adam w"])
def test_names_are_found_whatever_the_case_and_without_dashes(registry, typed):
    assert registry.resolve(typed) == "adamw"
    assert registry.get(typed) == ("adamw", 0.1)
    assert typed in registry


def test_two_names_never_differ_in_case_and_dashes_alone(registry):
    with pytest.raises(ValueError, match=r"'Adam_W' is registered already as 'adamw'"):
        registry.register("Adam_W")(lambda: "mine")
    with pytest.raises(ValueError, match=r"'ADAMW' is registered already as 'adamw'"):
        registry.register("other", aliases=("ADAMW",))(lambda: "mine")
    registry.register("Adam_W", override=True)(lambda: "mine")
    assert registry.get("adamw") == ("adamw", 0.1)  # an exact name is itself
    assert registry.get("ADAM-W") == "mine"


def test_a_glob_in_another_case_matches_where_none_does_as_it_is(registry):
    assert registry.list("ADAM*") == ["adam", "adamw"]
    assert registry.list("A*") == ["adam"]


def test_names_are_listed_while_others_are_registered():
    registry = Registry("loss")
    old = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:

            def register(i):
                for k in range(60):
                    registry.register(f"l{i}_{k}", aliases=(f"alias{i}_{k}",))(lambda: None)
                    assert f"l{i}_{k}" in registry.list()
                    assert registry.info(f"alias{i}_{k}").name == f"l{i}_{k}"

            list(pool.map(register, range(4)))
    finally:
        sys.setswitchinterval(old)
    assert len(registry.list("l*")) == 240
