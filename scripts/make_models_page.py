"""Writes ``docs/zoo.md``: every model with its cost, its pretrained weights and their licences.

    python scripts/make_models_page.py

Everything comes from flaxzoo itself: names, papers, parameters and GFLOPs from the registry (shapes
only, nothing is computed, which takes a minute or two), weights from the catalogue.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from importlib import resources
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from flaxzoo.weights.tags import catalog

import flaxzoo as fz
from flaxzoo.models.registry import MODELS

PAGE = Path(__file__).resolve().parent.parent / "docs/zoo.md"

# Heading, what the names look like, and what to know; the first that fits takes a name.
FAMILIES = (
    (
        "ResNet",
        r"resnet\d+|resnet50_gn|test_resnet",
        "The original network with the stride in the 3 x 3 convolution, as everyone trains it now. "
        "`resnet50_gn` normalises by groups. `test_resnet` is timm's tiny one for tests.",
    ),
    (
        "ResNet with other stems",
        r"resnet\d+[cdst]",
        "`c`: three 3 x 3 convolutions for the 7 x 7 one; `s`: the same, wider; `d`: `c`, and the "
        "shortcuts average before they project; `t`: `d` with a stem that widens step by step.",
    ),
    (
        "Wide ResNet and ResNeXt",
        r"(wide_resnet|resnext)\d+d?_\w+",
        "Wider or grouped 3 x 3 convolutions: `32x4d` has 32 groups of 4 channels.",
    ),
    (
        "SE-ResNet, SE-ResNeXt and SENet",
        r"(seresne[xt]t?|senet)\w+",
        "With squeeze-and-excitation: each block weighs its channels by their averages. `aa`: "
        "anti-aliased too.",
    ),
    (
        "ECA-ResNet",
        r"ecaresne\w+",
        "Channels are weighed by a short convolution along them, almost without parameters.",
    ),
    (
        "Anti-aliased ResNet",
        r"resnet(aa|blur)\w+",
        "Where the image shrinks it is averaged (`aa`) or blurred (`blur`) first.",
    ),
    (
        "ResNet-RS",
        r"resnetrs\d+",
        "Deeper `d` networks with squeeze-and-excitation, scaled for larger images.",
    ),
    (
        "ResNeSt",
        r"resnest\w+",
        "Split attention: the channels of several branches compete.",
    ),
    (
        "Small networks",
        r"cnn|mlp|lstm|autoencoder|conv_autoencoder",
        "For digits, sequences, tables and first steps; every size is an argument. The accuracy of "
        "`cnn.digits` is on handwritten digits that it was not trained on.",
    ),
)

_INTRO = """\
<!-- Written by scripts/make_models_page.py: change that, and run it. -->

# The zoo

All {models} architectures of `fz.models.list()` and the {weights} sets of pretrained weights of
`fz.models.list(pretrained=True)`. [Models](models.md) says how to use them.

## How to read the tables

**Parameters** are those of the model with its usual number of classes, 1000 for those trained on
ImageNet. **GFLOPs** are billions of operations for one example of the size under **input**
(height, width and channels of images), **two for each multiply-add** of convolutions and matrix
products. timm, torchvision and most papers count one, and call that GMACs or also GFLOPs: halve
ours to compare.

