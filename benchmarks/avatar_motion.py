"""How well motions of one head fit another: the options of infer.py for head avatars, measured.

python benchmarks/avatar_motion.py --run RUN        the demo world, by a run of demo_bilayer.yaml
python benchmarks/avatar_motion.py --clips VIDEOS   real clips, PERSON/VIDEO/SEQUENCE.mp4: points
                                                    alone, which dlib finds

Writes benchmarks/results/motion-world.json or motion-clips.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
from benchmarks.machine import write_report  # noqa: E402
from nets import metrics, published  # noqa: E402
from nets.bilayer import fold  # noqa: E402
from nets.bilayer.data import prepare  # noqa: E402
from nets.bilayer.fitting import avatars_of  # noqa: E402
from nets.bilayer.motion import EYES, Motion, area, best_frame  # noqa: E402
from nets.bilayer.network.model import drive  # noqa: E402
from nets.bilayer.warm_start import Loaded, load_model  # noqa: E402
from nets.data.detectors import open_detector  # noqa: E402
from nets.data.extraction.heads import list_videos  # noqa: E402
from nets.data.heads.faces import face_crop_box, normalised_pose, points_in_crop  # noqa: E402
from nets.data.io.video import open_video  # noqa: E402
from nets.run.images import to_uint8  # noqa: E402
from nets.run.precision import Precision  # noqa: E402
from nets.worlds.heads.face.drawing import landmarks  # noqa: E402
from nets.worlds.heads.videos import RANGES, HeadVideos  # noqa: E402
from nets.worlds.heads.world import identities, scenes  # noqa: E402

VARIANTS: dict[str, dict[str, Any]] = {
    "absolute": {},
    "relative": {"relative": True},
    "relative, adapt_scale": {"relative": True, "adapt_scale": True},
    "relative, find_best_frame": {"relative": True, "best": True},
    "relative, find_best_frame, adapt_scale": {"relative": True, "best": True, "adapt_scale": True},
}
FRAMES, KEYS = 24, 5  # frames of a driving clip of the world, and poses it passes through
SCORED = slice(3, None, 8)  # frames of the clip that are scored
CLIPS, OF_CLIP, EVERY = 2, 25, 3  # real clips a person, frames of a clip, and every which
PROTOCOL = {
    "world": (
        f"person i of the test split is driven by a clip of person i + 1, {FRAMES} frames that pass"
        f" through {KEYS} random poses and expressions. In the clip's start the driver's pose and"
        " expression are any (start any) or the source's (start same)"
    ),
    "keypoint_error": (
        f"in {len(range(FRAMES)[SCORED])} frames of the clip, as all scores: mean distance of the "
        "68 points that the network gets from those of the source person in the driver's pose and "
        "expression, percent of the image's side"
    ),
    "identity_distance": (
        "world: the distance that is left after the source person's azimuth, elevation, expression,"
        " place and size were fitted to these points, in the same unit. clips: mean distance, "
        "percent of the face's size (root of its area), to the nearest frame of any clip of the "
        "source person, at equal place and size"
    ),
    "masked_l1": "of the avatar's images, against the source person in the driver's pose",
    "right_person": "share of images that are nearest to this ground truth among 16 persons'",
    "clips": (
        "each person's first clip drives three others, whose source is the first frame of their "
        f"first clip; at most {CLIPS} clips a person and {OF_CLIP} frames a clip, every "
        f"{EVERY}rd. own: frames of the second half of the source person's frames, against the "
        "first half"
    ),
    "mouth, eyes, turn": (
        "correlation over the clip, with the driver's, of the opening of mouth and eyes relative "
        "to the face's size, and of the nose's distance from the middle of the jaw's ends"
    ),
    "mouth_range": "standard deviation of the mouth's opening over the driver's",
}


def moved(source: Tensor, driving: Tensor, options: dict[str, Any]) -> Tensor:
    """The points (T, 68, 2) that an avatar with these source points gets, as in infer.py."""
    if not options:
        return driving
    first = best_frame(source, driving) if options.get("best") else 0
    return Motion(source, driving[first], "all", options.get("adapt_scale", False))(driving)


def clip_scenes(person: int, start: dict[str, Tensor] | None) -> dict[str, Tensor]:
    """The scenes of a driving clip: linear between KEYS random ones; `start` replaces the first."""
    keys = scenes(torch.arange(KEYS) + KEYS * person, 1, "clips", RANGES)
    at = torch.linspace(0, KEYS - 1, FRAMES).double()
    low = at.long().clamp(max=KEYS - 2)
    result = {}
    for name, value in keys.items():
        if start is not None:
            value = torch.cat([start[name].double(), value[1:]])
        share = (at - low).view(-1, *[1] * (value.ndim - 1))
        result[name] = torch.lerp(value[low], value[low + 1], share)
    result["light"] = result["light"][:1].expand(FRAMES)
    return result


def world_points(world: HeadVideos, person: Tensor, scene: dict[str, Tensor]) -> Tensor:
    """The points of persons (N,) in N scenes, (N, 68, 2) in [-1, 1], not rounded."""
    place = scene["azimuth"], scene["elevation"], scene["expression"]
    at = landmarks(identities(person, world.world.seed), *place, world.size)
    return normalised_pose(at, world.size).view(-1, 68, 2)


def fitted_distance(
    world: HeadVideos, person: Tensor, scene: dict[str, Tensor], given: Tensor
) -> Tensor:
    """The distance of points (N, 68, 2) from the person's nearest pose and expression, (N,).

    person  (N,), the same one

    Levenberg's method, from the pose and expression of `scene`, with differences as derivatives.
    """
    count = len(given)
    free = torch.cat(
        [scene["azimuth"][:, None], scene["elevation"][:, None], scene["expression"],
         torch.zeros(count, 3)], 1)  # fmt: skip
    size = free.shape[1]
    low, high = torch.zeros(size).double(), torch.ones(size).double()
    low[:2], high[:2] = torch.tensor([-1.5, -0.6]), torch.tensor([1.5, 0.6])
    low[-3:] = torch.tensor([-0.5, -1.0, -1.0])

    def placed(free: Tensor) -> Tensor:
        now = {"azimuth": free[:, 0], "elevation": free[:, 1], "expression": free[:, 2:-3]}
        at = world_points(world, person[:1].expand(len(free)), now).double()
        return (at * (1 + free[:, -3, None, None]) + free[:, None, -2:]).flatten(1)

    aim, step = given.flatten(1), 1e-2  # the points are float32
    damping = torch.full((count, 1, 1), 1e-2, dtype=torch.float64)
    left = aim - placed(free)
    eye = torch.eye(size, dtype=torch.float64)
    for _ in range(8):
        many = torch.cat([free + step * row for row in (*eye, *-eye)])
        ahead, back = placed(many).view(2, size, count, -1)
        slope = (ahead - back).permute(1, 2, 0) / (2 * step)  # (N, 136, free)
        square = slope.mT @ slope + damping * eye
        new = (free + torch.linalg.solve(square, slope.mT @ left[..., None])[..., 0]).clamp(
            low, high
        )
        rest = aim - placed(new)
        better = (rest.square().sum(1) < left.square().sum(1))[:, None]
        free, left = torch.where(better, new, free), torch.where(better, rest, left)
        damping = torch.where(better[..., None], damping / 3, damping * 4)
    return left.view(-1, 68, 2).norm(dim=-1).mean(1)


def on_world(model: Loaded, persons: int) -> dict[str, Any]:
    """The scores of all variants on the demo world; see PROTOCOL."""
    size = model.options["image_size"]
    world = HeadVideos("test", size, seed=model.options["seed"], length=persons)
    samples = world.__getitems__([(0, i) for i in range(persons)])
    report: dict[str, Any] = {}
    for start in ("any", "same"):
        rows: dict[str, dict[str, list[Tensor]]] = {name: {} for name in VARIANTS}
        for i, sample in enumerate(samples):
            # The source is the sample's target frame, whose scene is known.
            source = sample["target_poses"][0].view(68, 2)
            batch = {f"source_{k}": sample[f"target_{k}"][None] for k in ("imgs", "poses", "segs")}
            with torch.no_grad():
                avatar = avatars_of(model, prepare(batch, model.options))
            begin = sample["target_scene"] if start == "same" else None
            scene = clip_scenes(i, begin)
            scene["light"] = sample["target_scene"]["light"][:1].expand(FRAMES)
            own = sample["person"].expand(FRAMES)
            other = samples[(i + 1) % persons]["person"].expand(FRAMES)
            behind = sample["background"].expand(FRAMES)
            driving = world_points(world, other, scene).float()
            scene = {name: value[SCORED] for name, value in scene.items()}
            own, behind = own[SCORED], behind[SCORED]
            truth = world.truth(own, behind, scene)
            target = world_points(world, own, scene).float()
            crowd = [(i + k) % persons for k in range(16)]
            for name, options in VARIANTS.items():
                at = moved(source, driving, options)[SCORED]
                with torch.no_grad():
                    image = to_uint8(drive(model.net, avatar, at.flatten(1)[None]).image[0].float())
                scores = {
                    "keypoint_error": 50 * (at - target).norm(dim=-1).mean(1),
                    "identity_distance": 50 * fitted_distance(world, own, scene, at.double()),
                    "masked_l1": metrics.masked_l1(image, truth["image"], truth["mask"]),
                    "right_person": _nearest(world, samples, crowd, behind, scene, image),
                }
                for key, value in scores.items():
                    rows[name].setdefault(key, []).append(value.double().mean())
        report[f"start {start}"] = {
            name: {key: float(torch.stack(values).mean()) for key, values in row.items()}
            for name, row in rows.items()
        }
    return report


def _nearest(
    world: HeadVideos,
    samples: list[Any],
    crowd: list[int],
    behind: Tensor,
    scene: dict[str, Tensor],
    image: Tensor,
) -> Tensor:
    """Whether the clip's middle image is nearest to the first person of a crowd, (1,)."""
    middle = slice(len(image) // 2, len(image) // 2 + 1)
    person = torch.cat([samples[k]["person"] for k in crowd])
    many = {
        name: value[middle].expand(len(crowd), *value.shape[1:]) for name, value in scene.items()
    }
    truth = world.truth(person, behind[:1].expand(len(crowd)), many)
    error = metrics.masked_l1(
        image[middle].expand_as(truth["image"]), truth["image"], truth["mask"]
    )
    return (error.argmin() == 0).view(1)


def normal(points: Tensor) -> Tensor:
    """Faces (T, 68, 2) about their middles, with an area of 1."""
    middle = points.mean(-2, keepdim=True)
    return (points - middle) / area(points)[..., None, None].sqrt()


def features(points: Tensor) -> dict[str, Tensor]:
    """The opening of mouth and eyes and the turn of the head, (T,) each, of faces (T, 68, 2)."""
    at = normal(points)
    lid = [(37, 41), (38, 40), (43, 47), (44, 46)]
    assert all(EYES.start <= k < EYES.stop for pair in lid for k in pair)
    return {
        "mouth": (at[:, 66] - at[:, 62]).norm(dim=-1),
        "eyes": sum((at[:, a] - at[:, b]).norm(dim=-1) for a, b in lid) / 4,
        "turn": at[:, 30, 0] - (at[:, 0, 0] + at[:, 16, 0]) / 2,
    }


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of two rows; NaN if one is constant."""
    return torch.corrcoef(torch.stack([a, b]))[0, 1]


def clip_poses(video: Path, detector: Any) -> Iterator[Tensor]:
    """The poses (68, 2) in [-1, 1] of a clip's frames as infer.py cuts them out, where found."""
    for number, (_, image) in enumerate(open_video(video)):
        if number % EVERY:
            continue
        if faces := detector.faces(image):
            box = face_crop_box(faces[0])
            yield normalised_pose(points_in_crop(faces[0], box, 1), 1).view(68, 2)


def on_clips(folder: Path) -> dict[str, Any]:
    """The scores of all variants on real clips; see PROTOCOL."""
    detector = open_detector("dlib")
    clips: dict[str, list[Tensor]] = {}
    for video, name in list_videos([folder]):
        if len(clips.get(name.split("/")[0], [])) == CLIPS:
            continue
        poses = list(islice(clip_poses(video, detector), OF_CLIP))
        if len(poses) >= 10:
            clips.setdefault(name.split("/")[0], []).append(torch.stack(poses))
    people = list(clips)
    rows: dict[str, dict[str, list[Tensor]]] = {name: {} for name in (*VARIANTS, "own")}

    def to_nearest(points: Tensor, others: Tensor) -> Tensor:
        distance = (normal(points)[:, None] - normal(others)).norm(dim=-1).mean(-1)
        return 100 * distance.amin(1).mean()

    for i, name in enumerate(people):
        own, source = torch.cat(clips[name]), clips[name][0][0]
        half = len(own) // 2
        rows["own"].setdefault("identity_distance", []).append(to_nearest(own[half:], own[:half]))
        for k in (1, 2, 3):
            driving = clips[people[(i + k) % len(people)]][0]
            theirs = features(driving)
            for variant, options in VARIANTS.items():
                at = moved(source, driving, options)
                ours, row = features(at), rows[variant]
                row.setdefault("identity_distance", []).append(to_nearest(at, own))
                for key, value in ours.items():
                    row.setdefault(key, []).append(correlation(value, theirs[key]))
                ratio = ours["mouth"].std() / theirs["mouth"].std().clamp_min(1e-6)
                row.setdefault("mouth_range", []).append(ratio)
    means = {
        name: {key: float(torch.stack(values).nanmean()) for key, values in row.items()}
        for name, row in rows.items()
    }
    return {"people": len(people), "clips": sum(map(len, clips.values())), **means}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", type=Path, help="a run of demo_bilayer.yaml")
    what.add_argument("--clips", type=Path, help="folder of real clips, PERSON/VIDEO/SEQUENCE")
    parser.add_argument("--persons", type=int, default=16, help="of the demo world, 16 at least")
    parser.add_argument("--output", type=Path, help="JSON; default: in benchmarks/results/")
    args = parser.parse_args()
    if args.clips:
        report = on_clips(args.clips)
    else:
        path = published.find(str(args.run))
        content = published.read_checkpoint(path, "bilayer")
        model = load_model(content, path, Precision("fp32", torch.device("cpu")))
        fold(model.net)
        report = {"persons": args.persons, **on_world(model, args.persons)}
    for name, row in report.items():
        print(name, row)
    name = "motion-clips" if args.clips else "motion-world"
    output = args.output or ROOT / f"benchmarks/results/{name}.json"
    write_report(output, {**report, "protocol": PROTOCOL})


if __name__ == "__main__":
    main()
