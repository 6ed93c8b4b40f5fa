"""Files of other programs: safetensors and PyTorch's, read without torch and without ever running code from them.

Those of tests/data/torch are PyTorch's own, made as make_files.py there says.
"""
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from entry import ROOT
from golden import Golden
from golden_rule import fill
from safetensors.numpy import save_file

from common.checkpoint.foreign import read, read_tensors
from common.errors import UserError

TORCH = ROOT / "tests/data/torch"


@pytest.fixture(name="weights")
def tiny_weights() -> dict[str, np.ndarray]:
    return Golden("gmlp_tiny").tensors()


@pytest.fixture(name="file")
def tiny_file(weights, tmp_path) -> Path:
    save_file(weights, tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def raw_safetensors(path: Path, header: dict, data: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def same(left, right) -> bool:
    return set(left) == set(right) and all(
        left[n].dtype == right[n].dtype and left[n].shape == right[n].shape and left[n].tobytes() == right[n].tobytes()
        for n in left)


# safetensors

def test_safetensors_are_read_bit_for_bit_and_without_torch(file, weights):
    assert same(read_tensors(file), weights)
    code = f"import sys; from common.tasks.convert import read_tensors; read_tensors({str(file)!r}); " \
           "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_type_of_numbers_is_read(tmp_path):
    stored = {"a": np.arange(3, dtype=np.float64), "b": np.array(2.5, np.float16), "c": np.array([[1], [2]], np.int64),
              "d": np.array([True, False]), "e": np.zeros((0, 4), np.float32)}
    save_file(stored, tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert same(read_tensors(tmp_path / "x.safetensors"), stored)


def test_bfloat16_becomes_float32(tmp_path):
    values = np.array([1.5, -2.0, 3.140625], np.float32)
    data = (values.view(np.uint32) >> 16).astype("<u2").tobytes()
    path = raw_safetensors(tmp_path / "b.safetensors",
                           {"w": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}, data)
    tensor = read_tensors(path)["w"]
    assert tensor.dtype == np.float32 and np.array_equal(tensor, values)


def test_prefix_and_counters_are_taken_off(tmp_path):
    save_file({"module.norm.weight": np.ones(2, np.float32), "module.bn.num_batches_tracked": np.array(3)},
              tmp_path / "x.safetensors")
    source = read(tmp_path / "x.safetensors")
    assert list(source.tensors) == ["norm.weight"]
    assert list(source.ignored) == ["bn.num_batches_tracked"]


@pytest.mark.parametrize("content, words", [
    (b"", "is empty"),
    (b"<!DOCTYPE html><html>", "neither a PyTorch nor a safetensors file"),
    (b"\x0a\x20some protobuf", "neither a PyTorch nor a safetensors file"),
    (struct.pack("<Q", 10 ** 9) + b'{"w":', "damaged or truncated"),
    (struct.pack("<Q", 9) + b'{"w": [1]', "damaged or truncated"),
    (struct.pack("<Q", 2) + b"{}", "no tensors"),
])
def test_wrong_files_are_refused_in_a_sentence(tmp_path, content, words):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_tensors(path)


def test_truncated_safetensors_are_refused(file):
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="truncated"):
        read_tensors(file)


@pytest.mark.parametrize("offsets, shape, kind", [([-4, 0], [1], "F32"), ([0, 8], [1], "F32"), ([0, 400], [100], "F32"),
                                                  ([4, 0], [-1], "F32"), ([0, 4], [1], "F8_E4M3")])
def test_offsets_outside_the_file_and_unknown_types_are_refused(tmp_path, offsets, shape, kind):
    path = raw_safetensors(tmp_path / "x.safetensors",
                           {"w": {"dtype": kind, "shape": shape, "data_offsets": offsets}}, bytes(8))
    with pytest.raises(UserError, match="damaged"):
        read_tensors(path)


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_tensors(tmp_path / "no.pth")
    with pytest.raises(UserError, match="is a folder"):
        read_tensors(tmp_path)


# PyTorch

@pytest.mark.parametrize("name, part, factor, kind", [
    ("timm", "state_dict_ema", 0.5, np.float32), ("deit", "model_ema", 0.5, np.float32),
    ("mae", "model", 1, np.float32), ("swin", "model", 1, np.float32), ("legacy", "", 1, np.float32),
    ("half", "", 1, np.float16), ("bfloat16", "", 1, np.float32)])
def test_weights_come_out_of_the_files_of_the_authors_trainings(name, part, factor, kind):
    source = read(TORCH / f"{name}.pth")
    assert source.part == part and not source.ignored and len(source.tensors) == 16
    for key, tensor in source.tensors.items():
        expected = fill(key, tensor.shape) * np.float32(factor)
        assert tensor.dtype == kind and tensor.flags.c_contiguous
        np.testing.assert_allclose(tensor, expected.astype(kind), rtol=2 ** -8 if name == "bfloat16" else 0)


@pytest.mark.parametrize("name, words", [
    ("float8", "holds tensors of 8-bit floating-point or other rare numbers, which are not read"),
    ("quantized", "holds quantized tensors, which"), ("meta", "holds tensors of the device 'meta'"),
    ("sparse", "holds sparse tensors, which"), ("itself", "holds a dictionary that contains itself"),
])
def test_tensors_that_are_not_read_are_named(name, words):
    with pytest.raises(UserError, match=words):
        read_tensors(TORCH / f"{name}.pth")


def zipped(path: Path, pickled: bytes, storage: bytes = b"", **how) -> Path:
    with zipfile.ZipFile(path, "w", **how) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", storage)
    return path


class Call:
    """Calls something when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("call", [
    Call(os.mkdir, "code_was_run"), Call(eval, "open('code_was_run', 'w')"), Call(getattr, str, "format"),
    Call(np.core.multiarray._reconstruct, np.ndarray, (0,), b"b")], ids=["mkdir", "eval", "getattr", "numpy"])
def test_code_in_a_pytorch_file_is_never_run(tmp_path, call):
    pickled = pickle.dumps({"state_dict": {"w": 1}, "args": call}, protocol=2)
    (tmp_path / "legacy.pth").write_bytes(pickled)
    (tmp_path / "pickle.safetensors").write_bytes(pickled)
    zipped(tmp_path / "x.pth", pickled)
    for name in ("x.pth", "legacy.pth", "pickle.safetensors"):
        with pytest.raises(UserError, match="code in a file is never run|no file of PyTorch"):
            read_tensors(tmp_path / name)
    assert not Path("code_was_run").exists()


def tensor(offset: int, shape: bytes, strides: bytes, count: int = 4) -> bytes:
    """What PyTorch pickles for {"w": a tensor} in a storage of four numbers; shape and strides are pickled tuples."""
    return (b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
            b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK" + bytes([count]) + b"tQK" + bytes([offset]) + shape + strides
            + b"\x89NtRs.")


def packed(*numbers: int) -> bytes:
    """A pickled tuple of at most two numbers."""
    return b"".join(b"J" + struct.pack("<i", number) for number in numbers) + bytes([0x84 + len(numbers)])


FOUR = np.arange(4, dtype="<f4").tobytes()


@pytest.mark.parametrize("case", [
    (1, packed(2, 2), packed(2, 1)), (0, packed(-1), packed(1)), (0, packed(2), packed(-1)),
    (0, packed(2), packed(2, 1)), (0, packed(4), packed(1), 5), (0, packed(2 ** 31 - 1), packed(0))],
    ids=["outside", "negative", "backwards", "axes", "short", "expanded"])
def test_tensors_that_leave_their_storage_are_refused(tmp_path, case):
    path = zipped(tmp_path / "x.pth", tensor(0, packed(2, 2), packed(1, 2)), FOUR)
    assert np.array_equal(read_tensors(path)["w"], [[0, 2], [1, 3]])
    zipped(path, tensor(*case), FOUR)
    with pytest.raises(UserError, match="damaged or truncated: w"):
        read_tensors(path)


def test_damaged_files_of_pytorch_are_refused(tmp_path):
    whole = (TORCH / "timm.pth").read_bytes()
    old = (TORCH / "legacy.pth").read_bytes()
    head = (fill("head.weight", (3, 8)) / 2).tobytes()
    for number, content in enumerate((whole[:-100], whole[:60], whole.replace(head, bytes(96)), old[:-100], old[:500],
                                      b"PK\x03\x04" + bytes(50), b"\x80\x02}." + bytes(9))):
        (tmp_path / f"{number}.pth").write_bytes(content)
        with pytest.raises(UserError, match="damaged"):
            read_tensors(tmp_path / f"{number}.pth")
    compressed = zipped(tmp_path / "x.pth", tensor(0, packed(4), packed(1)), FOUR, compression=zipfile.ZIP_DEFLATED)
    nested = tmp_path / "nested.safetensors"
    nested.write_bytes(struct.pack("<Q", 80005) + b'{"w":' + b"[" * 80000)
    for path in (compressed, nested):
        with pytest.raises(UserError, match="damaged"):
            read_tensors(path)
