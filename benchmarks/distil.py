"""What a distilled avatar loses: students of several persons beside their teacher.

python benchmarks/distil.py            writes benchmarks/results/distil.json and docs/distil.png
python benchmarks/distil.py --quick    two persons and few steps; writes where --output says

The teacher is the head avatar that comes with guise, 128 px. Persons are of the test split of the
demo world. Each student is distilled as `python distil.py` does, with its defaults or with the
channels of the row, from driving poses of training persons.

Scores are of frames driven by other test persons: FRAMES poses and expressions that were not
trained on, the same for all. Ground truth is the person in the driver's pose and expression.

    masked L1       to ground truth, where its mask is, range 0 to 1
    to the teacher  L1 and PSNR of the whole image
    mouth, lids     Pearson's r, over the frames of all persons, of the driver's opening and the
                    opening that the readers of evaluate.py read from the image
    still           the mean of the teacher's frames, as the image of every frame
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import distil
from benchmarks.machine import write_report
from nets import metrics, published
from nets.bilayer import Driver, fold
from nets.bilayer.distil import complete, make_person, parser
from nets.bilayer.readers import cut_out, load_readers, openings_of
from nets.bilayer.sources import Faces
from nets.bilayer.warm_start import load_model, load_student
from nets.data.heads.faces import normalised_pose
from nets.data.io.images import write_image
from nets.layers import signed
from nets.run import checkpoints, options
from nets.run.images import labelled_grid, to_uint8
from nets.run.precision import Precision
from nets.worlds.heads.face.drawing import landmarks
from nets.worlds.heads.videos import RANGES, HeadVideos
from nets.worlds.heads.world import SPLITS, identities, scenes

TEACHER = published.TRAINED / "bilayer.safetensors"
FRAMES = 64  # a person
WIDTHS = {"half": (8, 32), "third": (5, 20), "quarter": (4, 16)}  # channels; the teacher: 16, 64
Scored = dict[str, Tensor]


def drivers(size: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Poses (FRAMES, 136) of as many test persons, and their scenes."""
    ids = torch.arange(FRAMES)
    scene = scenes(ids, 0, "driving of benchmarks/distil.py", RANGES)
    turned = scene["azimuth"], scene["elevation"], scene["expression"]
    points = landmarks(identities(ids + SPLITS["test"] + 1000), *turned, size)
    return torch.stack([normalised_pose(at, size) for at in points]), scene


def truth_of(world: HeadVideos, person: int, scene: dict[str, Tensor]) -> dict[str, Tensor]:
    """The person in the drivers' poses and expressions, under the light of the own source."""
    sample = world[0, person - 1]
    lit = scene | {"light": sample["target_scene"]["light"][:1].expand(FRAMES)}
    return world.truth(sample["person"].expand(FRAMES), sample["background"].expand(FRAMES), lit)


def student_frames(run: Path, poses: Tensor) -> tuple[Tensor, Tensor | None]:
    """Images and masks of a run's student, in float32."""
    path = checkpoints.find(run)
    precision = Precision("fp32", torch.device("cpu"))
    student = load_student(checkpoints.read(path), path, precision).net
    return Driver(student, student.avatar())(poses)


def scores(
    shown: dict[str, tuple[Tensor, Tensor]], truth: dict[str, Tensor], poses: Tensor
) -> dict[str, Scored]:
    """The scores of each way's images and masks, frame by frame."""
    reader = load_readers()[1]
    teacher = to_uint8(shown["teacher"][0])
    found = {}
    for name, (image, mask) in shown.items():
        pixels = to_uint8(image)
        found[name] = {
            "masked_l1": metrics.masked_l1(pixels, truth["image"], truth["mask"]),
            "l1_to_teacher": (pixels.float() - teacher.float()).abs().mean((1, 2, 3)) / 255,
            "psnr_to_teacher": metrics.psnr(pixels, teacher),
            "read": reader(cut_out(signed(pixels), mask), poses),
            "opening": openings_of(truth["mouth"], truth["lids"]),
        }
    return found


