"""Layers against timm's of the same name, with copied weights, to 1e-5: outputs and gradients."""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flaxzoo.layers.attention import Attention
from flaxzoo.layers.attention_pool import AttentionPoolLatent
from flaxzoo.layers.mlp import GlobalResponseNormMlp, GluMlp, Mlp, SwiGLU
from flaxzoo.layers.norm import GlobalResponseNorm, LayerNorm, LayerScale, RMSNorm, SimpleNorm
from flaxzoo.layers.patch_embed import PatchEmbed
from flaxzoo.layers.pos_embed import resample_positions
from flaxzoo.layers.tokens import patch_tokens
from flaxzoo.layers.transformer import BLOCKS

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm.layers")
grn = pytest.importorskip("timm.layers.grn")
vision_transformer = pytest.importorskip("timm.models.vision_transformer")
VisionTransformer = vision_transformer.VisionTransformer

NORM = functools.partial(timm.LayerNorm, eps=1e-6)
TOKENS = (2, 7, 12)
MAPS = (2, 5, 6, 12)


def parameters(module, seed=0):
    """Fills a module of timm's at random; returns our parameters, by the rule of names."""
    rng = np.random.default_rng(seed)
    params = {}
    for name, tensor in module.state_dict().items():
        values = rng.standard_normal(tuple(tensor.shape)).astype(np.float32)
        values = values * 0.3 + (name.endswith("weight") and values.ndim == 1)
        tensor.copy_(torch.tensor(values))
        *path, leaf = re.sub(r"\.(\d+)\.", r"_\1_", name).split(".")
        if leaf == "weight":
            leaf = "kernel" if values.ndim > 1 else "scale"
            axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[values.ndim]
            values = values.transpose(axes)
        group = params
        for part in path:
            group = group.setdefault(part, {})
        group[leaf] = values
    return params


def compare(ours, theirs, x, *, maps=False, **options):
    """Outputs and the input's gradients of both, within 1e-5 of the largest number."""
    params = parameters(theirs)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), x).get("params", {})
    assert jax.tree.map(np.shape, shapes) == jax.tree.map(np.shape, params)
    tx = torch.tensor(x, requires_grad=True)
    their_options = {key: torch.tensor(value) for key, value in options.items()}
    ty = theirs.eval()(tx.permute(0, 3, 1, 2) if maps else tx, *their_options.values())
    ty = ty.permute(0, 2, 3, 1) if maps and ty.ndim == 4 else ty
    weights = np.cos(np.arange(ty.numel(), dtype=np.float32)).reshape(tuple(ty.shape))
    (ty * torch.tensor(weights)).sum().backward()

    @jax.jit
    def run(params, x):
        y, pull = jax.vjp(lambda x: ours.apply({"params": params}, x, **options), x)
        return y, pull(jnp.asarray(weights).reshape(y.shape))[0]

    y, dx = run(params, x)
    for a, b in ((y, ty.detach().numpy().reshape(y.shape)), (dx, tx.grad.numpy())):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


def normal(*shape, seed=1):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (LayerNorm(), lambda: timm.LayerNorm(12)),
        (LayerNorm(epsilon=1e-5), lambda: torch.nn.LayerNorm(12)),
        (RMSNorm(), lambda: timm.RmsNorm(12)),
        (SimpleNorm(), lambda: timm.SimpleNorm(12)),
        (LayerScale(), lambda: timm.LayerScale(12)),
    ],
    ids=["layer", "torch", "rms", "simple", "scale"],
)
def test_norms(ours, theirs):
    compare(ours, theirs(), normal(*TOKENS) * 3 + 5)


