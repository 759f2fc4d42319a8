"""Writes ``docs/zoo.md``: every model with its cost, its pretrained weights and their licences.

    python scripts/make_models_page.py

Everything comes from flaxzoo itself: a section for each family's file, whose docstring gives its
title and text; its rows, costs, weights and certificates from the catalogue; and the table of
licences. Nothing is traced, so this takes seconds.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import flaxzoo as fz
from flaxzoo.licences import licence_of
from flaxzoo.models import catalog
from flaxzoo.models.registry import MODELS, families

PAGE = Path(__file__).resolve().parent.parent / "docs/zoo.md"

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
that timm (or torchvision) publishes for these very files. "80.38 at 224" is with the preprocessing
that `model.predict` uses; where a second number follows, the weights do better on larger images,
and timm takes more of the picture there as well. A convolutional network takes any size:
`fz.models.get("resnet50", pretrained=True, input_shape=(288, 288, 3))`.

**Certified** says how far the architecture's outputs are from timm's, on the same random weights
and images, relative to timm's largest value: of the logits, and the largest of all feature maps.
"Whole" is the network as it is; where it says fields, such as `layers`, a network of at most two
blocks in each stage was compared, because the whole is too large to do so often. timm {timm} was
the reference; of {others}, which timm lacks,
torchvision {torchvision}. `flaxzoo verify NAME` repeats it on your machine, and `make certify` for
all.

## Licences

The licence in the tables is that of the weights, as timm states it; flaxzoo's code is Apache-2.0
whatever you load. Weights are downloaded from timm's repositories on the Hugging Face Hub when you
ask for them, those of {others} from
torchvision's server; they are not part of flaxzoo, but for those of `cnn`.

| licence | weights | commercial use | what it means for you |
|---|--:|---|---|
{licences}

Some are the default of their architecture, so that `pretrained=True` without a tag gives weights
that you may not use commercially: {restricted}.

ImageNet's own terms allow its images for research only. Whether that binds weights trained on
them is an open question, which the licences above do not answer.

`spec.licence` says the same to a program, and the list of names filters by it:

```python
import flaxzoo as fz

names = fz.models.list("*resne*", licence="commercial")
best = max((fz.models.info(name) for name in names), key=lambda spec: spec.top1 or 0)
print(f"{{best.name}}.{{best.tag}}: {{best.top1}} % at {{best.input_shape}}, {{best.licence}}")
assert len(names) < len(fz.models.list("*resne*", pretrained=True))
```
"""

_LEFT_OUT = """\
## Left out

Of timm {version}'s modules {modules}, these architectures are not here:

| name in timm | why |
|---|---|
{rows}

Names that timm keeps for old code only, such as `tv_resnet50` or `gluon_resnet50_v1d`, are here
under the names that timm gives them now: `resnet50.tv_in1k`, `resnet50d.gluon_in1k`.
"""

_HEADER = (
    "model",
    "parameters (M)",
    "GFLOPs",
    "input",
    "certified",
    "weights",
    "top-1",
    "licence",
)


def names(family: str) -> list[str]:
    """The architectures of a family, in the order in which its file has them."""
    module = importlib.import_module(f"flaxzoo.models.{family}")
    return [n for n, known in MODELS.architectures.items() if known.family == module.__name__]


def describe(family: str) -> tuple[str, str]:
    """The title of a family's section and what it says before the table.

    Both are the docstring's of its file: the title is its first line up to a colon, and the text
    is what follows, without the list of references.
    """
    doc = inspect.getdoc(importlib.import_module(f"flaxzoo.models.{family}")) or family
    first, *paragraphs = re.split(r"\n\s*\n", doc)
    title, _, rest = " ".join(first.split()).partition(": ")
    texts = [rest[:1].upper() + rest[1:]] if rest else []
    texts += [" ".join(text.split()) for text in paragraphs if not text.startswith("References:")]
    return title.rstrip("."), "\n\n".join(texts).replace("``", "`")


