"""infer.py's options of speed: the images are the same."""

import pytest
import torch

import infer
from avatar_folder import write_folder
from bilayer_tiny import avatar_run
from dcign_tiny import write_run
from landmark_files import untrained
from nets import published
from nets.data.heads.videos import frame_path
from nets.data.io.images import read_image


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("faces"), size=64)


def arguments(faces, system):
    """A source and a driving image for a system's checkpoint."""
    source, driving = (
        {kind: frame_path(faces, kind, "train", f"id{i}/video/00/1")
         for kind in ("imgs", "keypoints", "segs")}
        for i in (0, 1)
    )  # fmt: skip
    if system == "vunet":
        return []  # people of its demo world
    files = ["-s", source["imgs"], "-d", driving["imgs"]]
    if system == "bilayer":
        files += ["--source_keypoints", source["keypoints"], "--source_masks", source["segs"]]
        files += ["--driving_keypoints", driving["keypoints"]]
    return files


def run_of(folder, system):
    makers = {
        "vunet": lambda: published.TRAINED / "vunet.safetensors",
        "landmarks": lambda: untrained(folder),
        "bilayer": lambda: avatar_run(folder),
        "dcign": lambda: write_run(folder / "run"),
    }
    return makers[system]()


def drawn(checkpoint, out, *argv):
    infer.main([str(a) for a in ("--checkpoint", checkpoint, "-o", out, *argv)])
    return read_image(out, None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's compiler uses torch.jit
@pytest.mark.parametrize("system", ["vunet", "landmarks", "bilayer", "dcign"])
def test_compiled_networks_give_the_same_image(system, faces, tmp_path, monkeypatch):
    compiled = []
    original = torch.compile

    def counted(function, *args, **kwargs):
        compiled.append(function)
        return original(function, *args, **kwargs)

    monkeypatch.setattr(torch, "compile", counted)  # Module.compile does not come by here
    monkeypatch.setattr(
        torch.nn.Module, "compile",
        lambda self: setattr(self, "_compiled_call_impl", counted(self._call_impl)),
    )  # fmt: skip
    run, argv = run_of(tmp_path, system), ["--precision", "fp32", *arguments(faces, system)]
    plain = drawn(run, tmp_path / "a.png", *argv)
    assert not compiled
    fast = drawn(run, tmp_path / "b.png", *argv, "--compile")
    assert compiled
    # Rounding puts a float on the other side of a half at most.
    assert (plain.float() - fast.float()).abs().max() <= 1
    assert plain.float().std() > 1


def test_a_graph_without_a_gpu_is_refused(faces, tmp_path, capsys):
    run = avatar_run(tmp_path)
    argv = ["--device", "cpu", *arguments(faces, "bilayer")]
    with pytest.raises(SystemExit) as error:
        drawn(run, tmp_path / "a.png", *argv, "--cuda_graph")
    assert error.value.code == 2 and not (tmp_path / "a.png").exists()
    assert "--cuda_graph: needs a GPU" in capsys.readouterr().err


@pytest.mark.gpu
def test_a_graph_gives_the_same_frames(faces, tmp_path):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    run = avatar_run(tmp_path)
    argv = ["--device", "cuda", "--precision", "fp32", *arguments(faces, "bilayer")]
    plain = drawn(run, tmp_path / "a.png", *argv)
    graph = drawn(run, tmp_path / "b.png", *argv, "--cuda_graph", "--frames_at_once", "3")
    assert (plain.float() - graph.float()).abs().max() <= 1