def summary(rows: list[Scored]) -> dict[str, float]:
    """The means over frames and persons, and the correlations of the openings."""
    joined = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    read, opening = joined.pop("read").double(), joined.pop("opening").double()
    result = {name: value.double().mean().item() for name, value in joined.items()}
    for i, part in enumerate(("mouth", "lids")):
        both = torch.stack([read[:, i], opening[:, i]])
        result[f"r_{part}"] = torch.corrcoef(both)[0, 1].nan_to_num().item()
    return result


def on_white(image: Tensor, mask: Tensor) -> Tensor:
    """Images (N, 3, S, S) in [-1, 1], cut out by masks (N, 1, S, S), uint8."""
    return to_uint8(image.clamp(-1, 1) * mask.float() + 1 - mask.float())


def rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in values.items()}


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    p.add_argument("--quick", action="store_true", help="two persons, 30 steps")
    p.add_argument("--persons", type=int, default=4, help="test persons")
    p.add_argument("--widths", nargs="+", choices=list(WIDTHS), default=["half"])
    p.add_argument("--steps", type=int, help="default: that of distil.py")
    p.add_argument("--output", type=Path, help="JSON; the image lies beside it")
    args = p.parse_args()
    persons = 2 if args.quick else args.persons
    steps = args.steps or (30 if args.quick else parser("").get_default("num_steps"))
    precision = Precision("fp32", torch.device("cpu"))
    model = load_model(published.read_checkpoint(TEACHER, "bilayer"), TEACHER, precision)
    fold(model.net)
    faces, size = Faces(model.options), model.options["image_size"]
    poses, scene = drivers(size)
    world = HeadVideos("test", size)
    rows: dict[str, list[Scored]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in args.widths}
    cells = []
    for person in range(1, persons + 1):
        truth = truth_of(world, person, scene)
        given = options.parse(parser(""), ["--person", str(person)])
        complete(given, model, TEACHER)
        source, avatar = make_person(given, model, faces)
        shown: dict[str, Any] = {"teacher": Driver(model.net, avatar)(poses)}
        shown["still"] = [part.mean(0, keepdim=True).expand_as(part) for part in shown["teacher"]]
        for width in args.widths:
            channels, most = map(str, WIDTHS[width])
            with tempfile.TemporaryDirectory() as folder:
                start = time.process_time()
                argv = ["--checkpoint", str(TEACHER), "--person", str(person)]
                argv += ["--run_dir", folder, "--name", width, "--num_steps", str(steps)]
                argv += ["--inf_num_channels", channels, "--inf_max_channels", most]
                distil.main(argv)
                seconds[width].append(time.process_time() - start)
                shown[width] = student_frames(Path(folder) / width, poses)
        for name, row in scores(shown, truth, poses).items():
            rows.setdefault(name, []).append(row)
            print(f"person {person}, {name}: {rounded(summary([row]))}")
        columns = [source.image, on_white(signed(truth["image"]), truth["mask"][:, None])[person]]
        columns += [on_white(*shown[name])[person] for name in ("teacher", *args.widths)]
        cells.append(columns)
    report: dict[str, Any] = {"persons": persons, "frames": FRAMES, "steps": steps, "ways": {}}
    for name, found in rows.items():
        report["ways"][name] = summary(found)
        if name == "teacher":  # the same images: no error, and no PSNR
            del report["ways"][name]["l1_to_teacher"], report["ways"][name]["psnr_to_teacher"]
        if name in seconds:
            report["ways"][name]["processor_s"] = sum(seconds[name]) / persons
        print(f"{name}: {rounded(report['ways'][name])}")
    titles = ["source", "ground truth", "teacher", *(f"student, {name}" for name in args.widths)]
    image = torch.from_numpy(labelled_grid(cells, (), titles).copy()).permute(2, 0, 1)
    output = args.output or Path(__file__).parent / "results/distil.json"
    write_report(output, report)
    shown_at = output.with_suffix(".png")
    if not args.output:
        shown_at = Path(__file__).resolve().parents[1] / "docs/distil.png"
    write_image(shown_at, image)


if __name__ == "__main__":
    main()
