"""The fit of a VUNet to one person's image: what it reaches, and what it leaves alone."""

from __future__ import annotations

import json

import pytest
import torch

import evaluate
import infer
from nets import published
from nets.data.io.images import write_image
from nets.layers import signed
from nets.run.precision import Precision
from nets.skeletons import JOINTS_15
from nets.vunet.data import PersonInputs
from nets.vunet.fitting import fit
from nets.vunet.warm_start import load_network
from nets.worlds.people.world import PeopleWorld

FP32 = Precision("fp32", torch.device("cpu"), channels_last=False)


@pytest.fixture(scope="module")
def trained():
    """The weights that come with guise."""
    path = published.TRAINED / "vunet.safetensors"
    return load_network(published.read_checkpoint(path, "vunet"), path, FP32)


@pytest.fixture(scope="module")
def person(trained):
    """Two images of a person of the demo world in colours that it does not have, and the second's
    mask: the backgrounds differ."""
    sample = PeopleWorld("test", trained[1]["image_size"], 0, pairing="identity")[0, 3]
    images = [255 - sample[name] for name in ("appearance", "target")]
    return images, [sample["appearance_joints"], sample["joints"]], sample["mask"]


@pytest.fixture(scope="module")
def fitted(trained, person):
    images, joints, _ = person
    return fit(trained[0], PersonInputs(trained[1], JOINTS_15), images[0], joints[0], 30, FP32)


def errors_of(net, options, person):
    """Mean absolute difference: in the first pose to the first image; in the second pose, inside
    the mask, to the second image and to the first."""
    images, joints, mask = person
    inputs = PersonInputs(options, JOINTS_15)
    appearance = inputs.appearance(images[0][None], joints[0][None])
    with torch.no_grad():
        shown = [net(inputs.pose(at[None]), appearance, "transfer").image[0] for at in joints]
    first, second = map(signed, images)
    inside = [((shown[1] - image).abs()[:, mask]).mean().item() for image in (second, first)]
    return (shown[0] - first).abs().mean().item(), *inside


def test_a_fitted_network_has_the_persons_colours_in_another_pose_too(trained, person, fitted):
    net, options = trained
    before, after = errors_of(net, options, person), errors_of(fitted, options, person)
    assert after[0] < 0.5 * before[0] and after[1] < 0.75 * before[1]
    # The pose still decides: a network that only learnt its one image would draw it in every pose.
    assert after[1] < 0.8 * after[2]


def test_a_fit_is_repeatable_and_leaves_the_network_alone(trained, person):
    net, options = trained
    images, joints, _ = person
    before = {name: value.clone() for name, value in net.state_dict().items()}
    inputs = PersonInputs(options, JOINTS_15)
    one, two = (fit(net, inputs, images[0], joints[0], 2, FP32).state_dict() for _ in range(2))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    changed = {name.split(".")[0] for name, value in one.items() if not value.equal(before[name])}
    assert changed == {"decoder"}


def test_infer_and_evaluate_fit_as_the_checkpoint_or_the_option_says(tmp_path, person, capsys):
    images, joints, _ = person
    folder = tmp_path / "pairs/images/anna"
    for name, image in zip("ab", images, strict=True):
        write_image(folder / f"{name}.png", image)
    known = {
        name: {joint: at.tolist() for joint, at in zip(JOINTS_15, points, strict=True)
               if at.isfinite().all()}
        for name, points in zip(("a.png", "b.png"), joints, strict=True)
    }  # fmt: skip
    (tmp_path / "pairs/annotation.json").write_text(json.dumps(known))
    (tmp_path / "pairs/pairs.csv").write_text("from,to\na.png,a.png\n")
    weights = str(published.TRAINED / "vunet.safetensors")
    given = ["--checkpoint", weights, "-s", folder / "a.png", "-d", folder / "b.png", "--device",
             "cpu", "--source_joints", tmp_path / "pairs/annotation.json", "--driving_joints",
             tmp_path / "pairs/annotation.json"]  # fmt: skip
    results = {}
    for name, steps in (("none", 0), ("some", 8)):
        out = tmp_path / f"{name}.png"
        infer.main([str(word) for word in [*given, "--fit_steps", steps, "-o", out]])
        assert ("fitting the network" in capsys.readouterr().out) == bool(steps)
        results[name] = out.read_bytes()
    assert len(set(results.values())) == 2
    scores = {}
    for steps in (0, 20):
        argv = ["--checkpoint", weights, "--pairs", tmp_path / "pairs/pairs.csv", "--joints",
                tmp_path / "pairs/annotation.json", "--fit_steps", steps, "--out",
                tmp_path / "report.json", "--device", "cpu", "--workers", 0]  # fmt: skip
        evaluate.main([str(word) for word in argv])
        scores[steps] = json.loads((tmp_path / "report.json").read_text())["network"]["l1"]["mean"]
    assert scores[20] < 0.7 * scores[0]


@pytest.mark.parametrize(
    "program, system, reason",
    [
        (infer, "dcign", "an option of vunet and bilayer"),
        (evaluate, "landmarks", "an option of vunet and bilayer"),
        (infer, "vunet", "only with -s"),
        (evaluate, "vunet", "only with --pairs"),
    ],
)
def test_the_option_is_refused_where_nothing_is_fitted(program, system, reason, capsys):
    weights = published.TRAINED / f"{system}.safetensors"
    with pytest.raises(SystemExit):
        program.main(["--checkpoint", str(weights), "--fit_steps", "3", "--device", "cpu"])
    assert f"--fit_steps: {reason}" in capsys.readouterr().err
