import collections
import gc
import os
import sys
from pathlib import Path

# Tests are imported by path, with no package round them.
sys.path.insert(0, str(Path(__file__).parent))
import _compiler

# Before JAX is imported, by whatever below.
_compiler.choose(Path(__file__).parents[1] / ".pytest_cache" / "jax")

import jax
import numpy as np
import pytest
from hypothesis import settings

import flaxzoo as fz

# The same examples in every run; --hypothesis-profile=default looks for new ones.
settings.register_profile("fixed", derandomize=True)
settings.load_profile("fixed")

# What takes long by measurement; ``make slow`` writes it, and make test-fast leaves it out.
SLOW = Path(__file__).with_name("slow.txt")
STARTED = pytest.StashKey[float]()
seconds: collections.Counter[str] = collections.Counter()
# Directories that make test leaves to targets of their own.
LANES = ("conformance", "devices", "examples", "parity")
_QUICK = os.environ[_compiler.QUICK] not in ("0", "false", "")


def pytest_addoption(parser):
    parser.addoption(
        "--families",
        default="all",
        help="of the tests about one family run those of these, with commas between, as "
        "scripts/families.py prints them; 'none' runs none of them",
    )

    parser.addoption(
        "--write-slow",
        metavar="SECONDS",
        type=float,
        help="write tests/slow.txt anew: the tests whose cases took more than this in all, of "
        "processor time",
    )


def pytest_ignore_collect(collection_path, config):
    """Leaves a lane of its own out, unless it or something in it is asked for."""
    tests = Path(__file__).parent
    if collection_path.parent != tests or collection_path.name not in LANES:
        return None
    asked = [Path(str(arg).partition("::")[0]).resolve() for arg in config.args]
    return not any(path.is_relative_to(collection_path) for path in asked)


def pytest_collection_modifyitems(config, items):
    """Marks as slow what ``slow.txt`` names; leaves out tests that are about other families."""
    slow = set(SLOW.read_text("utf-8").split()) if SLOW.exists() else set()
    for item in items:
        if function_of(item.nodeid) in slow:
            item.add_marker(pytest.mark.slow)
        if names := families_of(item):
            # For -m family; and one process builds and compiles what a family's tests share.
            item.add_marker(pytest.mark.family)
            item.add_marker(pytest.mark.xdist_group(min(names)))
    chosen = config.getoption("--families")
    if chosen in ("all", ""):
        return
    chosen = set(chosen.split(","))
    out = [item for item in items if (about := families_of(item)) and not about & chosen]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in set(out)]


def function_of(nodeid: str) -> str:
    """A test's name in ``slow.txt``: its file under tests/ and its function, without a case."""
    return nodeid.partition("[")[0].removeprefix("tests/")


def families_of(item) -> set[str]:
    """The families that a test is about; none if it is about no family in particular."""
    names = {name for marker in item.iter_markers("family") for name in marker.args}
    family = getattr(item, "callspec", None) and item.callspec.params.get("family")
    if family is not None:
        names.add(getattr(family, "name", family))
    return names


def pytest_configure(config):
    if os.environ[_compiler.DIRECTORY]:
        _compiler.guard()
        if not hasattr(config, "workerinput"):
            _compiler.tidy(Path(os.environ[_compiler.DIRECTORY]))
    # The process that only hands out tests to others compiles nothing.
    if _QUICK and not getattr(config.option, "numprocesses", None):
        _compiler.add_options()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before any fixture, whatever its scope: the compiler that the test asks for."""
    _compiler.use(_QUICK and item.get_closest_marker("full_compiler") is None)
    item.stash[STARTED] = processor_time()


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item):
    """Tells what a test and its fixtures took, to whoever writes ``slow.txt``."""
    try:
        return (yield)
    finally:
        took = processor_time() - item.stash[STARTED]
        item.user_properties.append(("processor seconds", took))


def processor_time() -> float:
    """Seconds of this process and of those that it started and that have ended."""
    return sum(os.times()[:4])


def pytest_runtest_logreport(report):
    if report.when == "call":
        seconds[function_of(report.nodeid)] += dict(report.user_properties)["processor seconds"]


def pytest_sessionfinish(session):
    least = session.config.getoption("--write-slow")
    if least is not None and not hasattr(session.config, "workerinput"):
        names = sorted(name for name, took in seconds.items() if took > least)
        SLOW.write_text("".join(f"{name}\n" for name in names), "utf-8")


@pytest.fixture(autouse=True, scope="module")
def programs():
    """Lets go of compiled programs when the process is about to run out of memory maps."""
    yield
    if _compiler.memory_maps() > 0.5:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def digits():
    """A small part of the real digits: ((train_images, train_labels), (test_images, ...))."""
    (images, labels), test = fz.data.load_digits()
    return (images[:240], labels[:240]), (test[0][:100], test[1][:100])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def assert_trees_equal():
    """Bitwise equality of two trees of arrays."""

    def check(a, b):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(np.asarray(x), np.asarray(y))

    return check


@pytest.fixture
def random_variables():
    """Random NumPy variables of a module, made without compiling an initialisation.

    Variances are positive, so that statistics are statistics.
    """

    def make(module, *inputs, seed=0, **kwargs):
        rng = np.random.default_rng(seed)
        shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **kwargs))

        def fill(path, leaf):
            values = rng.standard_normal(leaf.shape)
            if path[-1].key == "kernel":
                values /= np.sqrt(np.prod(leaf.shape[:-1]))
            elif path[-1].key in ("var", "scale"):
                values = 0.5 + np.abs(values)
            return values.astype(leaf.dtype)

        return jax.tree_util.tree_map_with_path(fill, shapes)

    return make
