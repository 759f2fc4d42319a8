"""PyTorch's files, written by torch itself."""

import argparse
import collections
import os
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch

import flaxzoo as fz
from flaxzoo.errors import CheckpointError
from flaxzoo.weights.readers import read_tensors

STATE = collections.OrderedDict(
    [
        ("conv1.weight", torch.arange(24.0).reshape(4, 3, 2, 1)),
        ("bn1.running_mean", torch.tensor([1.0, 2.0])),
        ("bn1.num_batches_tracked", torch.tensor(3)),
    ]
)


def check(found, state=STATE):
    assert list(found) == list(state)
    for name, tensor in state.items():
        np.testing.assert_array_equal(found[name], tensor.numpy())
        assert found[name].dtype == tensor.numpy().dtype
        assert found[name].flags.c_contiguous


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "pytorch_model.bin", "w.pth.tar", "last.ckpt"])
@pytest.mark.parametrize("zipped", [True, False])
def test_state_dicts_in_both_formats(tmp_path, name, zipped):
    torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=zipped)
    check(read_tensors(tmp_path / name))


def test_a_directory_of_timm_s(tmp_path):
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    check(read_tensors(tmp_path))


def test_arrays_outlive_the_file(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(STATE, path)
    found = read_tensors(path)
    os.truncate(path, 0)
    check(found)


def test_training_checkpoints_and_their_order(tmp_path):
    path = tmp_path / "w.pth"
    other = {name: tensor + 1 for name, tensor in STATE.items()}
    extra = {"epoch": 3, "arch": "resnet18", "args": argparse.Namespace(lr=0.1)}
    optimizer = {"state": {0: {"exp_avg": torch.ones(9)}}, "param_groups": [{"lr": 0.1}]}
    for key in ("state_dict", "model", "state_dict_ema", "model_ema"):
        torch.save({**extra, "optimizer": optimizer, key: STATE}, path)
        check(read_tensors(path))
    torch.save({"state_dict": other, "state_dict_ema": STATE, "model_ema": other}, path)
    check(read_tensors(path))
    torch.save({"state_dict": STATE, "model": other, "model_ema": other}, path)
    check(read_tensors(path, use_ema=False))
    torch.save({"model": "resnet18", "state_dict_ema": None, "state_dict": STATE}, path)
    check(read_tensors(path))


def test_wrapped_models(tmp_path):
    path = tmp_path / "w.pth"
    for wrapper in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model."):
        torch.save({wrapper + name: tensor for name, tensor in STATE.items()}, path)
        check(read_tensors(path))
    averaged = torch.optim.swa_utils.AveragedModel(torch.nn.Linear(2, 3))
    torch.save({"model_ema": averaged.state_dict()}, path)
    assert list(read_tensors(path)) == ["weight", "bias"]


def test_tensors_of_every_kind(tmp_path):
    path = tmp_path / "w.pth"
    base = torch.arange(6.0).reshape(2, 3)
    torch.save(
        {
            "bf16": base.to(torch.bfloat16),
            "f8": base.to(torch.float8_e4m3fn),
            "parameter": torch.nn.Parameter(base),
            "transposed": base.T,
            "scalar": torch.tensor(2.5, dtype=torch.bfloat16),
            "empty": torch.zeros(0, 3),
            "note": "not a tensor",
            "tied": base,
        },
        path,
    )
    found = read_tensors(path)
    assert "note" not in found
    assert found["bf16"].dtype == ml_dtypes.bfloat16
    assert found["f8"].dtype == ml_dtypes.float8_e4m3fn
    for name in ("bf16", "f8", "parameter", "tied"):
        np.testing.assert_array_equal(found[name].astype(np.float32), base.numpy())
    np.testing.assert_array_equal(found["transposed"], base.T.numpy())
    assert found["scalar"].shape == ()
    assert float(found["scalar"]) == 2.5
    assert found["empty"].shape == (0, 3)


def refused(path, match, **options):
    with pytest.raises(CheckpointError, match=match) as caught:
        read_tensors(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


class Payload:
    """Unpickling it makes a file: the proof that something ran."""

    def __init__(self, proof):
        self.command = f"touch {proof}"

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_not_run(tmp_path, zipped):
    path, proof = tmp_path / "w.pth", tmp_path / "proof"
    contents = {"state_dict": STATE, "extra": Payload(proof)}
    torch.save(contents, path, _use_new_zipfile_serialization=zipped)
    refused(path, r"refused: .*posix\.system; nothing was run")
    path.write_bytes(pickle.dumps(Payload(proof)))
    refused(path, "refused|not a readable")
    assert not proof.exists()
    # The payload does work, so that its absence above says something.
    pickle.loads(pickle.dumps(Payload(proof)))
    assert proof.exists()


def test_a_whole_pickled_model_is_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(torch.nn.Linear(2, 3), path)
    refused(path, r"refused: .*torch\.nn\.modules\.linear\.Linear.*state_dict\(\)")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_refused(tmp_path):
    path = tmp_path / "w.pt"
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 3), torch.ones(1, 2)), path)
    refused(path, "TorchScript program, not weights")