def test_global_response_norm():
    compare(GlobalResponseNorm(), grn.GlobalResponseNorm(12), normal(*MAPS))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Mlp(20), lambda: timm.Mlp(12, 20)),
        (
            Mlp(20, features=9, use_bias=False, norm="layer", activation="relu"),
            lambda: timm.Mlp(12, 20, 9, torch.nn.ReLU, NORM, bias=False),
        ),
        (GluMlp(20), lambda: timm.GluMlp(12, 20)),
        (
            GluMlp(20, activation="silu", gate_last=False, norm="layer"),
            lambda: timm.SwiGLUPacked(12, 20, norm_layer=NORM),
        ),
        (SwiGLU(20, norm="rms"), lambda: timm.SwiGLU(12, 20, norm_layer=timm.RmsNorm)),
    ],
    ids=["plain", "options", "glu", "packed", "swiglu"],
)
def test_mlps(ours, theirs):
    compare(ours, theirs(), normal(*TOKENS))


@pytest.mark.parametrize("as_conv", [False, True])
def test_mlps_on_maps(as_conv):
    x = normal(*MAPS)
    theirs = timm.GlobalResponseNormMlp(12, 20, use_conv=as_conv)
    compare(GlobalResponseNormMlp(20, as_conv=as_conv), theirs, x, maps=as_conv)
    compare(Mlp(20, as_conv=as_conv), timm.Mlp(12, 20, use_conv=as_conv), x, maps=as_conv)


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {}),
        ({"qkv_bias": False, "proj_bias": False}, {}),
        ({"qk_norm": True}, {"norm_layer": NORM}),
        ({"scale_norm": True, "gated": True}, {"norm_layer": NORM}),
        (
            {"qk_norm": True, "norm": "rms", "head_dim": 5, "features": 8},
            {"norm_layer": timm.RmsNorm, "attn_head_dim": 5, "dim_out": 8},
        ),
    ],
    ids=["plain", "no bias", "qk norm", "scale norm and gate", "widths"],
)
@pytest.mark.parametrize("implementation", ["einsum", "xla"])
def test_attention(fields, options, implementation):
    renamed = {k: v for k, v in fields.items() if k in ("qk_norm", "scale_norm", "gated")}
    options = {**options, **renamed, "proj_bias": fields.get("proj_bias", True)}
    theirs = timm.Attention(12, 3, qkv_bias=fields.get("qkv_bias", True), **options)
    compare(Attention(3, implementation=implementation, **fields), theirs, normal(*TOKENS))


@pytest.mark.parametrize(
    ("block", "kind", "fields", "options"),
    [
        ("pre", "Block", {}, {}),
        (
            "pre",
            "Block",
            {"layer_scale": 0.1, "qk_norm": True, "scale_norm": True, "norm": "rms"},
            {
                "init_values": 0.1,
                "qk_norm": True,
                "scale_attn_norm": True,
                "scale_mlp_norm": True,
                "norm_layer": timm.RmsNorm,
            },
        ),
        (
            "pre",
            "Block",
            {"mlp": "swiglu", "activation": "silu", "proj_bias": False},
            {"mlp_layer": timm.SwiGLU, "act_layer": torch.nn.SiLU, "proj_bias": False},
        ),
        (
            "pre",
            "Block",
            {"mlp": "glu", "activation": "silu"},
            {"mlp_layer": timm.SwiGLUPacked, "act_layer": torch.nn.SiLU},
        ),
        ("post", "ResPostBlock", {"layer_scale": 0.1}, {"init_values": 0.1}),
        ("pairs", "ParallelThingsBlock", {"layer_scale": 0.1}, {"init_values": 0.1}),
        ("parallel", "ParallelScalingBlock", {"qk_norm": True}, {"qk_norm": True}),
        (
            "parallel",
            "ParallelScalingBlock",
            {"qkv_bias": False, "layer_scale": 0.1},
            {"qkv_bias": False, "init_values": 0.1},
        ),
    ],
)
def test_transformer_blocks(block, kind, fields, options):
    options = {"qkv_bias": True, "norm_layer": NORM, **options}
    theirs = getattr(vision_transformer, kind)(12, 3, **options)
    compare(BLOCKS[block](3, **fields), theirs, normal(*TOKENS))


