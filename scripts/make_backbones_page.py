"""Writes ``docs/backbones.md``: which backbone to take, by size, licence, accuracy and speed.

    python scripts/make_backbones_page.py

Parameters, operations, accuracies and licences are the catalogue's, of each name's default weights;
speed is what ``benchmarks/backbones.py`` measured beside a ResNet-50. What is advised is this
file's.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flaxzoo.licences import licence_of
from flaxzoo.models import catalog

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/backbones.md"
RESULTS = ROOT / "benchmarks/results/backbones.json"
BASELINE = "resnet50"
# Upper ends of the sections, in millions of parameters.
_SIZES = (("Small", 12), ("The size of a ResNet-50", 40), ("Large", 1e6))

_INTRO = """\
<!-- Written by scripts/make_backbones_page.py: change that, and run it. -->

# Which backbone?

[The zoo](zoo.md) has all {models} names. These are the {measured} that were timed, one to three of
nearly every family, with what decides: how much they compute, how well their default weights
classify ImageNet, what they may be used for, and how long they take here.

In short:

- **To begin with**: `resnet50` or `convnext_tiny`. They take images of any size, train without
  tricks, and everything that goes wrong has gone wrong with them before.
- **To fine-tune on a few thousand images**: a ViT that has seen a lot, frozen at first:
  `vit_base_patch16_clip_224`, `beitv2_base_patch16_224`, `vit_small_patch14_dinov2`. What they
  were pretrained on matters more than their blocks.
- **For features without fine-tuning** (nearest neighbours, probes, retrieval): DINOv2 and
  DINOv3; where text has to match pictures, CLIP and SigLIP with `task="features"`.
- **For dense maps** (detection, segmentation): Swin, ConvNeXt, PVT v2, Hiera: four maps at 4 to
  32 times less than the image, as a ResNet's. Plain ViTs have one size throughout.
- **Where a processor has to do**: `mobilenetv4_conv_small`, `hgnetv2_b0`, `efficientvit_b1`,
  `levit_256`, `hgnetv2_b4`: from a twelfth to three quarters of a ResNet-50's time, and none here
  is as accurate in less.
- **For the last point of accuracy**: `eva02_base_patch14_448`, `beit_large_patch16_512`,
  `caformer_b36`.

To choose by program, `fz.models.info` has the same facts:

```python
import flaxzoo as fz

specs = [fz.models.info(name) for name in fz.models.list(pretrained=True, licence="commercial")]
photos = [spec for spec in specs if spec.top1 and len(spec.classes or ()) == 1000]
best = max((spec for spec in photos if spec.gflops < 3), key=lambda spec: spec.top1)
print(f"{{best.name}}.{{best.tag}}: {{best.top1}} %, {{best.gflops:.1f}} GFLOPs")
assert best.top1 > 75
```

## The tables

**Top-1** is timm's, of the default weights, at the input named and with `model.predict`'s
preprocessing. **GFLOPs** count two for a multiply-add. **Time** is that of classifying a batch
of 8 on {cores} cores of an {cpu} in float32, relative to ResNet-50 at 224 in turns with it
({jax}); on a GPU large products gain more than depthwise convolutions do. **Free** says whether
the weights may be used commercially; [the zoo](zoo.md#licences) has the terms.
"""


def rows(path: Path = RESULTS) -> dict[str, float]:
    """The time of each name that was measured, relative to the baseline's."""
    groups: dict[str, dict[str, list[float]]] = {}
    for row in json.loads(path.read_text("utf-8"))["results"]:
        if "seconds" in row:
            groups.setdefault(row["work"], {})[row["name"]] = row["seconds"]
    return {
        name: statistics.median(a / b for a, b in zip(own, times[BASELINE], strict=True))
        for times in groups.values()
        for name, own in times.items()
        if name != BASELINE
    }


def line(name: str, time: float) -> str:
    """A name's row."""
    known, (tag, *_) = catalog.known(name), (*catalog.tags(name), None)
    entry: dict[str, Any] = dict(catalog.entry(name, tag)) if tag else {}
    shape = entry.get("input_shape", known["input_shape"])
    top1 = entry.get("top1")
    licence = entry.get("licence")
    return _line(
        [
            f"`{name}`" + (f" `{tag}`" if tag else ""),
            f"{entry.get('parameters', known['parameters']) / 1e6:.1f}",
            f"{entry.get('gflops', known['gflops']):.1f}",
            " x ".join(map(str, shape[:2])),
            "" if top1 is None else f"{top1:.1f}",
            f"{time:.2f}",
            "" if licence is None else "yes" if licence_of(licence).commercial else "**no**",
        ]
    )


def build() -> str:
    """The page."""
    times = {BASELINE: 1.0, **rows()}
    env = json.loads(RESULTS.read_text("utf-8"))["environment"]
    intro = _INTRO.format(
        models=len(catalog.names()),
        measured=len(times),
        cores=env["cores"],
        cpu=env["cpu"],
        jax=f"jax {env['jax']}",
    )
    sections, smallest = [intro], 0.0
    for title, largest in _SIZES:
        members = [n for n in times if smallest < catalog.known(n)["parameters"] / 1e6 <= largest]
        members.sort(key=lambda name: times[name])
        header = ("name and weights", "parameters (M)", "GFLOPs", "input", "top-1", "time", "free")
        table = [_line(header), "|---|--:|--:|---|--:|--:|---|"]
        table += [line(name, times[name]) for name in members]
        sections.append(f"## {title}\n\n" + "\n".join(table) + "\n")
        smallest = largest
    return "\n".join(sections)


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=PAGE)
    parser.parse_args(arguments).output.write_text(build(), "utf-8", newline="\n")


if __name__ == "__main__":
    main()
