from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import pytest

from flaxzoo import debug
from flaxzoo.errors import FlaxzooError


@functools.partial(jax.jit, donate_argnums=0)
def donating_step(params, batch):
    loss, grads = jax.value_and_grad(lambda p: jnp.log(p["w"] * batch).sum())(params)
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), loss


def test_nans_raises_where_a_jitted_step_with_donation_makes_one():
    with debug.nans():
        params, loss = donating_step({"w": jnp.ones(3)}, jnp.ones(3))
        assert float(loss) == 0
        with pytest.raises(FloatingPointError, match="nan"):
            donating_step(params, -jnp.ones(3))
    # Outside, the same step goes on with its NaN.
    _, loss = donating_step({"w": jnp.ones(3)}, -jnp.ones(3))
    assert jnp.isnan(loss)


def test_nans_restores_the_settings():
    before = jax.config.jax_debug_nans, jax.config.jax_debug_infs
    with debug.nans(infs=True):
        assert jax.config.jax_debug_nans
        assert jax.config.jax_debug_infs
    assert (jax.config.jax_debug_nans, jax.config.jax_debug_infs) == before
    with pytest.raises(KeyError), debug.nans():
        raise KeyError
    assert (jax.config.jax_debug_nans, jax.config.jax_debug_infs) == before
    with jax.debug_nans(True):
        with debug.nans():
            pass
        assert jax.config.jax_debug_nans


def test_infs():
    with debug.nans():
        assert jnp.isinf(jnp.ones(()) / jnp.zeros(()))
    with debug.nans(infs=True), pytest.raises(FloatingPointError, match="inf"):
        jnp.ones(()) / jnp.zeros(())


def test_profile_writes_a_trace(tmp_path):
    with debug.profile(tmp_path / "a" / "b") as path:
        assert path == tmp_path / "a" / "b"
        jax.block_until_ready(jnp.ones(3) + 1)
        with (
            pytest.raises(debug.ProfileError, match="cannot start a trace"),
            debug.profile(tmp_path / "other"),
        ):
            pass
    assert list(path.glob("plugins/profile/*/*.xplane.pb"))


def test_profile_stops_on_an_exception(tmp_path):
    with pytest.raises(KeyError), debug.profile(tmp_path):
        raise KeyError
    with debug.profile(tmp_path / "again") as path:
        pass
    assert path.is_dir()


def test_unwritable(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(FlaxzooError, match=r"cannot write a trace to .*file.*: "),
        debug.profile(tmp_path / "file" / "trace"),
    ):
        pass
