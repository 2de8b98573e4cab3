"""guise.load and its models, on small checkpoints: the images that infer.py writes, as tensors."""

import json

import numpy as np
import pytest
import torch

import guise
import infer
import train_vunet
from avatar_folder import face_points
from bilayer_tiny import OPTIONS, model
from dcign_tiny import LATENTS, SIZE, network, write_run
from landmark_files import untrained
from nets.data.detectors import Person, person_box
from nets.data.io.images import read_image, write_image
from nets.published import main as convert
from nets.run import checkpoints
from nets.skeletons import JOINTS_15, JOINTS_17, convert_joints, limb_lengths
from nets.worlds.people.world import PeopleWorld

SIDE = 96  # of the people's images; the network's is 32


def person(index):
    sample = PeopleWorld("test", SIDE)[(0, index)]
    return sample["target"], sample["joints"]


def textured(height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 5, generator=generator)
    whole = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (whole[0] * 255).clamp(0, 255).to(torch.uint8)


@pytest.fixture(scope="module")
def vunet_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vunet")
    train_vunet.main([
        "--config", "smoke.yaml", "--num_steps", "1", "--name", "a",
        "--run_dir", str(folder / "runs"),
    ])  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def bilayer_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bilayer") / "run"
    net = model(networks=["identity_embedder", "texture_generator", "keypoints_embedder",
                          "inference_generator"])  # fmt: skip
    content = {"system": "bilayer", "step": 3, "options": OPTIONS}
    path = folder / "checkpoints/step_00000003.pt"
    path.parent.mkdir(parents=True)
    checkpoints.write(path, content | {"parts": {"model": net.state_dict()}})
    return folder


def close(image, file):
    """Equal but for a level: batches of another size round differently."""
    written = read_image(file, None)
    assert image.dtype == torch.uint8 and image.shape == written.shape
    assert (image.int() - written.int()).abs().max() <= 1
    assert image.float().std() > 1  # an image of something
    return True


@pytest.mark.parametrize("fit", ["squash", "letterbox"])
def test_vunet_transfers_as_infer_does(vunet_run, fit, tmp_path, monkeypatch):
    monkeypatch.chdir(vunet_run)
    file = checkpoints.find("runs/a")
    content = checkpoints.read(file)
    content["options"]["fit"] = fit
    checkpoints.write(tmp_path / "run.pt", content)
    image, joints = person(0)
    image, (_, pose) = image[:, :, 8:88], person(1)  # 96 x 80: the two ways to fit differ
    joints = joints - torch.tensor([8.0, 0.0])
    write_image(tmp_path / "me.png", image)
    write_image(tmp_path / "dancer.png", torch.zeros(3, 32, 32, dtype=torch.uint8))
    pose = pose / SIDE * 32
    for name, points in (("me", joints), ("dancer", pose)):
        text = dict(zip(JOINTS_15, points.tolist(), strict=True)) | {"normalised": False}
        (tmp_path / f"{name}.json").write_text(json.dumps(text))
    infer.main([
        "--precision", "fp32", "--checkpoint", str(tmp_path / "run.pt"),
        "-o", str(tmp_path / "out.png"),
        "-s", str(tmp_path / "me.png"), "--source_joints", str(tmp_path / "me.json"),
        "-d", str(tmp_path / "dancer.png"), "--driving_joints", str(tmp_path / "dancer.json"),
    ])  # fmt: skip
    loaded = guise.load(tmp_path / "run.pt")
    assert isinstance(loaded, guise.LoadedVUNet) and loaded.size == 32
    for source in (image, tmp_path / "me.png", str(tmp_path / "me.png")):
        result = loaded.transfer(source, pose, joints, joint_order=JOINTS_15)
        assert close(result, tmp_path / "out.png")
    both = loaded.transfer(image, torch.stack([pose, joints / 3]), joints, JOINTS_15)
    assert both.shape == (2, 3, 32, 32) and close(both[0], tmp_path / "out.png")
    assert not torch.equal(both[0], both[1])


