"""How layers are computed on CPUs, and how fresh variables are drawn there.

Nobody needs this package to understand a model: the layers say what they compute, and the numbers
are those of ``flax.linen`` and ``jax.lax`` to rounding. ``use("xla")``, or ``FLAXZOO_LOWERING=xla``
in the environment, leaves all of it to XLA. ``docs/performance.md`` has the reasons.
"""

from flaxzoo.layers.lowering.switch import current, use

__all__ = ["current", "use"]
