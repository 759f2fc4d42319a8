"""What layers and blocks have in common: the dtypes that they compute in."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from flaxzoo.layers.checked import Checked


class Layer(Checked, kw_only=True):
    """A module with checked fields that says in which dtypes it computes.

    Attributes:
      dtype: the dtype of the computation, such as ``jnp.bfloat16``; None promotes inputs and
        parameters.
      param_dtype: the dtype of the parameters.
    """

    dtype: Any = None
    param_dtype: Any = jnp.float32

    @property
    def dtypes(self) -> dict[str, Any]:
        """The dtypes as keywords of a layer."""
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}