def section(family: str) -> str:
    """A family's section: title, text, papers and the table of its names."""
    title, text = describe(family)
    members = names(family)
    papers = sorted({MODELS.architecture(name).paper for name in members} - {""})
    links = ", ".join(f"[{_paper(url)}]({url})" for url in papers)
    about = [part for part in (text, f"Papers: {links}." if links else "") if part]
    table = [_line(_HEADER), "|---|--:|--:|---|---|---|---|---|"]
    table += [line for name in members for line in rows(name)]
    return "\n\n".join([f"## {title}", *about, "\n".join(table)]) + "\n"


def rows(name: str) -> list[str]:
    """An architecture's lines of its table: one per set of weights, its own facts in the first."""
    known = catalog.known(name)
    first = [
        f"`{name}`",
        _number(known["parameters"] / 1e6),
        _number(known["gflops"]),
        " x ".join(map(str, known["input_shape"])),
        certified(name),
    ]
    lines: list[str] = []
    for tag in catalog.tags(name):
        entry = catalog.entry(name, tag)
        weights = [f"`{tag}`", _accuracy(entry), entry["licence"]]
        lines.append(_line([*(first if not lines else [""] * len(first)), *weights]))
    return lines or [_line([*first, "none", "", ""])]


def certified(name: str) -> str:
    """The certificate in words, without the version that the page names once."""
    text = fz.models.info(name).certified or ""
    return re.sub(r" against \S+ \S+", "", text)


def licences() -> str:
    """The table of the licences that the catalogue's weights have."""
    counts = Counter(catalog.licence(key) for key, _ in catalog.weights())
    return "\n".join(
        _line(
            [
                name,
                str(count),
                "yes" if licence_of(name).commercial else "**no**",
                licence_of(name).terms,
            ]
        )
        for name, count in counts.most_common()
    )


def left_out() -> str:
    """The section on timm's architectures that flaxzoo does not have."""
    documents = [catalog.document(family) for family in families_of("timm")]
    return _LEFT_OUT.format(
        version=version_of("timm"),
        modules=", ".join(f"`{document['source']['module']}`" for document in documents),
        rows="\n".join(
            _line([f"`{name}`", why])
            for document in documents
            for name, why in document["left_out"].items()
        ),
    )


def families_of(package: str) -> list[str]:
    """The families whose names are a package's, ``"timm"`` or ``"torchvision"``."""
    return [family for family in families() if _source(family).get("package") == package]


def version_of(package: str) -> str:
    """The version of a package that the catalogue was made from.

    Raises:
      SystemExit: families were made from different ones.
    """
    versions = {_source(family)["version"] for family in families_of(package)}
    if len(versions) != 1:
        raise SystemExit(f"the catalogue is of several versions of {package}: {sorted(versions)}")
    return versions.pop()


def _source(family: str) -> Mapping[str, Any]:
    return catalog.document(family).get("source", {})


def build() -> str:
    """The page."""
    restricted = [
        f"`{name}.{tags[0]}`"
        for name in fz.models.list()
        if (tags := catalog.tags(name))
        and not licence_of(catalog.licence(f"{name}.{tags[0]}")).commercial
    ]
    others = [describe(family)[0] for family in families_of("torchvision")]
    intro = _INTRO.format(
        models=sum(len(names(family)) for family in families()),
        weights=len(list(catalog.weights())),
        licences=licences(),
        restricted=", ".join(restricted),
        timm=version_of("timm"),
        torchvision=version_of("torchvision"),
        others=f"{', '.join(others[:-1])} and {others[-1]}",
    )
    return "\n".join([intro, *map(section, families()), left_out()])


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


def _number(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.5f}".rstrip("0")


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
    options = parser.parse_args(arguments)
    options.output.write_text(build(), "utf-8", newline="\n")


if __name__ == "__main__":
    main()