@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("implementation", ["einsum", "xla"])
def test_masks(kind, implementation):
    mask = normal(2, 1, 7, 7) > 0
    mask |= np.eye(7, dtype=bool)
    mask = mask if kind == "bool" else np.where(mask, normal(2, 3, 7, 7), -1e4).astype(np.float32)
    ours = Attention(3, implementation=implementation)
    compare(ours, timm.Attention(12, 3, qkv_bias=True), normal(*TOKENS), mask=mask)


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {}),
        ({"mlp_ratio": 2.5, "features": 9}, {"mlp_ratio": 2.5, "out_features": 9}),
        ({"latents": 3, "pooling": "avg"}, {"latent_len": 3, "pool_type": "avg"}),
        ({"qk_norm": True, "latents": 2, "pooling": None}, {"qk_norm": True, "latent_len": 2}),
    ],
)
def test_attention_pool(fields, options):
    if fields.get("pooling", "") is None:
        options = {**options, "pool_type": ""}
    theirs = timm.AttentionPoolLatent(12, num_heads=3, norm_layer=NORM, **options)
    compare(AttentionPoolLatent(3, **fields), theirs, normal(*TOKENS))


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({}, {}),
        ({"use_bias": False, "norm": "layer"}, {"bias": False, "norm_layer": NORM}),
        ({"pad": True}, {"dynamic_img_pad": True}),
    ],
)
def test_patch_embed(fields, options):
    size = (14, 11) if fields.get("pad") else (16, 12)
    options = {"img_size": None, "flatten": False, "output_fmt": "NHWC", **options}
    theirs = timm.PatchEmbed(patch_size=4, in_chans=3, embed_dim=8, **options)
    to_maps = theirs.forward
    theirs.forward = lambda x: to_maps(x).permute(0, 3, 1, 2)
    compare(PatchEmbed(8, 4, **fields), theirs, normal(2, *size, 3), maps=True)


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize(
    ("old", "new"),
    [((14, 14), (24, 24)), ((24, 24), (16, 16)), ((14, 14), (7, 28)), ((16, 16), (5, 5))]
    + [((4, 9), (9, 4)), ((3, 8), (6, 3)), ((1, 1), (3, 2)), ((37, 37), (16, 16))],
)
def test_positions_are_resampled_as_timms(old, new, prefix):
    positions = normal(1, prefix + old[0] * old[1], 6)
    expected = timm.resample_abs_pos_embed(
        torch.tensor(positions), list(new), list(old), num_prefix_tokens=prefix
    ).numpy()
    host = resample_positions(positions, new, prefix=prefix, old_grid=old)
    assert isinstance(host, np.ndarray)
    assert host.dtype == np.float32
    np.testing.assert_allclose(host, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    resample = jax.jit(lambda p: resample_positions(p, new, prefix=prefix, old_grid=old))
    np.testing.assert_allclose(resample(positions), host, rtol=0, atol=1e-6)


class Tokens(nn.Module):
    """The tokens of a vision transformer, alone."""

    options: dict

    @nn.compact
    def __call__(self, x):
        return patch_tokens(self, x, **self.options)


@pytest.mark.parametrize("grid", [(3, 3), (2, 5)])
@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("no_embed_class", [False, True])
def test_tokens(grid, class_token, no_embed_class):
    net = VisionTransformer(
        img_size=12,
        patch_size=4,
        embed_dim=8,
        depth=1,
        num_heads=2,
        class_token=class_token,
        global_pool="avg",
        reg_tokens=2,
        no_embed_class=no_embed_class,
        dynamic_img_size=True,
    ).eval()
    names = ("cls_token", "reg_token", "pos_embed")
    tensors = {name: getattr(net, name) for name in names if getattr(net, name) is not None}
    params = {}
    with torch.no_grad():
        for i, (name, tensor) in enumerate(tensors.items()):
            params[name] = normal(*tensor.shape, seed=i)
            tensor.copy_(torch.tensor(params[name]))
        x = normal(2, *grid, 8)
        expected = net._pos_embed(torch.tensor(x)).numpy()
    options = {"class_token": class_token, "register_tokens": 2, "old_grid": (3, 3)}
    ours = Tokens({**options, "position_prefix": not no_embed_class})
    out = ours.apply({"params": params}, x)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)