@pytest.mark.parametrize("fit", ["squash", "letterbox"])
def test_vunet_keeps_proportions_as_infer_does(vunet_run, fit, tmp_path, monkeypatch):
    monkeypatch.chdir(vunet_run)
    content = checkpoints.read(checkpoints.find("runs/a"))
    content["options"]["fit"] = fit
    checkpoints.write(tmp_path / "run.pt", content)
    image, joints = person(0)
    image, joints = image[:, :, 16:80], joints - torch.tensor([16.0, 0.0])  # 96 x 64
    pose = person(1)[1] / SIDE * 32
    write_image(tmp_path / "me.png", image)
    write_image(tmp_path / "dancer.png", torch.zeros(3, 32, 32, dtype=torch.uint8))
    for name, points in (("me", joints), ("dancer", pose)):
        text = dict(zip(JOINTS_15, points.tolist(), strict=True)) | {"normalised": False}
        (tmp_path / f"{name}.json").write_text(json.dumps(text))
    infer.main([
        "--precision", "fp32", "--checkpoint", str(tmp_path / "run.pt"), "--keep_proportions",
        "-o", str(tmp_path / "out.png"),
        "-s", str(tmp_path / "me.png"), "--source_joints", str(tmp_path / "me.json"),
        "-d", str(tmp_path / "dancer.png"), "--driving_joints", str(tmp_path / "dancer.json"),
    ])  # fmt: skip
    loaded = guise.load(tmp_path / "run.pt")
    drawn = []
    draw = loaded._inputs.pose
    monkeypatch.setattr(loaded._inputs, "pose", lambda at: drawn.append(at.cpu()) or draw(at))
    result = loaded.transfer(image, pose, joints, JOINTS_15, keep_proportions=True)
    assert close(result, tmp_path / "out.png")
    ratios = limb_lengths(drawn[0][0]) / limb_lengths(joints, JOINTS_15)
    assert ratios.max() / ratios.min() < 1.001
    assert not torch.equal(result, loaded.transfer(image, pose, joints, JOINTS_15))
    nose = torch.full((15, 2), -1.0)
    nose[JOINTS_15.index("cnose")] = 20.0
    with pytest.raises(guise.UserError, match="the image: keep_proportions needs a limb"):
        loaded.transfer(image, pose, nose, JOINTS_15, keep_proportions=True)


def test_missing_joints_stay_missing_where_the_image_is_letterboxed(vunet_run, tmp_path):
    content = checkpoints.read(checkpoints.find(vunet_run / "runs/a"))
    content["options"]["fit"] = "letterbox"
    checkpoints.write(tmp_path / "run.pt", content)
    loaded = guise.load(tmp_path / "run.pt")
    image, joints = person(0)
    joints[JOINTS_15.index("lwrist")] = -1.0
    at = loaded._source(image[:, :, 24:72], joints, JOINTS_15, False)[1]  # with bars on the left
    assert (
        at[JOINTS_17.index("lwrist")].isnan().all()
        and not at[JOINTS_17.index("rhip")].isnan().any()
    )


def test_vunet_detects_people_where_no_joints_are_given(vunet_run, monkeypatch):
    image, joints = person(0)
    _, pose = person(1)
    joints_17 = [convert_joints(points, JOINTS_15, JOINTS_17) for points in (joints, pose)]

    class Detector:
        def people(self, pixels):
            if pixels.float().std() < 1:
                return []
            points = joints_17[0 if torch.equal(pixels, image) else 1]
            return [Person(points, person_box(points))]

    monkeypatch.setattr("nets.api.open_detector", Detector)
    loaded = guise.load(vunet_run / "runs/a")
    seen, at = loaded._person(image, "me")
    assert seen.shape == (3, 32, 32)
    cut = loaded.transfer(seen, loaded._person(person(1)[0], "dancer")[1], at)
    assert torch.equal(loaded.transfer(image, person(1)[0]), cut)
    kept = loaded.transfer(image, person(1)[0], keep_proportions=True)
    assert torch.equal(kept, loaded.transfer(seen, loaded._person(person(1)[0], "dancer")[1], at,
                                             keep_proportions=True))  # fmt: skip
    assert not torch.equal(kept, cut)
    with pytest.raises(guise.UserError, match="the image: nobody was detected"):
        loaded.transfer(torch.zeros(3, 64, 64, dtype=torch.uint8), pose)


