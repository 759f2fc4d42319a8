"""How the tests themselves compile: what ``_compiler.py`` promises."""

import os
import subprocess
import sys
import warnings

import _compiler
import jax
import pytest

PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import _compiler
assert _compiler.guard()
import jax
with __import__("warnings").catch_warnings():
    __import__("warnings").simplefilter("error")
    assert jax.jit(lambda x: x * 3 + 1)(2.0) == 7
"""


def test_numbers_are_compiled_quickly():
    if os.environ[_compiler.QUICK] != "1":
        pytest.skip("the environment asks for the whole compiler")
    assert jax.config.values["jax_disable_most_optimizations"]


@pytest.mark.full_compiler
def test_the_subject_is_compiled_in_full():
    assert not jax.config.values["jax_disable_most_optimizations"]
    # Processes that a test starts compile as it does.
    assert os.environ[_compiler.QUICK] == "0"


def run(directory):
    environment = {**os.environ, _compiler.DIRECTORY: str(directory), _compiler.LEAST_SECONDS: "0"}
    command = [sys.executable, "-c", PROGRAM, os.path.dirname(__file__)]
    subprocess.run(command, check=True, env=environment)


@pytest.mark.slow
def test_damaged_programs_are_compiled_again(tmp_path):
    run(tmp_path)
    whole = {path: path.read_bytes() for path in tmp_path.glob("*-cache")}
    assert whole
    for path, content in whole.items():
        path.write_bytes(content[: len(content) // 2])
    run(tmp_path)
    for path, content in whole.items():
        assert len(path.read_bytes()) > len(content) // 2
    assert not list(tmp_path.glob("*.part"))


def test_a_directory_that_cannot_be_written_is_not_used(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    for name in (_compiler.QUICK, _compiler.DIRECTORY, _compiler.LEAST_SECONDS):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    _compiler.choose(blocked / "jax")
    assert os.environ[_compiler.DIRECTORY] == ""
    assert os.environ[_compiler.QUICK] == "1"
    monkeypatch.setenv(_compiler.DIRECTORY, str(tmp_path / "mine"))
    _compiler.choose(blocked / "jax")
    assert os.environ[_compiler.DIRECTORY] == str(tmp_path / "mine")


def test_the_oldest_programs_go(tmp_path):
    for index in range(4):
        path = tmp_path / f"{index}-cache"
        path.write_bytes(bytes(100))
        os.utime(path, (index, index))
    _compiler.tidy(tmp_path, most_bytes=250)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2-cache", "3-cache"]
    _compiler.tidy(tmp_path / "none")


def test_memory_maps_are_counted():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0 <= _compiler.memory_maps() < 1


def test_options_that_this_xla_has_not_are_left_out():
    assert _compiler.known({"xla_no_such_option": True}) == {}
    name = "xla_backend_optimization_level"
    assert _compiler.known({"xla_no_such_option": True, name: 0}) == {name: 0}


PRINT = "import jax; print(jax.jit(lambda x: x + 1)(1), jax.config.values['{}'])"


@pytest.mark.parametrize(
    "whole", [pytest.param(True, marks=pytest.mark.full_compiler), False], ids=["full", "quick"]
)
def test_processes_that_a_test_starts_compile_as_it_does(whole):
    if not whole and os.environ[_compiler.QUICK] != "1":
        pytest.skip("the environment asks for the whole compiler")
    command = [sys.executable, "-c", PRINT.format("jax_disable_most_optimizations")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", str(not whole)]
    options = _compiler.known(_compiler.QUICK_OPTIONS)
    assert all((name in os.environ[_compiler.FLAGS]) is not whole for name in options)
