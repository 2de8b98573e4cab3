import numpy as np
import pytest

from nets.errors import UserError
from nets.tensor_files import read_plain
from nets.tensorflow_files import crc32c, prefix_of, read_tensorflow
from tensorflow_writer import crc32c as reference_crc32c
from tensorflow_writer import write_checkpoint

TENSORS = {
    "enc_up/conv2d_0/V": np.arange(54, dtype=np.float32).reshape(3, 3, 2, 3),
    "enc_up/conv2d_0/g": np.float16([1.5, -2]),
    "enc_up/conv2d_1/V": np.float64([[0.1]]),
    "empty": np.zeros((0, 4), np.float32),
    "flag": np.bool_([True, False]),
    "global_step": np.int64(77),
    "graph": b"\x01not a tensor",
}


def check(tensors):
    assert list(tensors) == sorted(set(TENSORS) - {"graph"})
    for name, value in tensors.items():
        assert value.shape == np.shape(TENSORS[name])
        assert value.numpy().dtype == np.asarray(TENSORS[name]).dtype
        assert np.array_equal(value.numpy(), TENSORS[name])


@pytest.mark.parametrize(
    "layout", [{}, {"shards": 3}, {"block_size": 1}, {"interval": 1}, {"interval": 2}], ids=str
)
def test_every_layout_gives_the_variables(tmp_path, layout):
    write_checkpoint(tmp_path / "model.ckpt-77", TENSORS, **layout)
    check(read_tensorflow(tmp_path / "model.ckpt-77"))


@pytest.mark.parametrize("ending", ["", ".index", ".meta", ".data-00000-of-00001"])
def test_the_prefix_and_each_of_its_files_mean_the_checkpoint(tmp_path, ending):
    write_checkpoint(tmp_path / "model.ckpt-77", TENSORS)
    assert prefix_of(f"{tmp_path}/model.ckpt-77{ending}") == tmp_path / "model.ckpt-77"
    check(read_plain(f"{tmp_path}/model.ckpt-77{ending}"))


def test_a_folder_means_its_highest_step(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for step in (900, 10000, 2000):
        write_checkpoint(tmp_path / "checkpoints" / f"model.ckpt-{step}", TENSORS)
    (tmp_path / "checkpoints" / "model.ckpt-99999.index").write_bytes(b"of something else" * 9)
    assert prefix_of(tmp_path) == tmp_path / "checkpoints" / "model.ckpt-10000"
    assert prefix_of(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "model.ckpt-10000"
    assert prefix_of(tmp_path / "nothing") is None


@pytest.mark.parametrize("size", [0, 1, 63, 64, 65, 128, 1000, 4096, 70001])
def test_crc32c_equals_tensorboards(size):
    data = np.random.default_rng(size).bytes(size)
    assert crc32c(data) == reference_crc32c(data) & 0xFFFFFFFF


def test_crc32c_of_the_standards_example():
    assert crc32c(b"123456789") == 0xE3069283  # RFC 3720, appendix B.4's polynomial


V = "enc_up/conv2d_0/V"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"entries": {V: {"crc": 5}}}, r"data-00000-of-00001: the checksum of enc_up/conv2d_0/V"),
        ({"entries": {V: {"offset": 10**9}}}, r"data-0.*: ends before enc_up/conv2d_0/V"),
        ({"entries": {V: {"size": 8}}}, r"V of \[3, 3, 2, 3\] has 8 bytes"),
        ({"entries": {V: {"shard": 7}}}, r"V lies in shard 7 of 1"),
        ({"entries": {V: {"dtype": 20}}}, r"V has the unknown type 20"),
        ({"entries": {V: {"slices": True}}}, r"V is partitioned"),
        ({"endianness": 1}, r"big-endian"),
        ({"compression": 1}, r"compressed \(type 1\)"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, more, message):
    write_checkpoint(tmp_path / "model.ckpt-1", TENSORS, **more)
    with pytest.raises(UserError, match=message):
        read_tensorflow(tmp_path / "model.ckpt-1")


def test_a_missing_shard_is_named(tmp_path):
    write_checkpoint(tmp_path / "model.ckpt-1", TENSORS, shards=2)
    (tmp_path / "model.ckpt-1.data-00001-of-00002").unlink()
    with pytest.raises(UserError, match=r"data-00001-of-00002: No such file"):
        read_tensorflow(tmp_path / "model.ckpt-1")


@pytest.mark.parametrize("seed", range(40))
def test_damage_at_any_byte_of_the_index_is_noticed(tmp_path, seed):
    """No damaged index is read as if it were whole, and none ends in another exception."""
    write_checkpoint(tmp_path / "model.ckpt-1", TENSORS)
    index = tmp_path / "model.ckpt-1.index"
    content = bytearray(index.read_bytes())
    random = np.random.default_rng(seed)
    if seed % 4 == 0:
        content = content[: random.integers(len(content))]
    else:
        content[random.integers(len(content))] ^= 1 << random.integers(8)
    index.write_bytes(content)
    try:
        check(read_tensorflow(tmp_path / "model.ckpt-1"))  # the footer has bytes without meaning
    except UserError as error:
        assert "model.ckpt-1" in str(error)
