"""Where variables come from and go to."""

from flaxzoo.weights.files import load_variables, save_variables
from flaxzoo.weights.readers import read_tensors
from flaxzoo.weights.sources.flaxmodels import from_flaxmodels
from flaxzoo.weights.sources.jax_resnet import from_jax_resnet

__all__ = [
    "from_flaxmodels",
    "from_jax_resnet",
    "load_variables",
    "read_tensors",
    "save_variables",
]
