"""How long backbones take to classify a picture, beside a ResNet-50, for docs/backbones.md.

Each name of the page classifies batches of 8 random images of its usual size, in float32, in turns
with ResNet-50 at 224 x 224: what is kept is the ratio. Both are processes of their own. The page is
written from the results by ``scripts/make_backbones_page.py``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from _peers import Candidate, _jax_candidate
from _timing import environment, results, write_results
from _workers import here, measure, serve

BASELINE = "resnet50"
BATCH = 8
# From the fewest parameters to the most; one to three of nearly every family.
NAMES = (
    *("squeezenet1_0", "lcnet_050", "shufflenet_v2_x1_0", "mobilenetv3_small_100", "iformer_t"),
    *("cs3darknet_focus_s", "mobilenetv2_100", "efficientformerv2_s0", "pvt_v2_b0", "starnet_s2"),
    *("convnext_atto", "mobilenetv4_conv_small", "fasternet_t0", "fastvit_t8", "mixnet_s"),
    *("inception_next_atto", "efficientnet_lite0", "rexnet_100", "mobileone_s1", "pit_ti_224"),
    *("cspnext_s", "mobilevitv2_100", "ghostnet_100", "efficientnet_b0", "mobilenetv3_large_100"),
    *("repvit_m0_9", "mobilevit_s", "edgenext_small", "convit_tiny", "deit_tiny_patch16_224"),
    *("vit_tiny_patch16_224", "hgnetv2_b0", "swiftformer_s", "tinynet_a", "regnety_008"),
    *("vit_tiny_r_s16_p8_224", "ese_vovnet19b_dw", "googlenet", "mambaout_femto", "levit_128s"),
    *("densenet121", "hardcorenas_f", "fbnetv3_b", "crossvit_9_dagger_240", "efficientvit_b1"),
    *("repvgg_a0", "repghostnet_200", "visformer_tiny", "lcnetv2_large", "lambda_resnet26t"),
    *("resnet18", "poolformer_s12", "cait_xxs24_224", "tiny_vit_5m_224", "efficientformer_l1"),
    *("efficientvit_m5", "dpn68", "repvit_m1_5", "iformer_l_distilled", "resmlp_12_224", "dla34"),
    *("resnet26", "shvit_s4", "legacy_seresnext26_32x4d", "nest_tiny_jx", "levit_256"),
    *("gmlp_s16_224", "regnety_032", "hgnetv2_b4", "gcvit_xtiny", "cspresnext50", "hrnet_w18"),
    *("tf_efficientnetv2_s", "resnetv2_34", "resnet34", "vit_srelpos_small_patch16_224"),
    *("vit_small_patch16_224", "deit3_small_patch16_224", "vitamin_small_224", "skresnet34"),
    *("legacy_xception", "tnt_s_legacy_patch16_224", "inception_v3", "rdnet_tiny"),
    *("pit_s_distilled_224", "twins_svt_small", "mvitv2_tiny", "convmixer_1024_20_ks9_p14"),
    *("resnext50_32x4d", "nf_resnet50", "res2net50_26w_4s", "xcit_small_12_p16_224"),
    *("efficientformerv2_l", "caformer_s18", "mambaout_tiny", "volo_d1_224", "xception41"),
    *("cspnext_l", "coatnet_0_rw_224", "resnest50d", "sequencer2d_s", "convit_small"),
    *("hiera_tiny_224", "inception_next_tiny", "seresnet50", "swin_tiny_patch4_window7_224"),
    *("swinv2_cr_tiny_ns_224", "swinv2_tiny_window8_256", "davit_tiny", "focalnet_tiny_srf"),
    *("convnext_tiny", "convnextv2_tiny", "maxvit_tiny_tf_224", "tresnet_m", "nextvit_small"),
    *("selecsls42b", "vit_small_r26_s32_224", "levit_384", "visformer_small", "inception_v4"),
    *("resnet101", "convnext_small", "inception_resnet_v2", "mixer_b16_224", "resnet152"),
    *("alexnet", "vit_base_patch16_dinov3", "eva02_base_patch14_224", "pnasnet5large"),
    *("beit_base_patch16_224", "vit_base_patch16_224", "swin_base_patch4_window7_224"),
    *("convnext_base", "nasnetalarge", "vgg11_bn", "vgg16"),
)
# Candidates that live at the same time, and share one baseline.
TOGETHER = 6


def candidate(name: str) -> Candidate:
    """Inference of a model with fresh variables."""
    import jax

    import flaxzoo as fz

    model = fz.models.get(name).init(rng=0)
    shape = (BATCH, *model.spec.input_shape)
    images = jax.device_put(np.random.default_rng(0).standard_normal(shape, np.float32))
    return _jax_candidate(lambda: jax.block_until_ready(model(images)), np.asarray)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="all of the page by default")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0, help="for the rounds of a group")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")
    options = parser.parse_args()
    names = options.names or NAMES
    env = environment(("jax", "jaxlib", "flax"))
    rows = []
    start = [sys.executable, here("backbones.py"), "--serve"]
    for first in range(0, len(names), TOGETHER):
        group = (BASELINE, *names[first : first + TOGETHER])
        commands = {name: [*start, name] for name in group}
        measured = measure(commands, rounds=options.rounds, seconds=options.seconds)
        rows += results(measured.timings, measured.missing, work=f"group {first // TOGETHER}")
        base = measured.timings[BASELINE].seconds
        for name in group[1:]:
            if name in measured.timings:
                ratio = np.median(np.divide(measured.timings[name].seconds, base))
                print(f"{name}: {ratio:.2f} of {BASELINE}", flush=True)
            else:
                print(f"{name}: {measured.missing[name]}", flush=True)
    if options.json:
        arguments = {"names": list(names), "rounds": options.rounds, "seconds": options.seconds}
        write_results(options.json, env, arguments, rows)


if __name__ == "__main__":
    # Beside this file, wherever it is called from.
    sys.path.insert(0, str(Path(__file__).parent))
    if sys.argv[1:2] == ["--serve"]:
        serve(lambda: candidate(sys.argv[2]))
    else:
        main()