def test_compressed_members_are_refused(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(STATE, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    refused(path, "torch.save does not compress")


def test_tensors_larger_than_their_data(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"w": torch.zeros(1).expand(1 << 20)}, path)
    refused(path, "'w' is larger than its data")
    base = torch.zeros(1 << 20)
    torch.save({f"w{i}": base.view(-1) for i in range(100)}, path)
    refused(path, "more than max_bytes=268,435,456")
    assert len(read_tensors(path, max_bytes=1 << 30)) == 100


def test_sparse_and_meta_tensors(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"w": torch.eye(3).to_sparse()}, path)
    refused(path, "'w' is sparse")
    torch.save({"w": torch.ones(3, device="meta")}, path)
    refused(path, "'w' is sparse, quantized or has no data")


def test_no_state_dict(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"weights": {"w": torch.ones(1)}, "step": 3}, path)
    refused(path, r"no state dict found in it; it holds 'weights' \(dict\), 'step' \(int\)")
    torch.save([torch.ones(1)], path)
    refused(path, "it holds a list")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0.01, 0.3, 0.6, 0.95])
def test_cut_short(tmp_path, zipped, keep):
    path = tmp_path / "w.pth"
    torch.save({"w": torch.randn(64, 64)}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    refused(path, "not a readable|refused")


def test_checksums_of_the_archive_are_compared(tmp_path):
    path = tmp_path / "w.pth"
    torch.save(STATE, path)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        # Where a member's data begin: behind its header, its name and what pads them.
        places = []
        for member in archive.infolist():
            name, extra = struct.unpack("<HH", whole[member.header_offset + 26 :][:4])
            start = member.header_offset + 30 + name + extra
            places += [start, start + member.file_size - 1]
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 16
        path.write_bytes(damaged)
        refused(path, "damaged: the checksum of 'w/.*' in it does not match")


def test_an_archive_that_was_written_without_checksums_is_read(tmp_path):
    path = tmp_path / "w.pth"
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, path)
    finally:
        torch.serialization.set_crc32_options(True)
    check(read_tensors(path))


@pytest.mark.parametrize("key", ["state_dict", "model", "model_ema"])
def test_a_file_that_contains_itself_is_refused(tmp_path, key):
    endless = {"epoch": 3}
    endless[key] = endless
    torch.save(endless, tmp_path / "w.pth")
    refused(tmp_path / "w.pth", r"no state dict found in it; it holds 'epoch' \(int\)")


def test_tensors_that_are_no_weights_are_refused(tmp_path):
    model = fz.models.get("test_resnet", num_classes=2).init(0)
    state = model.to_torch_state_dict()
    state["bn1.bias"][0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    state = model.to_torch_state_dict()
    state["conv1.0.weight"] = (state["conv1.0.weight"] * 100).int()
    torch.save(state, tmp_path / "int.pth")
    for name, message in (
        ("nan.pth", "not finite .* in params/backbone/bn1/bias"),
        ("int.pth", "params/backbone/conv1_0/kernel is int32, the model's is float32"),
    ):
        for channels in (3, 1):
            with pytest.raises(CheckpointError, match=message):
                fz.models.get("test_resnet", pretrained=tmp_path / name, in_channels=channels)
