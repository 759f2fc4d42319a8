"""Writes tests/golden/resnet.npz: what timm computes, for tests that have neither timm nor torch.

    python scripts/make_golden.py [--output FILE]

It needs timm (1.0.31 wrote the committed file). The models are those of tests/golden/resnet.json,
small: one block in a stage and few channels, where the file says nothing else. Weights and images
are not stored but drawn again from names and shapes by ``flaxzoo.weights.synthetic``. Stored are,
for each model, the logits, the pooled features, and of every stage's map the mean of each channel
and, of the second image, the first channel in full.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flaxzoo.verify import fill_reference, import_timm, reference_outputs
from flaxzoo.weights.synthetic import synthetic_images

GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "resnet.json"
# What a model of the list has unless it says otherwise.
DEFAULTS = {
    "layers": (1, 1, 1, 1),
    "widths": (16, 24, 32, 48),
    "num_classes": 5,
    "size": (43, 29),
}
STAGES = ("stem", "layer1", "layer2", "layer3", "layer4")
# timm's names of fields that have others here.
_FIELDS = {"in_channels": "in_chans", "widths": "channels", "pooling": "global_pool"}


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the script."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, default=GOLDEN.with_suffix(".npz"))
    output = parser.parse_args(argv).output
    arrays = {}
    for name, config in configs().items():
        for part, value in compute(name, config).items():
            arrays[f"{name}/{part}"] = value
    np.savez_compressed(output, **arrays)
    print(f"{output}: {len(configs())} models, {output.stat().st_size / 1024:.0f} KiB")


def configs() -> dict[str, dict[str, Any]]:
    """The keywords for ``flaxzoo.models.get`` and the images' ``size``, by the model's name."""
    listed = json.loads(GOLDEN.read_text("utf-8"))
    return {name: {**DEFAULTS, **config} for name, config in listed.items()}


def compute(name: str, config: dict[str, Any]) -> dict[str, np.ndarray]:
    """What is stored for one model, as timm computes it."""
    timm = import_timm()
    config = dict(config)
    size = config.pop("size")
    options = {_FIELDS.get(key, key): value for key, value in config.items()}
    if options.get("global_pool") == "avg+max":
        options["global_pool"] = "avgmax"
    reference = timm.create_model(name, **options)
    fill_reference(reference)
    images = synthetic_images((2, *size, config.get("in_channels", 3)))
    *maps, features, logits = reference_outputs(reference, images)
    return digest(dict(zip(STAGES, maps, strict=True)), features, logits)


def digest(
    maps: dict[str, np.ndarray], features: np.ndarray, logits: np.ndarray
) -> dict[str, np.ndarray]:
    """What is stored of a model's outputs."""
    stored = {"features": features, "logits": logits}
    for stage, found in maps.items():
        stored[f"{stage}.means"] = found.mean((0, 1, 2))
        stored[f"{stage}.first"] = found[1, :, :, 0]
    return stored


if __name__ == "__main__":
    main()
