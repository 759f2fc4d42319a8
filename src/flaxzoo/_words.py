"""The words of other libraries for what is here: every error about an unknown word asks this table.

Readers of Keras, PyTorch, timm, Flax, Elegy, Lightning and transformers type what they know. A
word that means one thing here is either taken (an alias in a registry) or answered with the line
to type, before the closest spelling is guessed. The rows are data: ``words.toml`` has them.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

# timm's arguments of ``create_model``, which are called otherwise here whatever the model.
TIMM: Mapping[str, str] = {
    "in_chans": "in_channels",
    "global_pool": "pooling",
    "drop_rate": "dropout",
    "drop_path_rate": "drop_path",
    "act_layer": "activation",
    "norm_layer": "norm",
    "features_only": "features",
    "checkpoint_path": "pretrained",
    "img_size": "input_shape",
    "dynamic_img_size": "dynamic_size",
    "embed_dim": "width",
    "num_heads": "heads",
    "reg_tokens": "register_tokens",
    "init_values": "layer_scale",
    "attn_drop_rate": "attention_dropout",
    "proj_drop_rate": "block_dropout",
    "pos_drop_rate": "position_dropout",
    "patch_drop_rate": "patch_dropout",
}


@functools.cache
def tables() -> Mapping[str, Any]:
    """The tables of ``words.toml`` by name, which says what each is; read at the first error."""
    document = tomllib.loads((resources.files("flaxzoo") / "words.toml").read_text("utf-8"))
    document["keywords"] += [[word, name, ""] for word, name in TIMM.items()]
    special = document["special"].items()
    return document | {"special": {name: rows for names, rows in special for name in names.split()}}
