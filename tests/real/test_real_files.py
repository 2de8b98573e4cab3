"""Photos and clips of real people, from detection to an image.

GUISE_REAL_FILES names a folder of them, no part of the project: talking_a.mp4 (one face, 512 x 512,
with sound), fullbody.mp4 (one person, 720 x 1080, with sound), street.avi (several people walking),
person_*.jpg, face_*.jpg. Without it, or without mediapipe, these tests are skipped.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
import extract
import infer
import train_bilayer
import train_landmarks
import train_vunet
from nets.data.heads.videos import AvatarFolder, read_frame, sample_of
from nets.data.io.images import read_image
from nets.data.io.video import open_video
from nets.data.people.index import IndexDataset, read_index, write_index
from nets.skeletons import JOINTS_17

REAL = Path(os.environ.get("GUISE_REAL_FILES", ""))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not os.environ.get("GUISE_REAL_FILES"), reason="no GUISE_REAL_FILES"),
]


@pytest.fixture(autouse=True, scope="module")
def mediapipe():
    pytest.importorskip("mediapipe", reason="is installed by the extra `extract`")


@pytest.fixture(scope="module")
def people(tmp_path_factory, mediapipe):
    folder = tmp_path_factory.mktemp("people")
    photos = sorted(REAL.glob("*.jpg"))
    extract.main(
        [
            "people",
            *map(str, photos),
            str(REAL / "fullbody.mp4"),
            str(REAL / "street.avi"),
            "-o",
            str(folder),
            "--fps",
            "8",
            "--workers",
            "1",
        ]
    )
    return folder


def heads(folder, phase, *given):
    extract.main(["heads", str(REAL / "talking_a.mp4"), "-o", str(folder), "--phase", phase,
                  "--image_size", "128", "--workers", "1", *given])  # fmt: skip


def test_people_of_photos_and_videos_are_found_and_train_a_vunet(people, tmp_path, capsys):
    index = read_index(people / "index.p")
    names = [name.decode() for name in index["imgs"]]
    whole = [i for i, name in enumerate(names) if "fullbody" in name]
    assert len(whole) == 33 and sum("street" in name for name in names) >= 50
    assert sum("person_" in name for name in names) >= 3
    at = {name: index["joints"][whole, i] for i, name in enumerate(JOINTS_17)}
    assert (at["cnose"][:, 1] < at["lhip"][:, 1]).all()  # nobody stands on the head
    assert (at["lhip"][:, 1] < at["lankle"][:, 1]).all()
    assert "face_" in (people / "left_out.txt").read_text()  # a face is no usable person
    assert len(IndexDataset(people, "train", 64)) > 80
    with pytest.raises(SystemExit, match="0"):
        extract.main(["check", str(people), "-o", str(tmp_path / "check.png")])
    train_vunet.main([
        "--config", "smoke.yaml", "--data", str(people / "index.p"), "--num_steps", "2",
        "--name", "a", "--run_dir", str(tmp_path / "runs"),
    ])  # fmt: skip
    infer.main([
        "--checkpoint", str(tmp_path / "runs/a"), "-s", str(REAL / "person_field.jpg"), "-d",
        str(REAL / "fullbody.mp4"), "--start", "1", "--end", "2", "--paste", "--concat", "-o",
        str(tmp_path / "out"),
    ])  # fmt: skip
    made = open_video(tmp_path / "out/person_field--fullbody.mp4")
    assert made.size == (1080, 720) and made.frames == 25 and made.has_audio
    frames = list(zip(made, open_video(REAL / "fullbody.mp4", start=1, end=2), strict=True))
    for (shown, pasted), (second, frame) in frames:
        assert shown == pytest.approx(second - 1, abs=0.01)
        x, y = 360, 450  # on the dress, in every frame
        part = (slice(None), slice(y - 50, y + 50), slice(x - 50, x + 50))
        assert (pasted[part].float() - frame[part].float()).abs().mean() > 8
    assert (tmp_path / "out/person_field--fullbody_concat.mp4").exists()


def test_a_person_in_poses_of_the_held_out_rest_of_a_clip(people, tmp_path):
    """A VUNet that saw three quarters of a clip of four seconds shows its person in the poses of
    the last quarter better than the person's first frame does, or the mean of all.
    """
    from nets import metrics
    from nets.data.detectors import open_detector
    from nets.run import checkpoints
    from nets.run.images import to_uint8
    from nets.run.precision import Precision
    from nets.vunet.data import PersonInputs
    from nets.vunet.warm_start import load_network

    index = read_index(people / "index.p")
    names = [name.decode() for name in index["imgs"]]
    dance = sorted(name for name in names if "fullbody" in name)
    held = dance[-len(dance) // 4 :]
    write_index(people / "tail.p", JOINTS_17, names, np.nan_to_num(index["joints"], nan=-1.0),
                [name not in held for name in names], index["identities"].tolist())  # fmt: skip
    train_vunet.main([
        "--config", "demo.yaml", "--data", str(people / "tail.p"), "--batch_size", "8",
        "--num_steps", "500", "--lr_decay_begin", "160", "--lr_decay_end", "500", "--test_freq",
        "100000", "--ckpt_freq", "100000", "--name", "a", "--run_dir", str(tmp_path / "runs"),
        # The network and the rates of docs/vunet.md.
        "--nf_max", "48", "--box_factor", "1", "--kl_images", "0", "--init_latent_std", "1",
        "--gain_rate", "1",
    ])  # fmt: skip
    path = checkpoints.find(tmp_path / "runs/a")
    cpu = Precision("fp32", torch.device("cpu"), False)
    net, trained = load_network(checkpoints.read(path), path, cpu)
    seen, rest = (IndexDataset(people / "tail.p", split, 64) for split in ("train", "test"))
    clip = [seen[0, i] for i in range(len(seen)) if "fullbody" in seen.file(i).name]
    drivers = [rest[0, i] for i in range(len(rest))]
    assert len(clip) == len(dance) - len(held) and len(drivers) == len(held)
    truth = torch.stack([driver["target"] for driver in drivers])
    detector, masks = open_detector(), []
    for i in range(len(rest)):
        mask = detector.mask(read_image(rest.file(i), None))[None, None]
        masks.append(torch.nn.functional.interpolate(mask, (64, 64), mode="area")[0, 0] > 0.5)
    inputs = PersonInputs(trained, seen.joint_order)
    with torch.no_grad():
        poses = inputs.pose(torch.stack([driver["joints"] for driver in drivers]))
        look = inputs.appearance(clip[0]["target"][None], clip[0]["joints"][None])
        made = to_uint8(net(poses, look.expand(len(poses), -1, -1, -1), "transfer").image)
    mean = torch.stack([frame["target"] for frame in clip]).float().mean(0).round().byte()
    error, copied, average = (
        metrics.masked_l1(images.expand_as(truth), truth, torch.stack(masks)).mean().item()
        for images in (made, clip[0]["target"], mean)
    )
    print(f"masked L1 {error:.4f}, source copied {copied:.4f}, mean of the clip {average:.4f}")
    assert error < copied and error < average


def test_heads_are_found_in_every_frame_and_lie_well(tmp_path):
    heads(tmp_path, "test", "--sampling_rate", "30")
    data = AvatarFolder(tmp_path, "test", 128)
    names = data.frames("talking_a/talking_a")
    assert len(names) == 15
    for name in names:
        frame = read_frame(tmp_path, "test", name, 128)
        points = (frame.pose.reshape(68, 2) + 1) / 2
        eyes, mouth = points[36:48].mean(0), points[48:60].mean(0)
        assert 0.25 < points.min() < points.max() < 1 and eyes[1] < mouth[1] - 0.1
        inside = frame.mask[0, (points[30] * 128).int()[1], (points[30] * 128).int()[0]]
        assert inside > 200 and frame.mask[0, :8, :8].float().mean() < 60


def test_landmarks_of_a_clip_tell_where_the_joints_are(tmp_path):
    """Learnt without joints from the first three quarters of a clip; joints regressed from them on
    the last quarter are nearer than the mean pose, by some.
    """
    clips = tmp_path / "clips"
    extract.main(["clips", str(REAL / "fullbody.mp4"), "-o", str(clips), "--fps", "25", "--size",
                  "128", "--workers", "1"])  # fmt: skip
    frames = sorted((clips / "fullbody").iterdir())
    assert len(frames) == 103
    extract.main(["people", str(clips / "fullbody"), "-o", str(tmp_path / "joints"), "--crop",
                  "none", "--size", "128", "--identity", "folder", "--test", "0.25",
                  "--workers", "1"])  # fmt: skip
    index = read_index(tmp_path / "joints/index.p")
    seen = {Path(n.decode()).stem[:6] for n in index["imgs"][index["train"]]}
    held = [frame for frame in frames if frame.stem not in seen]
    assert len(index["train"]) == 103 and len(held) == 26 and held == frames[-26:]
    for frame in held:
        frame.unlink()
    train_landmarks.main([
        "--config", "demo_landmarks.yaml", "--dataset", "clips", "--dataset_path", str(clips),
        "--n_landmarks", "10", "--num_steps", "500", "--lr_decay_begin", "300", "--test_freq",
        "100000", "--ckpt_freq", "100000", "--name", "a", "--run_dir", str(tmp_path / "runs"),
    ])  # fmt: skip
    run, report = str(tmp_path / "runs/a"), tmp_path / "scores.json"
    evaluate.main(["--checkpoint", run, "--data", str(tmp_path / "joints/index.p"), "--out",
                   str(report)])  # fmt: skip
    scores = json.loads(report.read_text())["regression"]
    assert scores["ratio_to_mean_pose"] < 0.9
    infer.main(["--checkpoint", run, "-d", str(REAL / "fullbody.mp4"), "--end", "1", "-o",
                str(tmp_path / "landmarks.mp4")])  # fmt: skip
    made = open_video(tmp_path / "landmarks.mp4")
    assert made.has_audio and made.frames == 25


def test_a_few_minutes_on_one_video_beat_copying_the_source(tmp_path):
    """An avatar trained on the first 12 seconds follows the held-out rest of the clip."""
    from nets.bilayer import fold
    from nets.bilayer.data import prepare
    from nets.bilayer.network.driver import Driver
    from nets.bilayer.network.model import create_avatar
    from nets.bilayer.warm_start import load_model
    from nets.run import checkpoints
    from nets.run.images import to_uint8
    from nets.run.precision import Precision

    data = tmp_path / "heads"
    heads(data, "train", "--end", "12", "--sampling_rate", "3")
    heads(data, "test", "--start", "12", "--sampling_rate", "3")
    train_bilayer.main([
        "--config", "demo_bilayer.yaml", "--data", str(data), "--batch_size", "8",
        "--num_steps", "600", "--lr_decay_begin", "300", "--test_freq", "100000",
        "--checkpoint_freq", "100000", "--name", "a", "--run_dir", str(tmp_path / "runs"),
    ])  # fmt: skip
    path = checkpoints.find(tmp_path / "runs/a")
    cpu = Precision("fp32", torch.device("cpu"), False)
    model = load_model(checkpoints.read(path), path, cpu)
    fold(model.net)
    size = model.options["image_size"]
    source = read_frame(data, "train", "talking_a/talking_a/talking_a/0", size)
    names = AvatarFolder(data, "test", size).frames("talking_a/talking_a")
    frames = [read_frame(data, "test", name, size) for name in names]
    batch = {key: value[None] for key, value in sample_of([source], [], 0).items()}
    with torch.no_grad():
        given = prepare(batch, model.options)
        avatar = create_avatar(model.net, given["source_imgs"], given["source_poses"],
                               given.get("source_stickmen"), given.get("source_segs"))  # fmt: skip
        driver = Driver(model.net, avatar, model.precision.dtype)
        made, _ = driver(torch.stack([frame.pose for frame in frames]))
    truth = torch.stack([frame.image for frame in frames]).float()
    mask = (torch.stack([frame.mask for frame in frames]) > 127).float()

    def error(images):
        return ((images.float() - truth).abs() * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))

    made, copied = error(to_uint8(made)), error(source.image[None].expand_as(truth))
    print(
        f"masked error {made.mean() / 382.5:.4f}, of the source copied {copied.mean() / 382.5:.4f}"
    )
    assert made.mean() < copied.mean()


def test_several_people_are_told_apart(tmp_path):
    from nets.data.detectors import open_detector

    frame = next(iter(open_video(REAL / "street.avi", start=3.9)))[1]
    found = open_detector().people(frame)
    assert len(found) >= 3
    extents = np.array([person.extent for person in found])
    assert (np.diff(extents) <= 0).all() and extents[0] > 400
    nobody = read_image(REAL / "far_people.jpg", None)[:, :100]
    assert open_detector().faces(nobody) == []
