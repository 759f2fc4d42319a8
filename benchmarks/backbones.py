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
# From the smallest to the largest; two or three of each family, at the sizes that are compared.
NAMES = (
    *("efficientvit_m5", "levit_256", "deit_tiny_patch16_224", "tiny_vit_5m_224"),
    *("convnext_atto", "fastvit_t8", "pvt_v2_b0", "resnet18"),
    *("vit_small_patch16_224", "convnext_tiny", "swin_tiny_patch4_window7_224"),
    *("swinv2_tiny_window8_256", "caformer_s18", "twins_svt_small", "hiera_tiny_224"),
    *("mvitv2_tiny", "cait_xxs24_224", "xcit_small_12_p16_224", "davit_tiny", "mixer_b16_224"),
    *("vit_base_patch16_224", "convnext_base", "swin_base_patch4_window7_224"),
    *("eva02_base_patch14_224", "vit_base_patch16_dinov3", "resnet152"),
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
