import io
import json
import os
import pickle
import struct
import subprocess
import sys
import time
import zipfile

import h5py
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from flaxzoo.errors import CheckpointError
from flaxzoo.weights.readers import read_tensors

TENSORS = {
    "conv1.weight": np.arange(24, dtype=np.float32).reshape(4, 3, 1, 2),
    "bn1.num_batches_tracked": np.array(7),
    "half": np.array([1.5, -2], np.float16),
    "empty": np.zeros((0, 3), np.float64),
    "mask": np.array([[True, False]]),
}


def write_safetensors(path, tensors=TENSORS):
    save_file(tensors, path)


def write_npz(path, tensors=TENSORS):
    with path.open("wb") as file:
        np.savez_compressed(file, **tensors)


def write_hdf5(path, tensors=TENSORS):
    with h5py.File(path, "w") as file:
        for name, tensor in tensors.items():
            file[name.replace(".", "/")] = tensor


WRITERS = {".safetensors": write_safetensors, ".npz": write_npz, ".h5": write_hdf5}
ALL = [*WRITERS, ".hdf5", ".pth", ".pt", ".bin", ".tar"]


def refused(path, match, **options):
    """The one error for ``path``, which names it."""
    with pytest.raises(CheckpointError, match=match) as caught:
        read_tensors(path, **options)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Payload:
    """Unpickling it makes a file: the proof that something ran."""

    def __init__(self, proof):
        self.command = f"touch {proof}"

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("suffix", WRITERS)
def test_arrays_come_back_as_they_were(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    WRITERS[suffix](path)
    expected = TENSORS
    if suffix == ".h5":
        expected = {name.replace(".", "/"): tensor for name, tensor in TENSORS.items()}
    found = read_tensors(str(path))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        np.testing.assert_array_equal(found[name], tensor)


def test_arrays_do_not_depend_on_the_file_any_more(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path)
    found = read_tensors(path)
    path.write_bytes(bytes(path.stat().st_size))
    np.testing.assert_array_equal(found["conv1.weight"], TENSORS["conv1.weight"])


def test_small_floats(tmp_path):
    values = np.array([[0.5, -3.0]])
    types = (ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2)
    header, data = {}, b""
    for name, dtype in zip(("BF16", "F8_E4M3", "F8_E5M2"), types, strict=True):
        part = values.astype(dtype).tobytes()
        offsets = [len(data), len(data) + len(part)]
        header[name] = {"dtype": name, "shape": [1, 2], "data_offsets": offsets}
        data += part
    text = str(header).replace("'", '"').encode()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    found = read_tensors(path)
    assert [found[name].dtype for name in header] == [np.dtype(t) for t in types]
    for array in found.values():
        np.testing.assert_array_equal(array.astype(np.float64), values)


def test_many_small_floats_are_read_in_one_pass(tmp_path):
    names = [f"t{i}" for i in range(2000)]
    header = {
        name: {"dtype": "BF16", "shape": [], "data_offsets": [2 * i, 2 * i + 2]}
        for i, name in enumerate(names)
    }
    text, values = json.dumps(header).encode(), np.arange(2000).astype(ml_dtypes.bfloat16)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + values.tobytes())
    start = time.perf_counter()
    found = read_tensors(path)
    # With the header parsed for each it takes some eight seconds.
    assert time.perf_counter() - start < 1
    assert [found[name] for name in names] == values.tolist()


def test_npz_of_bfloat16_fortran_order_and_big_endian(tmp_path):
    path = tmp_path / "weights.npz"
    grid = np.arange(6.0).reshape(2, 3)
    np.savez(
        path,
        bf16=grid.astype(ml_dtypes.bfloat16),
        fortran=np.asfortranarray(grid),
        big=grid.astype(">f4"),
    )
    found = read_tensors(path)
    assert found["bf16"].dtype == ml_dtypes.bfloat16
    assert found["big"].dtype == np.float32
    for array in found.values():
        np.testing.assert_array_equal(array.astype(np.float64), grid)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "model."])
def test_a_wrapper_s_prefix_is_taken_off(tmp_path, prefix):
    path = tmp_path / "weights.safetensors"
    write_safetensors(path, {prefix + name: tensor for name, tensor in TENSORS.items()})
    assert read_tensors(path).keys() == TENSORS.keys()
    write_safetensors(path, {prefix + "a": np.ones(1), "b": np.ones(1)})
    assert read_tensors(path).keys() == {prefix + "a", "b"}


