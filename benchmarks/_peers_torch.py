"""torch's training step and inference: timm's networks, and the small networks in ``torch.nn``."""

from __future__ import annotations

from typing import Any

import numpy as np
from _peers import Candidate
from _works import (
    BFLOAT16,
    EMBEDDING,
    FLOAT32,
    HIDDEN,
    LEARNING_RATE,
    TIMMS,
    WORKS,
    read_weights,
    weights_file,
)


def eager(work: str, kind: str, weights: str, dtype: str = FLOAT32) -> Candidate:
    """As its documentation writes it; images are channels last, bfloat16 is autocast's."""
    return _candidate(work, kind, weights, dtype, compiled=False)


def compiled(work: str, kind: str, weights: str, dtype: str = FLOAT32) -> Candidate:
    """The same with the network under ``torch.compile``."""
    return _candidate(work, kind, weights, dtype, compiled=True)


def _candidate(work: str, kind: str, weights: str, dtype: str, *, compiled: bool) -> Candidate:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = _of_timm(work, weights) if work in TIMMS else _small(work, weights)
    images, labels = (torch.from_numpy(value).to(device) for value in WORKS[work].data())
    labels = labels.long()
    if images.ndim == 4:
        network = network.to(memory_format=torch.channels_last)
        # The permutation of contiguous NHWC is channels last already.
        images = images.permute(0, 3, 1, 2)
    inputs = images.long() if WORKS[work].vocabulary else images
    network = network.to(device).train(kind == "train")
    call = torch.compile(network) if compiled else network
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)

    def forward() -> Any:
        with torch.autocast(device, torch.bfloat16, enabled=dtype == BFLOAT16):
            return call(inputs)

    def infer() -> Any:
        with torch.inference_mode():
            return forward().float()

    def step() -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(forward().float(), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def wait(_: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def value(result: Any) -> Any:
        return result.item() if kind == "train" else result.cpu().numpy()

    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return Candidate(step if kind == "train" else infer, wait, value, name)


def _of_timm(work: str, weights: str) -> Any:
    from safetensors.torch import load_file

    from flaxzoo.verify import import_timm

    # Swin drops paths by default, at a rate of 0.1; a DenseNet has none to drop.
    drop = {} if work.startswith("densenet") else {"drop_path_rate": 0.0}
    network = import_timm().create_model(work, **drop)
    network.load_state_dict(load_file(weights_file(weights, work, "timm")), strict=False)
    return network


def _small(work: str, weights: str) -> Any:
    """The CNN, the MLP or the LSTM with our weights."""
    from torch import nn

    params = read_weights(weights, work)["params"]
    backbone, head = params["backbone"], params["head"]["fc"]
    classes = WORKS[work].classes
    if work == "lstm":
        return _lstm(backbone, head)
    if work == "mlp":
        network = nn.Sequential(
            nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, classes)
        )
        _fill(network[0], backbone["dense_0"])
        _fill(network[2], backbone["dense_1"])
        _fill(network[4], head)
        return network
    network = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 7 * 7, 256), nn.ReLU(), nn.Linear(256, classes)),
    )
    _fill(network[0], backbone["conv_0"])
    _fill(network[3], backbone["conv_1"])
    # Flattened maps have their channels first there.
    dense = dict(backbone["dense_0"])
    dense["kernel"] = dense["kernel"].reshape(49, 64, 256).swapaxes(0, 1).reshape(-1, 256)
    _fill(network[7], dense)
    _fill(network[9], head)
    return network


def _lstm(backbone: Any, head: Any) -> Any:
    import torch
    from torch import nn

    from flaxzoo.models.lstm import to_torch_state_dict

    class TextLSTM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(*backbone["embedding"]["embedding"].shape)
            self.lstm = nn.LSTM(EMBEDDING, HIDDEN, batch_first=True)
            self.fc = nn.Linear(HIDDEN, head["bias"].size)

        def forward(self, ids: Any) -> Any:
            return self.fc(self.lstm(self.embedding(ids))[0][:, -1])

    network = TextLSTM()
    table = torch.from_numpy(backbone["embedding"]["embedding"])
    network.embedding.load_state_dict({"weight": table})
    state = to_torch_state_dict({"l0": backbone["l0"]})
    network.lstm.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in state.items()})
    _fill(network.fc, head)
    return network


def _fill(layer: Any, params: Any) -> None:
    import torch

    kernel = params["kernel"]
    weight = kernel.T if kernel.ndim == 2 else kernel.transpose(3, 2, 0, 1)
    arrays = {"weight": weight, "bias": params["bias"]}
    layer.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in arrays.items()})