def test_vunet_samples_are_seeded_and_share_their_look(vunet_run):
    loaded = guise.load(vunet_run / "runs/a")
    poses = torch.stack([person(i)[1] / 3 for i in (0, 1)])
    samples = loaded.sample(poses, 3, joint_order=JOINTS_15)
    assert samples.shape == (3, 2, 3, 32, 32) and samples.dtype == torch.uint8
    assert torch.equal(samples, loaded.sample(poses, 3, 0, JOINTS_15))
    assert not torch.equal(samples, loaded.sample(poses, 3, 1, JOINTS_15))
    assert loaded.sample(poses[0], 3, 0, JOINTS_15).shape == (3, 3, 32, 32)


def test_load_without_arguments_takes_the_newest_run(vunet_run, monkeypatch, tmp_path):
    monkeypatch.chdir(vunet_run)
    loaded = guise.load()
    assert loaded.checkpoint.name == "step_00000001.pt" and "vunet, step 1" in repr(loaded)
    monkeypatch.chdir(tmp_path)
    assert "vunet" in repr(guise.load())
    for system in ("vunet", "landmarks", "bilayer", "dcign"):
        text = repr(guise.load(system=system))
        assert "come with guise" in text and system in text
    monkeypatch.setattr("nets.published.TRAINED", tmp_path)
    with pytest.raises(guise.UserError, match="no checkpoint under runs/bilayer"):
        guise.load(system="bilayer")
    content = {"system": "other", "step": 0, "options": {}, "parts": {"model": {}}}
    checkpoints.write(tmp_path / "other.pt", content)
    with pytest.raises(guise.UserError, match="other, which this version cannot load"):
        guise.load(tmp_path / "other.pt")


def test_landmarks_and_transfer(tmp_path):
    run = untrained(tmp_path)
    images = [textured(70, 90, seed) for seed in (1, 2)]
    for name, image in zip(("me", "dancer"), images, strict=True):
        write_image(tmp_path / f"{name}.png", image)
    infer.main(["--precision", "fp32", "--checkpoint", str(run),
                "-s", str(tmp_path / "me.png"), "-d",
                str(tmp_path / "dancer.png"), "-o", str(tmp_path / "out.png")])  # fmt: skip
    loaded = guise.load(run)
    assert isinstance(loaded, guise.LoadedLandmarks)
    assert close(loaded.transfer(*images), tmp_path / "out.png")
    points = loaded.landmarks(tmp_path / "me.png")
    square = read_image(tmp_path / "me.png", loaded.size)[None].float() / 127.5 - 1
    with torch.no_grad():
        means = loaded.net.landmarks(square).means[0]
    expected = (means + 1) / 2 * torch.tensor([90, 70])
    torch.testing.assert_close(points, expected, rtol=0, atol=1e-3)
    assert points.amin() > 0 and points.std(0).amin() > 0


def test_an_avatar_is_driven_as_by_infer(bilayer_run, tmp_path):
    images = [textured(120, 100, seed) for seed in (3, 4)]
    points = [face_points(80, turn) + 10 for turn in (0.0, 0.2)]
    for name, image, at in zip(("me", "driver"), images, points, strict=True):
        write_image(tmp_path / f"{name}.png", image)
        np.save(tmp_path / f"{name}.npy", at.numpy())
    mask = torch.zeros(1, 120, 100, dtype=torch.uint8)
    mask[:, 20:100, 20:80] = 255
    write_image(tmp_path / "mask.png", mask)
    infer.main([
        "--precision", "fp32", "--checkpoint", str(bilayer_run), "-o", str(tmp_path / "out.png"),
        "-s", str(tmp_path / "me.png"), "--source_keypoints", str(tmp_path / "me.npy"),
        "--source_masks", str(tmp_path / "mask.png"), "-d", str(tmp_path / "driver.png"),
        "--driving_keypoints", str(tmp_path / "driver.npy"),
    ])  # fmt: skip
    loaded = guise.load(bilayer_run)
    assert isinstance(loaded, guise.LoadedBilayer)
    avatar = loaded.avatar(images[0], points[0], mask)
    assert close(avatar.drive(points[1]), tmp_path / "out.png")
    frames = avatar.drive(torch.stack(points))
    assert frames.shape == (2, 3, 32, 32) and close(frames[1], tmp_path / "out.png")
    cut = {name: avatar.drive(points[1], name) for name in ("white", "black")}
    assert (cut["white"].int() - cut["black"].int()).amin() >= 0
    assert not torch.equal(cut["white"], cut["black"])

    alone = [loaded.avatar(image, points[0], mask).tensors.texture for image in images]
    several = loaded.avatar(images, points[0].expand(2, -1, -1), mask.expand(2, -1, -1, -1))
    assert not torch.equal(alone[0], alone[1])
    assert not torch.equal(several.tensors.texture, alone[0])
    with pytest.raises(ValueError, match="avatar: points must have 2 dimensions for one image"):
        loaded.avatar(images, points[0])


