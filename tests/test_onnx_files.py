"""infer.py with files of export.py: the checkpoint's images, by onnxruntime."""

import json
import sys

import numpy as np
import pytest
import torch

import evaluate
import infer
from avatar_folder import face_points, write_folder
from bilayer_tiny import avatar_run
from dcign_tiny import write_run
from landmark_files import untrained
from nets import onnx_files, published
from nets.data.heads.videos import frame_path
from nets.data.io.images import read_image
from nets.data.io.video import open_video
from nets.data.io.video_writer import VideoWriter
from nets.errors import UserError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

# A float differs by at most 1e-3 of the largest value (export.ALLOWED), in practice by 1e-5; two
# floats on both sides of a half become neighbouring levels.
LEVELS = 1


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Heads with points, and a video of five frames."""
    home = tmp_path_factory.mktemp("home")
    write_folder(home / "data", size=96)
    np.save(home / "video.npy", np.stack([face_points(96, 0.05 * i).numpy() for i in range(5)]))
    with VideoWriter(home / "video.mp4", 10) as video:
        for i in range(5):
            video.write(read_image(image(home, f"id0/video/00/{i % 4}"), None))
    return home


def image(home, name, kind="imgs"):
    return frame_path(home / "data", kind, "train", name)


def same_images(tmp_path, capsys, checkpoint, file, name, *argv):
    """Asserts that infer.py writes the same images with a checkpoint and with an exported file."""
    written = []
    for folder, path in (("a", checkpoint), ("b", file)):
        out = tmp_path / folder / name
        infer.main(
            [str(a) for a in ("--checkpoint", path, "-o", out, "--precision", "fp32", *argv)]
        )
        assert ("as ONNX" in capsys.readouterr().out) == (folder == "b")
        files = sorted(file for file in (tmp_path / folder).rglob("*.*") if "_mask" not in file.name
                       and "_background" not in file.name)  # fmt: skip
        written.append({file.relative_to(tmp_path / folder): shown(file) for file in files})
    first, other = written
    assert first and other.keys() == first.keys()
    for path, images in first.items():
        assert images.shape == other[path].shape
        difference = (images.float() - other[path].float()).abs()
        if path.suffix == ".png":
            assert difference.max() <= LEVELS and difference.mean() < 0.1
        else:  # images of untrained networks are noise, for which H.264 soon decides otherwise
            assert difference.mean() < 0.15 * images.float().std()
        assert images.float().std() > 1  # something is to be seen


def shown(file):
    if file.suffix == ".mp4":
        return torch.stack([frame for _, frame in open_video(file)])
    return read_image(file, None)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A function that exports a checkpoint to a folder."""
    pytest.importorskip("onnxscript")
    import export

    def to_folder(checkpoint):
        out = tmp_path_factory.mktemp("exported")
        export.main(["--checkpoint", str(checkpoint), "-o", str(out)])
        return out

    return to_folder


@pytest.mark.slow
def test_vunet_from_a_file(exported, home, tmp_path, capsys):
    checkpoint = published.TRAINED / "vunet.safetensors"
    file = exported(checkpoint) / "vunet.onnx"
    same_images(tmp_path, capsys, checkpoint, file, "a.png")
    points = {name: [20 + 10 * (i % 3), 10 + 14 * i] for i, name in enumerate(
        ("cnose", "lshoulder", "rshoulder", "lhip", "rhip", "lknee"))}  # fmt: skip
    (tmp_path / "joints.json").write_text(json.dumps(points))
    pair = [image(home, f"id{i}/video/00/1") for i in (0, 1)]
    joints = ["--source_joints", tmp_path / "joints.json", "--driving_joints"]
    argv = ["-s", pair[0], "-d", *pair, *joints, tmp_path / "joints.json"]
    infer.main([str(a) for a in ["--checkpoint", file, "-o", tmp_path / "c.png", *argv]])
    assert "an exported file is not fitted to the source" in capsys.readouterr().out
    argv += ["--fit_steps", 0]  # which a checkpoint does by default
    same_images(tmp_path / "b", capsys, checkpoint, file, "grid.png", *argv)
    assert "--fit_steps: not with" in refusal(capsys, file, *argv[:-1], 3)
    line = refusal(capsys, file, "--samples", 2, "-d", pair[0])
    assert "--samples: not with an exported file" in line


@pytest.mark.slow
def test_landmarks_from_either_file(exported, home, tmp_path, capsys):
    checkpoint = untrained(tmp_path / "run")
    folder = exported(checkpoint)
    files = [folder / "landmarks.onnx", folder / "landmarks_transfer.onnx"]
    photo = image(home, "id0/video/00/1")
    for i, (file, *argv) in enumerate((
        (files[0], "a.png", "-s", photo, "-d", photo.parent),
        (files[1], "a.png", "-d", photo.parent),
        (files[0], "a.mp4", "-s", photo, "-d", home / "video.mp4"),
    )):  # fmt: skip
        same_images(tmp_path / f"{i}", capsys, checkpoint, file, *argv)
    infer.main(["--checkpoint", str(files[0]), "-o", str(tmp_path / "demo.png")])
    assert "gives neither masks nor backgrounds" in capsys.readouterr().out
    assert shown(tmp_path / "demo.png").float().std() > 1
    files[1].unlink()
    assert "needs landmarks_transfer.onnx beside it" in refusal(
        capsys, files[0], "-s", photo, "-d", photo
    )


