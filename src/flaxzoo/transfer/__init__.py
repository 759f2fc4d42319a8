"""Transfer learning: choosing what trains."""

from flaxzoo.transfer.freezing import freeze, label_params, matching_paths, zero_grads

__all__ = ["freeze", "label_params", "matching_paths", "zero_grads"]
