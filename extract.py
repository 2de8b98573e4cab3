"""Makes datasets from photos and videos, and checks datasets.

    python extract.py people PHOTOS/ talk.mp4 -o data/mine          people, for train_vunet.py
    python extract.py heads VIDEO_ROOT -o data/heads --phase train  heads, for train_bilayer.py
    python extract.py clips VIDEOS/ -o data/clips                   clips, for train_landmarks.py
    python extract.py check data/mine                               check all samples of a dataset
    python extract.py look me.jpg -o look.png                       draw what the detector finds

Each command has --help. After an interruption the same command continues. Several processes or
machines share the files of people, heads and clips:

    torchrun --nproc_per_node=4 extract.py heads VIDEO_ROOT -o data/heads --workers 1
"""

from __future__ import annotations

import atexit
import gc
import os
import sys

if __name__ == "__main__":
    gc.disable()  # importing leaves no garbage, and looking for it takes a tenth of the time

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from nets.data.detectors import (
    ABOUT,
    AUTO,
    BACKENDS,
    CLOSE,
    CLOSE_PEOPLE,
    EVERY,
    EVERY_PEOPLE,
    MARGIN,
    for_heads,
)
from nets.data.extraction.check import check
from nets.data.extraction.clips import CLIP_CROPS, ClipOptions, extract_clips
from nets.data.extraction.heads import HEAD_CROPS, HeadOptions, extract_heads
from nets.data.extraction.people import CROPS, IDENTITIES, PeopleOptions, extract_people
from nets.data.extraction.sheet import look
from nets.data.heads.videos import PHASES
from nets.errors import UserError
from nets.run import options
from nets.run.options import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from nets.run.ranks import PatientRanks

# One process a core, shared by the ranks of this machine; each takes about half a gigabyte.
CORES = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
WORKERS = max(1, min(4, CORES))
# Arguments of the published extraction without a meaning here: accepted and ignored.
NO_EFFECT = ("pretrained_weights_dir", "num_keypoints", "output_stickmen", "stickmen_thickness",
             "num_source_frames", "num_target_frames", "num_visuals", "num_workers_per_process",
             "project_dir", "random_seed", "experiment_name")  # fmt: skip


# fmt: off
def parser(command: str, what: str | None) -> tuple[options.ArgumentParser, Callable[..., Any]]:
    """A parser for one command with the option --config, and its `add_argument`."""
    p = options.ArgumentParser(
        prog=f"extract.py {command}", description=what, exit_on_error=False, allow_abbrev=False)
    add = p.add_argument
    add("--config", type=str, nargs="+", default=None, metavar="FILE", help="YAML files of options")
    options.add_max_megapixels(add)
    return p, add


def common(add: Callable[..., Any], given: str) -> None:
    """Add the arguments that the extracting commands share, but for --detector."""
    add("given", type=str, nargs="*", default=[], metavar=given, help="files and folders")
    add("--workers", type=NonNegativeInt, default=WORKERS,
        help="processes of each rank; 0: no extra process")


def detector(add: Callable[..., Any]) -> None:
    """Add --detector, for people or for people and faces."""
    add("--detector", type=Literal[BACKENDS], default="mediapipe", help=ABOUT)


def people(argv: list[str]) -> None:
    """Cuts people with their joints out of photos and videos."""
    p, add = parser("people", people.__doc__)
    common(add, "PHOTO_OR_VIDEO")
    detector(add)
    add("-o", "--out", type=str, default="data/people", help="folder of the dataset")
    add("--size", type=PositiveInt, default=256, help="longer side of the images, pixels")
    add("--crop", type=Literal[CROPS] | None, default=None,
        help="part around each person: a square, or its box with the aspect kept; none: the whole "
        "image; default: square, with --joints none")
    add("--margin", type=NonNegativeFloat, default=MARGIN,
        help="margin around a person, as a fraction of the longer side of its box")
    add("--min_size", type=PositiveInt, default=64,
        help="smallest size of a person in the photo, pixels")
    add("--fps", type=PositiveFloat, default=2.0, help="images a second of videos")
    add("--detect_every", type=PositiveInt, default=EVERY_PEOPLE,
        help="frames of a video from one search for people in the frame and tiles of it to the "
        "next; in between they are looked for near their last places, if frames are at most "
        f"{CLOSE_PEOPLE:g} s apart, and newcomers in the whole frame; 1: always with tiles")
    add("--joints", type=str | None, default=None,
        help="file of annotated joints, used instead of the detector: CSV of Market-1501 or "
        "DeepFashion, JSON of COCO or OpenPose, or JSON {file: {joint: [x, y]}}")
    add("--test", type=Fraction, default=0.1, help="fraction of the identities in the test split")
    add("--identity", type=Literal[IDENTITIES], default="file",
        help="people with one identity: each person of a file for itself, or all of a folder")
    a = options.parse(p, argv)
    crop = a.crop or ("none" if a.joints else "square")
    settings = PeopleOptions(
        a.size, crop, a.margin, a.min_size, a.fps, a.detector, a.joints, a.detect_every)
    with PatientRanks() as ranks:
        said = extract_people(a.given, a.out, settings, a.test, a.identity, a.workers, ranks)
    show(said, f"train_vunet.py --data {a.out}/index.p")


def heads(argv: list[str]) -> None:
    """Cuts heads with 68 points and masks out of videos PERSON/VIDEO/SEQUENCE.mp4 or others."""
    p, add = parser("heads", heads.__doc__)
    common(add, "VIDEO_ROOT")
    add("--detector", type=Literal[(AUTO, *BACKENDS)], default=AUTO,
        help=f"{ABOUT}; auto: dlib if it is installed, else mediapipe")
    add("--video_root", type=str | None, default=None, help="VIDEO_ROOT by its published name")
    add("-o", "--data_root", type=str, default="data/heads", help="folder of the dataset")
    add("--phase", type=Literal[PHASES], default="test", help="split to write")
    add("--sampling_rate", type=PositiveInt, default=1, help="take every n-th frame")
    add("--image_size", type=PositiveInt, default=256, help="side of the images, pixels")
    options.add_flag(p, "--output_segmentation", True, "write masks too")
    add("--crop", type=Literal[HEAD_CROPS], default="frame",
        help="square around the points of each frame, or stable: of one size on a smooth path, "
        "which looks at each video twice")
    add("--start", type=NonNegativeFloat | None, default=None, help="second to begin at")
    add("--end", type=PositiveFloat | None, default=None, help="second to stop before")
    add("--detect_every", type=PositiveInt, default=EVERY,
        help="frames from one search for faces in the whole frame to the next; in between they are "
        f"looked for near the last place, if frames are at most {CLOSE:g} s apart; 1: always whole")
    add("--batch_size", type=PositiveInt, default=1, help="accepted without effect")
    add("--num_gpus", type=NonNegativeInt, default=0, help="accepted without effect")
    for name in NO_EFFECT:
        add(f"--{name}", type=str | int | bool | None, default=None, help="accepted without effect")
    a = options.parse(p, argv)
    given = a.given + ([a.video_root] if a.video_root else [])
    settings = HeadOptions(
        a.sampling_rate, a.image_size, a.output_segmentation, a.start, a.end,
        for_heads(a.detector), a.detect_every, a.crop)
    needed(given, "VIDEO_ROOT")
    with PatientRanks() as ranks:
        said = extract_heads(given, a.data_root, a.phase, settings, a.workers, ranks)
    show(said, f"train_bilayer.py --data {a.data_root}")


def clips(argv: list[str]) -> None:
    """Cuts clips of one person or object out of videos, as folders of frames."""
    p, add = parser("clips", clips.__doc__)
    common(add, "VIDEO")
    detector(add)
    add("-o", "--out", type=str, default="data/clips", help="folder of the clips")
    add("--size", type=PositiveInt, default=256, help="side of the frames, pixels")
    add("--fps", type=PositiveFloat, default=10.0, help="frames a second")
    add("--crop", type=Literal[CLIP_CROPS], default="person",
        help="square around all places of the largest person, or the middle square")
    add("--margin", type=NonNegativeFloat, default=MARGIN,
        help="margin around a person, as a fraction of the longer side of its box")
    a = options.parse(p, argv)
    settings = ClipOptions(a.size, a.fps, a.crop, a.margin, a.detector)
    needed(a.given, "VIDEO")
    with PatientRanks() as ranks:
        said = extract_clips(a.given, a.out, settings, a.workers, ranks)
    show(said, f"train_landmarks.py --dataset clips --data {a.out}")


def check_data(argv: list[str]) -> None:
    """Reads all samples of a dataset in any format, lists problems, and draws a contact sheet."""
    p, add = parser("check", check_data.__doc__)
    add("given", type=str, nargs="*", default=[], metavar="DATA", help="datasets")
    add("-o", "--out", type=str, default="check.png", help="image file of the contact sheet")
    a = options.parse(p, argv)
    problems = 0
    for data in needed(a.given, "DATA"):
        checked = check(data, a.out)
        print(f"{data}: {checked.format}")
        for line in checked.remarks:
            print(f"  {line}")
        for line in checked.problems:
            print(f"  wrong: {line}")
        problems += len(checked.problems)
        print(f"  {len(checked.problems)} problems; look at {a.out}")
    raise SystemExit(1 if problems else 0)


def look_at(argv: list[str]) -> None:
    """Draws what the detector finds in images: joints, 68 points, mask and the cut-out squares."""
    p, add = parser("look", look_at.__doc__)
    add("given", type=str, nargs="*", default=[], metavar="IMAGE", help="images, folders")
    add("-o", "--out", type=str, default="look.png", help="image file to write")
    detector(add)
    a = options.parse(p, argv)
    print(look(needed(a.given, "IMAGE"), Path(a.out), a.detector))
# fmt: on


def show(summary: str | None, command: str) -> None:
    """Print the summary and the next command. Only rank 0 has a summary."""
    if summary is not None:
        print(f"{summary}\nnext: python {command}")


def needed(given: list[str], what: str) -> list[str]:
    """The given files and folders. Raises UserError if there is none."""
    if not given:
        raise UserError(f"{what}: give a file or folder")
    return given


COMMANDS = {"people": people, "heads": heads, "clips": clips, "check": check_data, "look": look_at}


@options.user_errors()
def main(argv: list[str] | None = None) -> None:
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__ or f"commands: {', '.join(COMMANDS)}")  # python -OO removes it
        raise SystemExit(0 if argv else 2)
    if argv[0] not in COMMANDS:
        raise UserError(f"{argv[0]}: must be one of {', '.join(COMMANDS)}; see --help")
    if argv[0] in ("check", "look") and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UserError(f"extract.py {argv[0]} is one process: start it without torchrun")
    atexit.register(gc.freeze)  # at exit Python need not look through half a million objects
    COMMANDS[argv[0]](argv[1:])


if __name__ == "__main__":
    gc.enable()
    main()