def test_dcign_codes(tmp_path):
    run = write_run(tmp_path / "run")
    loaded = guise.load(run)
    assert isinstance(loaded, guise.LoadedDCIGN) and loaded.size == SIZE
    image = textured(60, 60, 5)
    code = loaded.encode(image)
    assert code.shape == (LATENTS,)
    face = loaded.decode(code)
    assert face.shape == (1, SIZE, SIZE) and 0 <= face.amin() < face.amax() <= 1
    grey = torch.einsum("chw,c->hw", image / 255, torch.tensor([0.21, 0.72, 0.07]))[None, None]
    fitted = torch.nn.functional.interpolate(grey, SIZE, mode="bilinear", antialias=True)
    net = network()
    with torch.no_grad():
        expected = net.encode(fitted)[0]
        torch.testing.assert_close(code, expected[0], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(face, net.decode(code[None])[0], rtol=1e-3, atol=1e-4)
    assert loaded.owners["light"] == slice(2, 3) and loaded.owners["shape"] == slice(3, LATENTS)
    moved = code.clone()
    moved[loaded.owners["light"]] += 2
    assert loaded.decode(torch.stack([code, moved])).shape == (2, 1, SIZE, SIZE)
    assert not torch.equal(loaded.decode(moved), face)


def test_weights_alone_of_a_dcign_run_know_its_data(tmp_path):
    """A .safetensors of a run is not a published network: its training data can be read."""
    run = write_run(tmp_path / "run", regime="entangled")
    convert([str(run), str(tmp_path / "x.safetensors")])
    loaded, whole = guise.load(tmp_path / "x.safetensors"), guise.load(run)
    assert loaded.owners == whole.owners and loaded.owners["light"].stop <= LATENTS


def test_wrong_inputs_are_named(vunet_run, bilayer_run, tmp_path):
    vunet, bilayer = guise.load(vunet_run / "runs/a"), guise.load(bilayer_run)
    image, joints = person(0)
    with pytest.raises(ValueError, match=r"transfer: an image must be a file or uint8 \[3, H, W\]"):
        vunet.transfer(image.float(), joints, joints, JOINTS_15)
    with pytest.raises(ValueError, match=r"transfer: pose must be floating point \[17, 2\] or"):
        vunet.transfer(image, joints, torch.zeros(17, 2))
    with pytest.raises(ValueError, match=r"source_joints must be floating point \[15, 2\], got"):
        vunet.transfer(image, joints, joints[:3], JOINTS_15)
    with pytest.raises(guise.BadSample, match=r"absent\.png"):
        vunet.transfer(tmp_path / "absent.png", joints, joints, JOINTS_15)
    avatar = bilayer.avatar(
        textured(100, 100, 1), face_points(80), torch.full((1, 100, 100), 255).byte()
    )
    with pytest.raises(ValueError, match=r"drive: points must be floating point \[68, 2\] or"):
        avatar.drive(joints)
    with pytest.raises(ValueError, match="decode: code must be"):
        guise.load(write_run(tmp_path / "run")).decode(torch.zeros(3))