**Weights** lists the tags, the default first: `fz.models.get("resnet50", pretrained=True)` takes
the first and `fz.models.get("resnet50.tv_in1k", pretrained=True)` a certain one. The end of a tag
is what the weights were trained for: `in1k` is ImageNet-1k with its 1000 classes, `in12k` a part
of ImageNet-22k with 11,821 classes, and `in12k_ft_in1k` was trained on that first and then
fine-tuned. The beginning is who trained them or how: `tv` and `tv2` are torchvision's first and
second set, `gluon` GluonCV's, `miil` Alibaba's, `fb` Facebook's, trained on up to a billion
images of the web first, and `a1`, `a2`, `a3` the recipes of
[ResNet strikes back](https://arxiv.org/abs/2110.00476), the last one the cheapest.

**Top-1** is the accuracy in percent on ImageNet-1k's validation images, one centre crop each,
that timm publishes for these very files. "80.38 at 224" is with the preprocessing that
`model.predict` uses; where a second number follows, the weights do better on larger images, and
timm takes more of the picture there as well. A convolutional network takes any size:
`fz.models.get("resnet50", pretrained=True, input_shape=(288, 288, 3))`.

## Licences

The licence in the tables is that of the weights, as timm states it; flaxzoo's code is Apache-2.0
whatever you load. Weights are downloaded from timm's repositories on the Hugging Face Hub when you
ask for them, and are not part of flaxzoo, but for those of `cnn`.

| licence | weights | what it means for you |
|---|--:|---|
{licences}

Some are the default of their architecture, so that `pretrained=True` without a tag gives weights
that you may not use commercially: {restricted}.

ImageNet's own terms allow its images for research only. Whether that binds weights trained on
them is an open question, which the licences above do not answer.

`spec.licence` says the same to a program:

```python
import flaxzoo as fz

names = fz.models.list("*resne*", pretrained=True)
specs = [fz.models.info(name) for name in names]
commercial = [spec for spec in specs if spec.licence in ("apache-2.0", "bsd-3-clause")]
best = max(commercial, key=lambda spec: spec.top1 or 0)
print(f"{{best.name}}.{{best.tag}}: {{best.top1}} % at {{best.input_shape}}, {{best.licence}}")
assert len(commercial) < len(specs)
```
"""

_LICENCES = {
    "apache-2.0": "any use; keep the notice",
    "bsd-3-clause": "any use; keep the notice, do not advertise with the authors' names",
    "mit": "any use; keep the notice",
    "cc-by-nc-4.0": "**no commercial use**; name the authors",
    "unknown": "nobody has said; ask the authors before you rely on them",
}

_LEFT_OUT = """\
## Left out

Of timm {version}'s modules {modules}, these architectures are not here:

| name in timm | why |
|---|---|
{rows}

Names that timm keeps for old code only, such as `tv_resnet50` or `gluon_resnet50_v1d`, are here
under the names that timm gives them now: `resnet50.tv_in1k`, `resnet50d.gluon_in1k`.
"""

Measure = Callable[[str], tuple[int, float]]


def names() -> list[str]:
    """The architectures that flaxzoo itself registers."""
    return [
        name
        for name in fz.models.list()
        if MODELS.entry(name).__module__.partition(".")[0] == "flaxzoo"
    ]


def measure(name: str) -> tuple[int, float]:
    """Parameters, and billions of operations for one example of the architecture's input shape."""
    spec = fz.models.info(name)
    return spec.parameters, spec.gflops


def families(names: Iterable[str]) -> dict[str, list[str]]:
    """Names by the heading of their family, the smaller numbers in them first.

    Raises:
      SystemExit: a name fits no family of ``FAMILIES``.
    """
    found: dict[str, list[str]] = {heading: [] for heading, _, _ in FAMILIES}
    for name in sorted(names, key=_natural):
        heading = next((h for h, pattern, _ in FAMILIES if re.fullmatch(pattern, name)), None)
        if heading is None:
            raise SystemExit(f"{name}: fits no family of this script, add one to FAMILIES")
        found[heading].append(name)
    return found


def rows(name: str, cost: tuple[int, float]) -> list[str]:
    """An architecture's lines of its table: one per set of weights, its own facts in the first."""
    parameters, gflops = cost
    shape = fz.models.info(name).input_shape or ()
    first = [f"`{name}`", _number(parameters / 1e6), _number(gflops), _shape(shape)]
    lines: list[str] = []
    for key, entry in catalog().items():
        if key.partition(".")[0] == name:
            weights = [f"`{entry['tag']}`", _accuracy(entry), entry["licence"]]
            lines.append(_line([*(first if not lines else [""] * 4), *weights]))
    return lines or [_line([*first, "none", "", ""])]


def build(measure: Measure | Mapping[str, tuple[int, float]] = measure) -> str:
    """The page.

    Args:
      measure: gives (parameters, GFLOPs) of an architecture.
    """
    look_up = measure.__getitem__ if isinstance(measure, Mapping) else measure
    everything = names()
    entries = catalog()
    licences = [entry["licence"] for entry in entries.values()]
    parts = [
        _INTRO.format(
            models=len(everything),
            weights=len(entries),
            licences="\n".join(
                _line([licence, str(count), _LICENCES[licence]])
                for licence, count in Counter(licences).most_common()
            ),
            restricted=", ".join(f"`{key}`" for key in _restricted_defaults()),
        )
    ]
    notes = {heading: text for heading, _, text in FAMILIES}
    for heading, members in families(everything).items():
        if not members:
            continue
        papers = sorted({fz.models.info(name).paper for name in members} - {""})
        links = ", ".join(f"[{_paper(url)}]({url})" for url in papers)
        about = notes[heading] + (f" References: {links}." if links else "")
        table = [
            _line(["model", "parameters (M)", "GFLOPs", "input", "weights", "top-1", "licence"]),
            "|---|--:|--:|---|---|---|---|",
            *(line for name in members for line in rows(name, look_up(name))),
        ]
        parts.append("\n".join([f"## {heading}\n", f"{about}\n", *table]) + "\n")
    parts.append(left_out())
    return "\n".join(parts)


def left_out() -> str:
    """The section on timm's architectures that flaxzoo does not have."""
    file = resources.files("flaxzoo.weights").joinpath("catalog", "timm.json")
    document = json.loads(file.read_text("utf-8"))
    return _LEFT_OUT.format(
        version=document["source"]["version"],
        modules=" and ".join(f"`{module}`" for module in document["source"]["modules"]),
        rows="\n".join(_line([f"`{name}`", why]) for name, why in document["left_out"].items()),
    )


def _restricted_defaults() -> list[str]:
    """Weights that are an architecture's default and not for every use."""
    defaults: dict[str, str] = {}
    for key in catalog():
        defaults.setdefault(key.partition(".")[0], key)
    open_ = ("apache-2.0", "bsd-3-clause", "mit")
    return [key for key in defaults.values() if catalog()[key]["licence"] not in open_]


def _accuracy(entry: Mapping[str, Any]) -> str:
    size = _size(entry["input_shape"])
    if entry["top1"] is None:
        classes = entry["num_classes"]
        return (f"{classes:,} classes" if classes else "no classifier") + f", {size}"
    texts = [f"{entry['top1']:.2f} at {size}"]
    test_top1 = entry.get("test_top1")
    if test_top1 is not None and test_top1 != entry["top1"]:
        texts.append(f"{test_top1:.2f} at {_size(entry['test_input_shape'])}")
    return ", ".join(texts)


def _natural(name: str) -> list[Any]:
    """Sorts resnet18 before resnet101."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _number(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.5f}".rstrip("0")


def _shape(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


def _size(shape: list[int]) -> str:
    height, width = shape[:2]
    return str(height) if height == width else f"{height} x {width}"


def _paper(url: str) -> str:
    return url.removeprefix("https://").replace("arxiv.org/abs/", "arXiv:")


def _line(cells: Iterable[str]) -> str:
    return re.sub(" +", " ", f"| {' | '.join(cells)} |")


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=PAGE)
    parser.add_argument("--jobs", type=int, default=2, help="processes that trace the models")
    options = parser.parse_args(arguments)
    # Forking a process that has started JAX's threads may hang it.
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        costs = dict(zip(names(), pool.map(measure, names()), strict=True))
    options.output.write_text(build(costs), "utf-8", newline="\n")


if __name__ == "__main__":
    main()
