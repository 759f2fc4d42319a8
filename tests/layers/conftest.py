import jax
import numpy as np
import pytest


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
