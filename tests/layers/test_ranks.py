"""No layer relies on numpy's promotion of ranks, which users may forbid."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from flaxzoo.layers.attention import Attention
from flaxzoo.layers.attention_pool import AttentionPoolLatent
from flaxzoo.layers.class_attention import ClassAttention
from flaxzoo.layers.conv import Conv
from flaxzoo.layers.dense import Dense
from flaxzoo.layers.drop_path import DropPath
from flaxzoo.layers.gates import EfficientChannelAttention, GlobalContext, SqueezeExcite
from flaxzoo.layers.mlp import GlobalResponseNormMlp, GluMlp, Mlp, SwiGLU
from flaxzoo.layers.norm import (
    BatchNorm,
    EvoNormS0,
    FilterResponseNorm,
    GroupNorm,
    LayerNorm,
    LayerScale,
    RMSNorm,
    SimpleNorm,
)
from flaxzoo.layers.patch_embed import OverlapPatchEmbed, PatchDropout, PatchEmbed
from flaxzoo.layers.pos_embed import resample_positions
from flaxzoo.layers.spatial_reduction import SpatialReductionAttention
from flaxzoo.layers.tokens import patch_tokens

TOKENS = np.ones((2, 9, 12), np.float32)
MAPS = np.ones((2, 4, 4, 12), np.float32)
MASK = np.ones((9, 9), bool)


@pytest.mark.parametrize(
    ("layer", "x", "options"),
    [
        (Attention(3, qk_norm=True, scale_norm=True, gated=True), TOKENS, {}),
        (Attention(3), TOKENS, {"mask": MASK, "is_causal": True}),
        (Attention(3), TOKENS, {"mask": MASK.astype(np.float32)}),
        (AttentionPoolLatent(3), TOKENS, {}),
        (ClassAttention(3, dropout=0.5), TOKENS, {"train": True}),
        (Conv(4, use_bias=True), MAPS, {}),
        (Conv(12, groups=12, use_bias=True), MAPS, {}),
        # Of so many channels a loop over shifts computes it on CPUs.
        (Conv(16, groups=16), np.ones((2, 4, 4, 16), np.float32), {}),
        (Conv(16, groups=16, stride=2), np.ones((2, 4, 4, 16), np.float32), {}),
        (Dense(4), TOKENS, {}),
        (DropPath(0.5), MAPS, {"deterministic": False}),
        (EfficientChannelAttention(), MAPS, {}),
        (SqueezeExcite(), MAPS, {}),
        (GlobalContext(), MAPS, {}),
        (EvoNormS0(group_size=4), MAPS, {}),
        (FilterResponseNorm(), MAPS, {}),
        (GlobalResponseNormMlp(8), MAPS, {}),
        (GluMlp(8), TOKENS, {}),
        (Mlp(8, norm="layer", dropout=0.5), TOKENS, {"train": True}),
        (SwiGLU(8), TOKENS, {}),
        (BatchNorm(), MAPS, {"use_running_average": False}),
        (GroupNorm(num_groups=3), MAPS, {}),
        (LayerNorm(), TOKENS, {}),
        (LayerScale(), TOKENS, {}),
        (RMSNorm(), TOKENS, {}),
        (SimpleNorm(), TOKENS, {}),
        (PatchDropout(0.5), TOKENS, {"deterministic": False}),
        (PatchEmbed(8, 2), MAPS, {}),
        (OverlapPatchEmbed(8, norm="layer"), MAPS, {}),
        (SpatialReductionAttention(3, 2), MAPS, {}),
        (SpatialReductionAttention(3, key_grid=3, dropout=0.5), MAPS, {"train": True}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_ranks_are_not_promoted(layer, x, options):
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    with jax.numpy_rank_promotion("raise"):

        def run(x):
            y, _ = layer.init_with_output(keys, x, **options)
            return y.sum()

        jax.eval_shape(jax.grad(run), x)


def test_positions():
    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(lambda p: resample_positions(p, (2, 2)), TOKENS[:1])


def test_tokens():
    class Tokens(nn.Module):
        @nn.compact
        def __call__(self, x):
            return patch_tokens(self, x, register_tokens=2)

    with jax.numpy_rank_promotion("raise"):
        jax.eval_shape(Tokens().init, jax.random.key(0), MAPS)
