"""Scores of head avatars on whole clips: a person driven by the own clip, and by another person's.

The measures are those of the papers on talking heads. Networks of others are looked for, named with
their address and digest, and left out by a printed line if they are missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from nets import metrics
from nets.bilayer.data import prepare
from nets.bilayer.fitting import avatars_of
from nets.bilayer.head_pose import expression_distance, head_pose, pose_distance
from nets.bilayer.metrics import Detect, Metrics
from nets.bilayer.network.model import Avatar, drive
from nets.bilayer.objective import weights_folders
from nets.bilayer.warm_start import Loaded
from nets.contracts import Sample
from nets.data.heads.faces import pose_points
from nets.data.heads.videos import AvatarFolder, read_frame, sample_of
from nets.errors import UserError
from nets.layers import signed
from nets.pretrained.arcface import embeddings
from nets.pretrained.inception import Inception, load_inception
from nets.run.images import to_uint8

PROTOCOL = {
    "clips": (
        "each PERSON/VIDEO of phase test: the first frame is the source, and frames at equal "
        "distances over the rest are the drivers and the truth. self: of the same clip. cross: the "
        "driver is the next clip of another person. If the data have masks, the true mask cuts "
        "prediction, truth and source out on black in self. copy_source: the source image instead "
        "of the prediction"
    ),
    "l1": metrics.PROTOCOL["l1"],
    "psnr": metrics.PROTOCOL["psnr"],
    "ssim": metrics.PROTOCOL["ssim"],
    "lpips": "LPIPS 0.1 with VGG16 on 8-bit RGB in [-1, 1] at the network's resolution",
    "frechet": metrics.PROTOCOL["frechet"] + "; all predictions against all true frames of self",
    "csim": (
        "csim: cosine of IR-SE50's embeddings of faces aligned by five of the 68 points. self: "
        "prediction and truth, both by the truth's points. cross: the prediction by the driver's "
        "points, and the source by its own"
    ),
    "akd": (
        "akd: mean distance, in pixels of the network's resolution, of the 68 points detected in "
        "prediction and truth. akd_given: of those detected in the prediction and the data's own, "
        "which drive it"
    ),
    "pose_error": metrics.PROTOCOL["pose_error"] + "; here pme",
    "pose": (
        "pose: mean absolute difference of yaw, pitch and roll in degrees, of the points detected "
        "in prediction and truth, or in cross in prediction and driver; from a scaled orthographic "
        "fit of a mean face to the points without the jaw"
    ),
    "expression": (
        "expression: mean distance of the points without the jaw that the pose leaves, minus their "
        "mean over the clip, in distances of the eye centres; of prediction and driver. "
        "copy_source: of a face that does not move"
    ),
    "missed": (
        "missed: share of predictions without a detected face among frames whose truth has one; "
        "they have no akd, pme, pose and expression. Frames whose truth has none are left out there"
    ),
    "summary": metrics.PROTOCOL["summary"],
}


class Clip(NamedTuple):
    """Frames of a clip: the source first."""

    person: str
    name: str  # PERSON/VIDEO
    sample: Sample  # a sample of one source and T targets; see `nets.data.heads.videos.sample_of`


def read_clip(data: AvatarFolder, item: str, frames: int) -> Clip | None:
    """The first frame of PERSON/VIDEO and `frames` others at equal distances; None: fewer than 2.

    The last frame is among them.
    """
    names = data.frames(item)
    rest = len(names) - 1
    if rest < 1:
        return None
    many = min(frames, rest)
    chosen = [names[0], *(names[1 + (i + 1) * rest // many - 1] for i in range(many))]
    read = [
        read_frame(data.root, data.phase, name, data.size, data.keypoints, data.masks)
        for name in chosen
    ]
    return Clip(item.split("/")[0], item, sample_of(read[:1], read[1:], 0))


def driver_of(clips: list[Clip], index: int) -> int | None:
    """The next clip, cyclically, of another person; None if all are of one person."""
    others = ((index + k) % len(clips) for k in range(1, len(clips)))
    return next((i for i in others if clips[i].person != clips[index].person), None)


class Measures:
    """The networks and detectors of the protocol; `left_out` has a line for each that is missing.

    names  the scores that can be measured
    """

    def __init__(
        self,
        model: Loaded,
        detect: Detect | None,
        download: bool,
        source: str = "auto",  # "random": untrained networks of LPIPS and recognition, for tests
    ):
        self.detect, self.device = detect, model.precision.device
        self.published = Metrics(
            ("lpips", "csim"),
            partial(weights_folders, model.options),
            download=download,
            source=source,
            device=self.device,
        )
        self.left_out = list(self.published.absent)
        self.descriptions = list(self.published.descriptions)
        self.inception: Inception | None = None
        try:
            folders = weights_folders(model.options, "inception")
            self.inception = load_inception(folders, download).to(self.device)
            self.descriptions.append(f"fid: {self.inception.description}")
        except UserError as error:
            self.left_out.append(f"fid is left out: {error}")
        if detect is None:
            self.left_out.append("akd, pme, pose and expression are left out: no detector")

    def points(self, images: Tensor) -> list[Tensor | None]:
        """The 68 points, in pixels, of each image (N, 3, S, S) uint8."""
        if self.detect is None:
            return [None] * len(images)
        return [self.detect(image) for image in images.cpu()]

    def lpips(self, prediction: Tensor, truth: Tensor) -> dict[str, Tensor]:
        """{"lpips": (N,)} of uint8 images; empty without its weights."""
        if self.published.lpips is None:
            return {}
        pairs = [(signed(a[None]), signed(b[None])) for a, b in zip(prediction, truth, strict=True)]
        return {"lpips": torch.cat([self.published.lpips(a, b) for a, b in pairs])}

    def identity(self, images: Tensor, points: Tensor) -> Tensor | None:
        """Embeddings (N, 512) of faces in uint8 images, aligned by points (N, 68, 2) pixels."""
        net = self.published.recognition
        return None if net is None else embeddings(net, signed(images), points)

    def features(self, images: Tensor) -> Tensor | None:
        """Features (N, 2048) of uint8 images, for FID."""
        if self.inception is None:
            return None
        return torch.cat([self.inception(part)[0] for part in images.split(16)]).cpu()


def distances(
    points: list[Tensor | None], truth: list[Tensor | None], given: Tensor | None = None
) -> dict[str, Tensor]:
    """akd, pme and missed of the frames whose truth has points; akd_given with given points.

    points, truth  68 points (68, 2) in pixels of each frame, or None
    given          (N, 68, 2)
    """
    rows: dict[str, list[Tensor]] = {name: [] for name in ("akd", "akd_given", "pme", "missed")}
    for i, (ours, theirs) in enumerate(zip(points, truth, strict=True)):
        if theirs is None:
            continue
        rows["missed"].append(torch.tensor(float(ours is None)))
        if ours is None:
            continue
        ours, theirs = ours.double().cpu(), theirs.double().cpu()
        akd = (ours - theirs).norm(dim=1).mean()
        eyes = (theirs[36:42].mean(0) - theirs[42:48].mean(0)).norm()
        rows["akd"].append(akd)
        rows["pme"].append(akd / eyes)
        if given is not None:
            rows["akd_given"].append((ours - given[i].double().cpu()).norm(dim=1).mean())
    return {name: torch.stack(values) for name, values in rows.items() if values}


def turned(
    points: list[Tensor | None], driver: list[Tensor | None], source: Tensor | None = None
) -> dict[str, Tensor]:
    """pose and expression of the frames in which both have points; see PROTOCOL.

    source  68 points of the source, for pose_copy_source and expression_copy_source
    """
    both = [(a, b) for a, b in zip(points, driver, strict=True) if a is not None and b is not None]
    if not both:
        return {}
    ours, theirs = (head_pose(torch.stack(column).float()) for column in zip(*both, strict=True))
    result = {
        "pose": pose_distance(ours, theirs),
        "expression": expression_distance(ours, theirs),
    }
    if source is not None:
        still = head_pose(source.float()[None].expand(len(both), -1, -1))
        result["pose_copy_source"] = pose_distance(still, theirs)
        result["expression_copy_source"] = expression_distance(still, theirs)
    return result


@torch.no_grad()
def score_clips(
    model: Loaded, data: AvatarFolder, frames: int, measures: Measures, fit_steps: int = 0
) -> dict[str, Any]:
    """The report on a dataset's test phase: "self", "cross", "left_out" and "protocol".

    frames     driving frames of each clip, at most
    fit_steps  of `nets.bilayer.fitting.fit`, for each clip's source
    Raises UserError if no clip has two frames.
    """
    for line in measures.left_out + measures.descriptions:
        print(line)
    read = (read_clip(data, item, frames) for item in data.items)
    clips = [clip for clip in read if clip is not None]
    if not clips:
        raise UserError(f"{data.name}: no clip of phase {data.phase} has two frames")
    scores: dict[str, dict[str, list[Tensor]]] = {"self": {}, "cross": {}}
    features: dict[str, list[Tensor]] = {"prediction": [], "truth": []}

    def add(part: str, values: Mapping[str, Tensor], suffix: str = "") -> None:
        for name, value in values.items():
            scores[part].setdefault(name + suffix, []).append(value.double().cpu())

    for index, clip in enumerate(tqdm(clips, "clips", unit="clip", disable=None)):
        own = _on_device(clip, model)
        source = own.source.expand_as(own.truth)
        with model.precision.autocast():
            avatar = avatars_of(model, own.data, fit_steps)
        prediction = own.cut(_driven(model, avatar, own))
        truth, still = own.cut(own.truth), own.cut(source)
        found, true_points = measures.points(prediction), measures.points(truth)
        for name, images in (("", prediction), ("_copy_source", still)):
            add("self", {
                "l1": metrics.l1(images, truth),
                "psnr": metrics.psnr(images, truth),
                "ssim": metrics.ssim(images, truth),
                **measures.lpips(images, truth),
            }, name)  # fmt: skip
            embedded = [measures.identity(x, own.points) for x in (images, truth)]
            if embedded[0] is not None and embedded[1] is not None:
                add("self", {"csim": (embedded[0] * embedded[1]).sum(1)}, name)
        add("self", distances(found, true_points, own.points))
        source_points = measures.points(own.source)
        add("self", distances(source_points * len(truth), true_points), "_copy_source")
        add("self", turned(found, true_points, source_points[0]))
        for name, images in (("prediction", prediction), ("truth", truth)):
            if (values := measures.features(images)) is not None:
                features[name].append(values)
        other = driver_of(clips, index)
        if other is None:
            continue
        driver = _on_device(clips[other], model)
        crossed = _driven(model, avatar, driver)
        of_source = measures.identity(own.source, own.source_points)
        of_result = measures.identity(crossed, driver.points)
        if of_source is not None and of_result is not None:
            add("cross", {"csim": (of_source * of_result).sum(1)})
        found = measures.points(crossed)
        driving_points = measures.points(driver.truth)
        add("cross", turned(found, driving_points, source_points[0]))
        add("cross", {k: v for k, v in distances(found, driving_points).items() if k == "missed"})
    report: dict[str, Any] = {
        part: {name: metrics.summary(torch.cat(values)) for name, values in rows.items()}
        for part, rows in scores.items()
    }
    if features["truth"]:
        pair = [metrics.gaussian_of(torch.cat(features[n])) for n in ("prediction", "truth")]
        report["self"]["fid"] = metrics.frechet(pair[0], pair[1])
    if not report["cross"]:
        measures.left_out.append("cross is left out: " + (
            "all clips are of one person" if driver_of(clips, 0) is None else
            "neither a detector nor recognition weights"))  # fmt: skip
    return {**report, "clips": len(clips), "left_out": measures.left_out, "protocol": PROTOCOL}


class _Placed(NamedTuple):
    """A clip on the device."""

    data: dict[str, Tensor]  # inputs of the networks, with a first axis of 1
    source: Tensor  # (1, 3, S, S) uint8
    truth: Tensor  # (T, 3, S, S) uint8
    mask: Tensor | None  # (T, 1, S, S) uint8
    source_points: Tensor  # (1, 68, 2) pixels
    points: Tensor  # (T, 68, 2) pixels

    def cut(self, images: Tensor) -> Tensor:
        """Images (T, 3, S, S) uint8 on black outside of the true masks, if there are any."""
        if self.mask is None:
            return images
        return (images.float() * (self.mask.float() / 255)).round().to(torch.uint8)


def _on_device(clip: Clip, model: Loaded) -> _Placed:
    device = model.precision.device
    batch = {name: value[None].to(device) for name, value in clip.sample.items()}
    size = batch["target_imgs"].shape[-1]
    return _Placed(
        prepare(batch, model.options),
        batch["source_imgs"][0],
        batch["target_imgs"][0],
        batch["target_segs"][0] if "target_segs" in batch else None,
        pose_points(batch["source_poses"][0], size)[:, :68],
        pose_points(batch["target_poses"][0], size)[:, :68],
    )


def _driven(model: Loaded, avatar: Avatar, driver: _Placed, at_once: int = 16) -> Tensor:
    """Frames (T, 3, S, S) uint8 of an avatar in the poses of a clip."""
    with model.precision.autocast():
        frames = [
            drive(model.net, avatar, poses).image[0].float()
            for poses in driver.data["target_poses"].split(at_once, dim=1)
        ]
    return to_uint8(torch.cat(frames))