@pytest.mark.slow
def test_avatars_from_either_file(exported, home, tmp_path, capsys):
    checkpoint = avatar_run(tmp_path / "run")
    folder = exported(checkpoint)
    files = [folder / "avatar_identity.onnx", folder / "avatar_frame.onnx"]
    one = "id0/video/00/0"
    source = ["-s", image(home, one), "--source_keypoints", image(home, one, "keypoints"),
              "--source_masks", image(home, one, "segs")]  # fmt: skip
    other = "id1/video/00/1"
    driving = ["-d", image(home, other), "--driving_keypoints", image(home, other, "keypoints")]
    same_images(tmp_path / "1", capsys, checkpoint, files[0], "a.png", *source, *driving)
    clip = ["-d", home / "video.mp4", "--driving_keypoints", home / "video.npy"]
    same_images(tmp_path / "2", capsys, checkpoint, files[1], "a.mp4", *source, *clip)
    masks = ["--masks", "--background", "black"]
    same_images(tmp_path / "3", capsys, checkpoint, files[1], "a.png", *source, *driving, *masks)
    assert "needs both" in refusal(capsys, files[0])
    assert "takes one image" in refusal(
        capsys, files[0], "-s", *[image(home, one)] * 2, "--source_keypoints",
        *[image(home, one, "keypoints")] * 2, "--source_masks", *[image(home, one, "segs")] * 2,
        *driving,
    )  # fmt: skip


@pytest.mark.slow
def test_faces_from_either_file(exported, home, tmp_path, capsys):
    checkpoint = write_run(tmp_path / "run")
    folder = exported(checkpoint)
    files = [folder / "dcign_encoder.onnx", folder / "dcign_decoder.onnx"]
    photo = image(home, "id0/video/00/1")
    for i, (file, *argv) in enumerate((
        (files[0], "a.png", "-s", photo, "-d", photo.parent),
        (files[1], "a.mp4", "-s", photo, "-d", home / "video.mp4"),
        (files[1], "a.png", "-s", photo, "--sweep", "azimuth", "z:5", "--steps", 3),
    )):  # fmt: skip
        same_images(tmp_path / f"{i}", capsys, checkpoint, file, *argv)


def refusal(capsys, file, *argv):
    """The line that infer.py ends with."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as error:
        infer.main([str(a) for a in ("--checkpoint", file, *argv)])
    assert error.value.code == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


FACTS = {"guise_graph": "avatar_frame", "guise_system": "bilayer", "guise_step": "3",
         "guise_options": "{}", "guise_weights": "a"}  # fmt: skip


def identity(path, **facts):
    """An ONNX file that hands its input on, with metadata."""
    values = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy"]
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", values[:1], values[1:])
    content = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10
    )
    onnx.helper.set_model_props(content, facts)
    onnx.save(content, path)
    return path


def test_files_that_cannot_be_run_are_named(tmp_path, capsys):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"not onnx")
    assert f"{damaged}: not an ONNX file that onnxruntime opens" in refusal(capsys, damaged)
    foreign = identity(tmp_path / "foreign.onnx")
    assert f"{foreign}: an ONNX file that export.py did not write" in refusal(capsys, foreign)
    old = identity(tmp_path / "old.onnx", guise_graph="vunet", guise_system="vunet")
    assert "of an earlier version of guise; export it again" in refusal(capsys, old)
    broken = identity(tmp_path / "broken.onnx", **FACTS | {"guise_options": "["})
    assert "do not say which network" in refusal(capsys, broken)
    assert "no such file" in refusal(capsys, tmp_path / "missing.onnx")


def test_the_partner_must_be_there_and_of_the_same_weights(tmp_path, capsys):
    file = identity(tmp_path / "frame.onnx", **FACTS)
    pair = ["-s", "a.png", "-d", "b.png"]
    line = refusal(capsys, file, *pair)
    assert f"{file}: needs avatar_identity.onnx beside it" in line
    partner = tmp_path / "avatar_identity.onnx"
    identity(partner, **FACTS)
    assert f"{partner}: must hold the graph avatar_identity" in refusal(capsys, file, *pair)
    identity(partner, **FACTS | {"guise_graph": "avatar_identity", "guise_weights": "b"})
    assert f"{partner}: of other weights than {file}" in refusal(capsys, file, *pair)


def test_what_an_exported_file_cannot_do_is_said(tmp_path, capsys, monkeypatch):
    file = identity(tmp_path / "frame.onnx", **FACTS)
    assert "--precision bf16: exported files run with fp32" in refusal(
        capsys, file, "--precision", "bf16"
    )
    assert "--device cuda: exported files run with cpu" in refusal(capsys, file, "--device", "cuda")
    assert "a network of bilayer, not of vunet" in refusal(capsys, file, "--system", "vunet")
    with pytest.raises(SystemExit):
        evaluate.main(["--checkpoint", str(file)])
    assert f"{file}: an exported file; only infer.py takes one" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    line = refusal(capsys, file)
    assert "needs onnxruntime" in line and "pip install -e '.[export]'" in line


def test_a_session_runs_without_the_package_onnx(tmp_path, monkeypatch):
    file = identity(tmp_path / "frame.onnx", **FACTS)
    for name in ("onnx", "onnxscript"):
        monkeypatch.setitem(sys.modules, name, None)
    session = onnx_files.Session(file)
    strided = torch.arange(2.0)[::2]
    assert session({"x": strided, "unused": strided})[0].tolist() == [0.0]
    with pytest.raises(UserError, match="no/such"):
        onnx_files.Session(tmp_path / "no/such.onnx")
