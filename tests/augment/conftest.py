import jax
import numpy as np
import pytest

# Most of what these tests take is compilation, which this halves.
_QUICK = {"xla_backend_optimization_level": 0}


@pytest.fixture(scope="session")
def quick_jit():
    """``jax.jit`` of little optimisation, for functions that run once or twice."""

    def jit(function, **options):
        return jax.jit(function, compiler_options=_QUICK, **options)

    return jit


@pytest.fixture(scope="session")
def run(quick_jit):
    """``run(op, images, seed)``: the augmented images as NumPy, through jit."""
    compiled = quick_jit(lambda op, key, images: op.images(key, images), static_argnums=0)

    def call(op, images, seed=0):
        return np.asarray(compiled(op, jax.random.PRNGKey(seed), images))

    return call


@pytest.fixture(scope="session")
def images():
    """Eight random pictures, 12 x 12, in [0, 1], whole bytes."""
    draws = np.random.default_rng(0).integers(0, 256, (8, 12, 12, 3))
    return (draws / 255).astype(np.float32)
