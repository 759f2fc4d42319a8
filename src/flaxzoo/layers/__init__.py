"""Layers that two or more model families share, one concept a file.

Each reads as what it computes; how that runs on a CPU is the business of ``lowering``, which
nobody needs to understand a model. Parameters have the names of timm's layer of the same name.

- Images and maps: ``conv``, ``conv_norm``, ``pool``, ``gates``, ``residual``,
  ``spatial_reduction`` (attention), ``windows``.
- Tokens: ``patch_embed``, ``tokens``, ``pos_embed``, ``rotary``, ``attention``, ``attention_pool``,
  ``transformer`` (blocks).
- Both: ``dense``, ``mlp``, ``norm``, ``drop_path``.
- What layers are made of: ``initializers``, ``channels``, ``checked``.
"""

from __future__ import annotations

from flaxzoo._explain import missing_from

__getattr__ = missing_from(__name__)