def test_content_decides_where_the_name_says_nothing(tmp_path):
    for i, write in enumerate(WRITERS.values()):
        path = tmp_path / f"blob{i}"
        write(path)
        assert len(read_tensors(path)) == len(TENSORS)


def test_a_directory(tmp_path):
    refused(tmp_path, r"no weights in this directory; looked for model\.safetensors and pytorch")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    refused(tmp_path, r"several files \(model\.safetensors\.index\.json\)")
    write_safetensors(tmp_path / "model.safetensors")
    assert read_tensors(tmp_path).keys() == TENSORS.keys()


@pytest.mark.parametrize("suffix", ALL)
def test_missing_empty_and_other_content(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    refused(path, "no such weight file")
    for content, match in {
        b"": "an empty file",
        b"\n<!DOCTYPE html><html>404</html>": "a web page or XML, as a failed download",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0": "git lfs pull",
        b'{"error": "Repository not found"}': "a JSON document",
        b"\x1f\x8b\x08\x00": "a gzip file",
        b"Not Found": "begins with other bytes",
    }.items():
        path.write_bytes(content)
        refused(path, match)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("keep", [0.02, 0.5, 0.97])
def test_cut_short(tmp_path, suffix, keep):
    path = tmp_path / f"weights{suffix}"
    WRITERS[suffix](path, {"w": np.random.default_rng(0).normal(size=(64, 64))})
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    refused(path, "not a readable|cut short")


def test_a_flipped_byte_in_an_npz_is_seen(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, w=np.zeros(1000))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(path, "CRC")


@pytest.mark.parametrize("suffix", [".pth", ".npz", ".h5", ".bin"])
def test_safetensors_under_another_name(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    write_safetensors(path)
    refused(path, r"holds safetensors; rename it to weights\.safetensors")


def test_npz_under_another_name(tmp_path):
    path = tmp_path / "weights.pth"
    write_npz(path)
    refused(path, r"named \.pth but holds npz; rename it to weights\.npz")


def test_an_unknown_kind_lists_those_there_are(tmp_path):
    path = tmp_path / "weights.onnx"
    path.write_bytes(b"\x08\x07\x12\x07pytorch")
    refused(path, r"unknown kind of weight file; flaxzoo reads \.safetensors, \.pth")


@pytest.mark.parametrize("suffix", WRITERS)
def test_damage_anywhere_is_one_error(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    WRITERS[suffix](path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    messages = []
    for _ in range(200):
        data = bytearray(whole)
        for place in rng.integers(len(data), size=3):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            read_tensors(path)
        except CheckpointError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert all(str(path) in message for message in messages)


def test_no_tensors(tmp_path):
    write_safetensors(tmp_path / "w.safetensors", {})
    refused(tmp_path / "w.safetensors", "holds no tensors")
    np.savez(tmp_path / "w.npz")
    refused(tmp_path / "w.npz", "holds no tensors")


def test_python_objects_in_an_npz_are_not_unpickled(tmp_path):
    proof = tmp_path / "proof"
    path = tmp_path / "weights.npz"
    np.savez(path, good=np.ones(2), evil=np.array([Payload(proof)], dtype=object))
    refused(path, r"'evil' refused: it holds Python objects")
    assert not proof.exists()


def test_a_pickle_in_place_of_an_npy_member(tmp_path):
    proof = tmp_path / "proof"
    path = tmp_path / "weights.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil.npy", pickle.dumps(Payload(proof)))
    refused(path, r"'evil' is not a readable array")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("evil.pkl", pickle.dumps(Payload(proof)))
    refused(path, r"'evil\.pkl' is not an \.npy array")
    assert not proof.exists()


def npy_header(shape, dtype="<f4"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": dtype, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


def test_a_zip_bomb(tmp_path):
    path = tmp_path / "weights.npz"
    size = 300 << 20
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("w.npy", "w") as member,
    ):
        member.write(npy_header((size // 4,)))
        zeros = bytes(1 << 20)
        for _ in range(size >> 20):
            member.write(zeros)
    assert path.stat().st_size < 3 << 20
    message = refused(path, "more than max_bytes=268,435,456")
    assert f"max_bytes={size + len(npy_header((size // 4,)))})" in message
    write_npz(path)
    refused(path, "more than max_bytes=100", max_bytes=100)


@pytest.mark.parametrize("shape", [(1 << 50,), (1 << 40, 1 << 40), (-4, -4), (5,), (3,)])
def test_a_header_that_asks_for_more_than_there_is(tmp_path, shape):
    path = tmp_path / "weights.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", npy_header(shape) + bytes(16))
    refused(path, "which does not fit its 16 bytes of data")


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': (((",
        "(" * 500,
        "-" * 9000 + "1",
        "{[]: 1}",
        "{1: 2, 'a': 3}",
        "  x\n y",
        " " * 20000,
        "{'descr': (), 'fortran_order': False, 'shape': (4,)}",
        "{'descr': ('i1', (2,)), 'fortran_order': False, 'shape': (8,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4)}",
        f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(1,) * 70 + (4,)}}}",
        f"{{'descr': 'V2', 'fortran_order': False, 'shape': (0, {1 << 70})}}",
    ],
)
def test_headers_that_numpy_chokes_on(tmp_path, header):
    path = tmp_path / "weights.npz"
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", start + bytes(0 if "(0," in header else 16))
    refused(path, "'w' is not a readable array|'w' is no array of numbers")


def test_members_that_are_no_numbers(tmp_path):
    path = tmp_path / "weights.npz"
    np.savez(path, names=np.array(["a", "b"]))
    refused(path, "'names' is no array of numbers")
    np.savez(path, record=np.zeros(2, [("a", "f4"), ("b", "i4")]))
    refused(path, "'record' is no array of numbers")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", npy_header((4,)) + bytes(16))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("w.npy", npy_header((4,)) + bytes(16))
    refused(path, "two arrays are named 'w'")


def test_hdf5_that_asks_for_too_much_or_reaches_out(tmp_path):
    path = tmp_path / "weights.h5"
    with h5py.File(path, "w") as file:
        # No chunk is ever written: the file stays small.
        file.create_dataset("w", (1 << 40,), "f4", chunks=(1 << 10,))
    refused(path, "more than max_bytes=268,435,456")
    (tmp_path / "secret").write_bytes(bytes(16))
    with h5py.File(path, "w") as file:
        file.create_dataset("w", (4,), "f4", external=[(str(tmp_path / "secret"), 0, 16)])
    refused(path, "'w' refused: its data is in other files")
    with h5py.File(path, "w") as file:
        file["names"] = ["a", "b"]
    refused(path, "'names' is no array of numbers")
    write_hdf5(tmp_path / "other.h5")
    with h5py.File(path, "w") as file:
        file["w"] = np.ones(2)
        file["link"] = h5py.ExternalLink("other.h5", "/half")
    assert read_tensors(path).keys() == {"w"}


def test_hdf5_that_is_too_deep(tmp_path):
    path = tmp_path / "weights.h5"
    for depth, fits in ((63, True), (64, False), (1000, False)):
        with h5py.File(path, "w") as file:
            group = file
            for _ in range(depth):
                group = group.create_group("g")
            group["w"] = np.ones(2)
        if fits:
            assert read_tensors(path).keys() == {"g/" * depth + "w"}
        else:
            refused(path, "groups more than 64 deep")


def test_without_torch_the_error_says_what_to_install(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"\x80\x02}q\x00.")
    program = (
        "import sys; sys.modules['torch'] = None\n"
        "from flaxzoo.weights.readers import read_tensors\n"
        "from flaxzoo.errors import MissingExtraError\n"
        f"try: read_tensors({str(path)!r})\n"
        "except MissingExtraError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert str(path) in result.stdout
    assert "pip install torch" in result.stdout
    assert "convert it to .safetensors" in result.stdout


def test_an_old_torch_is_not_trusted(tmp_path, monkeypatch):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"\x80\x02}q\x00.")
    old = type(sys)("torch")
    old.__version__ = "2.9.1+cpu"
    monkeypatch.setitem(sys.modules, "torch", old)
    with pytest.raises(ImportError, match=r"torch 2\.10 or newer, since a file can make 2\.9\.1"):
        read_tensors(path)


def test_reading_imports_neither_torch_nor_h5py_unasked(tmp_path):
    write_safetensors(tmp_path / "w.safetensors")
    program = (
        "import sys\nfrom flaxzoo.weights.readers import read_tensors\n"
        f"read_tensors({str(tmp_path / 'w.safetensors')!r})\n"
        "print([name for name in ('torch', 'h5py') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr
