"""A check that reads all samples of a dataset, in any format, and lists the problems."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from tqdm import tqdm

from nets.data.clips.clips import BOXES
from nets.data.extraction.sheet import Drawing, contact_sheet
from nets.data.heads.videos import PHASES, AvatarFolder, read_frame
from nets.data.io.images import heif_hint, is_image, read_image
from nets.data.io.video import is_video, open_video
from nets.data.people.index import TRUNK, read_index
from nets.errors import BadSample, UserError
from nets.listing import list_folder, list_folders, report_left_out
from nets.skeletons import JOINTS_17, convert_joints

INDICES = ("index.p", "index.json", "index.npz")
Read = Callable[[int], Drawing]  # of the sample with this number


class Reader(Protocol):
    """Opens a dataset of one format: its facts, and how to read a sample."""

    def __call__(self, path: Path, /) -> tuple[Checked, Read]: ...


@dataclass
class Checked:
    """The result of a check: format, problems by file, and remarks about other facts."""

    format: str  # one line
    count: int  # samples
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)


def check(path: str | Path, sheet: str | Path | None = None) -> Checked:
    """Read all samples of a dataset in any format of the training scripts; the result.

    sheet  image file of a contact sheet to draw; None: no sheet
    Raises UserError if the dataset has none of the formats.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    reader: Reader
    if path.is_file() and path.suffix in (".p", ".pkl", ".pickle", ".json", ".npz"):
        reader = _index
    else:
        reader = next((reader for sign, reader in SIGNS.items() if any(path.glob(sign))), _clips)
    checked, read = reader(path)
    good = []
    for i in tqdm(range(checked.count), unit="file", disable=None):
        try:
            read(i)
            good.append(i)
        except (BadSample, UserError) as error:
            checked.problems.append(str(error))
    if good and sheet is not None:
        contact_sheet(Path(sheet), len(good), lambda i: read(good[i]))
    return checked


def _index(path: Path) -> tuple[Checked, Read]:
    file = path if path.is_file() else next(path / n for n in INDICES if (path / n).is_file())
    index = read_index(file)
    joints = torch.from_numpy(index["joints"])
    trunk = joints[:, [JOINTS_17.index(name) for name in TRUNK]]
    usable = ~trunk.isnan().any(-1).any(-1)
    train = torch.from_numpy(index["train"])
    count = len(joints)
    checked = Checked(f"index of people, {count} entries", count)
    checked.remarks.append(
        f"{int((train & usable).sum())} usable to train, {int((~train & usable).sum())} to test"
    )
    if not usable.all():
        checked.remarks.append(f"{int((~usable).sum())} without both shoulders and hips: left out")
    if index["identities"] is None:
        checked.remarks.append("no identities: only --pairing same and any")
    for name, split in (("train", train), ("test", ~train)):
        if not (split & usable).any():
            checked.remarks.append(f"nothing usable to {name}")
    outside = (joints > 1).any(-1).sum(-1)
    for i in outside.nonzero()[:, 0].tolist():
        checked.remarks.append(f"{os.fsdecode(index['imgs'][i])}: {int(outside[i])} joints outside")

    def read(i: int) -> Drawing:
        image = read_image(file.parent / os.fsdecode(index["imgs"][i]), None)
        return image, joints[i] * torch.tensor(image.shape[:0:-1]), os.fsdecode(index["imgs"][i])

    return checked, read


def _avatars(path: Path) -> tuple[Checked, Read]:
    frames: list[tuple[str, str]] = []
    checked = Checked("", 0)
    masked: dict[str, bool] = {}  # by phase: extract.py heads writes one at a time
    for phase in PHASES:
        if not (path / "imgs" / phase).is_dir():
            checked.remarks.append(f"no phase {phase}")
            continue
        masks = masked[phase] = _holds_a_file(path / "segs" / phase)
        folder = AvatarFolder(path, phase, 64, masks=masks)
        items = {item: folder.frames(item) for item in folder.items}
        frames += [(phase, name) for names in items.values() for name in names]
        for item, names in items.items():
            inside = list_folder(path / "imgs" / phase / item, lambda f: f.suffix == ".jpg", True)
            images = len(inside.files)
            report_left_out(path / "imgs" / phase / item, inside.left_out, "FRAME.jpg")
            if images != len(names):
                what = "keypoints or mask" if masks else "keypoints"
                checked.problems.append(
                    f"{path}/imgs/{phase}/{item}: {images - len(names)} images without {what}"
                )
    checked.format, checked.count = f"heads of videos, {len(frames)} frames", len(frames)
    without = [phase for phase, masks in masked.items() if not masks]
    if without:
        where = f" in {', '.join(without)}" if len(without) < len(masked) else ""
        checked.remarks.append(f"no masks{where}: train with --output_segmentation false")

    def read(i: int) -> Drawing:
        phase, name = frames[i]
        frame = read_frame(path, phase, name, 256, masks=masked[phase])
        points = (frame.pose.reshape(-1, 2) + 1) / 2 * 256
        if (points < -128).any() or (points > 384).any():
            raise BadSample(
                path / "keypoints" / phase / f"{name}.npy", "lies far outside its image"
            )
        return frame.image, points, "/".join(name.split("/")[-2:])

    return checked, read


def _holds_a_file(folder: Path) -> bool:
    """True if a folder, or a folder below it, holds a file."""
    return any(file.is_file() for file in folder.rglob("*"))


def _meta(path: Path) -> tuple[Checked, Read]:
    from nets.data.people.meta import PrjotiDataset

    parts: list[tuple[PrjotiDataset, int]] = []
    checked = Checked("", 0)
    for split in ("train", "test"):
        try:
            data = PrjotiDataset(path, split, 128)
        except UserError as error:
            checked.remarks.append(str(error))
            continue
        parts += [(data, i) for i in range(len(data))]
    if not parts:
        raise UserError(f"{path}: holds no usable entry; {checked.remarks[0]}")
    checked.format, checked.count = f"prjoti folder, {len(parts)} entries", len(parts)

    def read(i: int) -> Drawing:
        data, place = parts[i]
        sample = data[(0, place)]
        joints = convert_joints(sample["joints"], data.joint_order, JOINTS_17)
        return sample["target"], joints, str(place)

    return checked, read


def _bbc(path: Path) -> tuple[Checked, Read]:
    from nets.data.clips.bbc_pose import BBCPose

    parts = [BBCPose(path, split, strict=False) for split in ("train", "val")]
    every = [
        (part, clip, frame)
        for part in parts
        for clip, count in enumerate(part.counts)
        for frame in range(count)
    ]
    checked = Checked(f"BBC Pose, {len(every)} annotated frames", len(every))

    def read(i: int) -> Drawing:
        part, clip, frame = every[i]
        box = part.box(clip, frame)
        image = part.read(clip, frame, box, 128)
        return image, part.joints(clip, frame, box, 128), part.file(clip, frame)

    return checked, read


def _table(path: Path) -> tuple[Checked, Read]:
    from nets.data.scenes.factors import read_table

    rows = read_table(path / "factors.csv")
    checked = Checked(f"images with a table of factors, {len(rows)} rows", len(rows))
    checked.remarks.append(f"columns {', '.join(rows[0])}")

    def read(i: int) -> Drawing:
        return read_image(path / rows[i]["file"], None), None, rows[i]["file"]

    return checked, read


def _batches(path: Path) -> tuple[Checked, Read]:
    from nets.data.io import torch7
    from nets.data.scenes.batches import FILE, read_batch

    folders = [folder for folder in list_folders(path) if folder.name.startswith("th_")]
    files = [
        file
        for folder in folders
        for file in list_folder(folder, lambda f: bool(FILE.fullmatch(f.name)), True).files
    ]
    checked = Checked(f"batches of one changing factor, {len(files)} batches", len(files))
    if not files:
        raise UserError(f"{path}: holds folders th_..., but no batches (batch1, batch2, ...)")
    shapes: list[tuple[int, int]] = []

    def read(i: int) -> Drawing:
        file = files[i]
        if not shapes:  # all must have the shape of the first one
            if file.suffix == ".npz":
                with np.load(file, allow_pickle=False) as arrays:
                    shape = arrays["image"].shape
            else:
                shape = torch7.read(file).shape
            shapes.append((shape[0], shape[-1]))
        image = read_batch(file, *shapes[0])["image"]
        row = image[:4] if image.dtype == torch.uint8 else (image[:4] * 255).round().byte()
        return torch.cat(list(row), 2).expand(3, -1, -1), None, f"{file.parent.parent.name}"

    return checked, read


def _clips(path: Path) -> tuple[Checked, Read]:
    """A folder with folders of frames, videos, or images."""
    if path.is_file():
        raise UserError(f"{path}: is not an index; give a folder, or an index.p, .json or .npz")
    files, left_out = list_folder(path, lambda p: is_video(p) or is_image(p))
    left_out = [file for file in left_out if file.name != BOXES]
    report_left_out(path, left_out, "image or video", heif_hint(left_out))
    frames: list[Path] = []
    for folder in list_folders(path):
        images, left_out = list_folder(folder, is_image)
        report_left_out(folder, left_out, "image", heif_hint(left_out))
        frames += images
        if not images:
            files.append(folder)
    every = files + frames
    if not frames and all(p.is_dir() for p in files):
        raise UserError(
            f"{path}: no dataset: holds no index.p, imgs/, meta.yaml, code/bbcpose.mat, "
            "factors.csv, th_*, videos, images or folders of images"
        )
    clips = len({p.parent for p in frames}) + sum(map(is_video, files))
    checked = Checked(f"clips or images, {clips} clips, {len(every)} files", len(every))

    def read(i: int) -> Drawing:
        file = every[i]
        if file.is_dir():
            raise BadSample(file, "is a clip without frames, it holds no images")
        if not is_video(file):
            return read_image(file, None), None, f"{file.parent.name}/{file.name}"
        video = open_video(file)
        frames = iter(video)
        _, first = next(frames)  # open_video has decoded one
        for _ in frames:
            pass
        if video.damage:
            raise BadSample(file, video.damage)
        return first, None, file.name

    return checked, read


SIGNS: dict[str, Reader] = {  # files that identify the format of a folder
    **dict.fromkeys(INDICES, _index),
    "imgs": _avatars,
    "meta.yaml": _meta,
    "code/bbcpose.mat": _bbc,
    "factors.csv": _table,
    "th_*": _batches,
}
