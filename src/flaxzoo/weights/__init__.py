"""Where variables come from and go to."""

from flaxzoo.weights.files import load_variables, save_variables
from flaxzoo.weights.pretrained import load_pretrained

__all__ = ["load_pretrained", "load_variables", "save_variables"]
