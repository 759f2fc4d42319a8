"""The works that train_step.py and inference.py time: a network, a batch and the first weights.

Parameters and batches are float32, and so is what is computed but where bfloat16 is asked for. All
candidates of a work get the same batch, and the same weights where they have a way to take them.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

LEARNING_RATE = 1e-3
FLOAT32, BFLOAT16 = DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Work:
    """One network and its batch.

    Attributes:
      title: for the table.
      batch: examples in a batch.
      shape: of one example.
      classes: width of the output.
      vocabulary: number of token ids, for inputs that are ids.
      config: further arguments of ``flaxzoo.models.get``.
    """

    title: str
    batch: int
    shape: tuple[int, ...]
    classes: int
    vocabulary: int = 0
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Inputs, float32 or int32 token ids, and int32 labels."""
        rng = np.random.default_rng(0)
        shape = (self.batch, *self.shape)
        if self.vocabulary:
            inputs = rng.integers(self.vocabulary, size=shape, dtype=np.int32)
        else:
            inputs = rng.standard_normal(shape, np.float32)
        return inputs, (np.arange(self.batch) % self.classes).astype(np.int32)


def _images(title: str) -> Work:
    return Work(f"{title}, batch 8 at 224 x 224", 8, (224, 224, 3), 1000)


# The LSTM reads 10,000 words as vectors of 128, and classifies by its last output.
EMBEDDING, HIDDEN = 128, 128
_TEXT = {"vocab_size": 10_000, "embedding_dim": EMBEDDING, "hidden_size": HIDDEN}
WORKS = {
    "resnet18": _images("ResNet-18"),
    "resnet50": _images("ResNet-50"),
    "resnext50_32x4d": _images("ResNeXt-50 (32x4d)"),
    "resnest50d": _images("ResNeSt-50"),
    "vit_small_patch16_224": _images("ViT-S/16"),
    "swin_tiny_patch4_window7_224": _images("Swin-T"),
    "convnext_tiny": _images("ConvNeXt-T"),
    "mobilenetv3_large_100": _images("MobileNetV3-L"),
    "efficientnet_b0": _images("EfficientNet-B0"),
    "regnety_032": _images("RegNetY-3.2GF"),
    "densenet121": _images("DenseNet-121"),
    "cnn": Work("CNN, batch 128 of 28 x 28", 128, (28, 28, 1), 10),
    "mlp": Work("MLP, batch 128 of 784", 128, (784,), 10, config={"input_shape": (784,)}),
    "lstm": Work("LSTM for text, batch 32 of 50 words", 32, (50,), 2, 10_000, _TEXT),
}
# Those whose models all compute in bfloat16 if they are told to.
IN_BFLOAT16 = tuple(name for name in WORKS if name != "lstm")
# Those that timm has, under the same names.
TIMMS = tuple(name for name, work in WORKS.items() if len(work.shape) == 3 and work.batch == 8)
RESNETS = tuple(name for name in TIMMS if name.startswith("res"))
TRANSFORMERS = ("vit_small_patch16_224", "swin_tiny_patch4_window7_224")


def flaxzoo_model(name: str, dtype: str = FLOAT32) -> Any:
    """Our model of a work, with the weights that all candidates start from."""
    import flaxzoo as fz

    work = WORKS[name]
    config = work.config if dtype == FLOAT32 else {**work.config, "dtype": dtype}
    model = fz.models.get(name, num_classes=work.classes, **config)
    return model.init(0, work.data()[0][:1])


def write_weights(name: str, directory: str) -> None:
    """Writes a work's weights: under our names, and under timm's if it has the network."""
    from safetensors.numpy import save_file

    from flaxzoo._trees import flatten

    model = flaxzoo_model(name)
    flat = {path: np.array(leaf) for path, leaf in flatten(dict(model.variables)).items()}
    save_file(flat, weights_file(directory, name))
    if name in TIMMS:
        save_file(model.to_torch_state_dict(as_numpy=True), weights_file(directory, name, "timm"))


def read_weights(directory: str, name: str) -> dict[str, Any]:
    """What ``write_weights`` wrote, as the tree of our variables."""
    from safetensors.numpy import load_file

    tree: dict[str, Any] = {}
    for path, leaf in load_file(weights_file(directory, name)).items():
        *groups, last = path.split("/")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = leaf
    return tree


def weights_file(directory: str, name: str, names: str = "flaxzoo") -> Path:
    """Where a work's weights are, under the names of flaxzoo or timm."""
    return Path(directory) / f"{name}.{names}.safetensors"


if __name__ == "__main__":
    for each in sys.argv[2:]:
        write_weights(each, sys.argv[1])
