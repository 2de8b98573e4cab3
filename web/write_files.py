"""Writes the files of the page that come from Python: numbers, and the demo person.

python web/write_files.py

tables.json             places of the 68 points in MediaPipe's mesh; lines of a stick figure
demo/source*            a drawn head: image, mask and 68 points
demo/driving.json       68 points of another one who talks, 25 frames a second, (T, 68, 2)
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from nets.data.heads.faces import pose_points
from nets.data.io.images import write_image
from nets.ops.skeleton import Skeleton
from nets.skeletons import FACE_68, MESH_68
from nets.worlds.heads.export import motion
from nets.worlds.heads.videos import RANGES, HeadVideos

SIZE = 192  # side of the drawn head, pixels
PERSON, DRIVER, CLIP = 6, 63, 1  # of the demo world's test persons and clips
FRAMES = 100


def tables() -> dict[str, Any]:
    """What the page's arithmetic shares with `nets.skeletons`."""
    return {
        "mesh_68": list(MESH_68),
        "stickman_background": FACE_68.background,
        "strokes": strokes(FACE_68),
    }


def strokes(style: Skeleton) -> list[dict[str, list[int]]]:
    """The lines of a stick figure, in the order in which they are drawn."""
    words = 5 + style.channels + 2 * style.corners
    lines = []
    for start in range(0, len(style.program), words):
        rest = style.program[start + 5 : start + words]
        colour, pairs = rest[: style.channels], rest[style.channels :]
        lines.append({"ends": [pairs[0], pairs[2]], "colour": list(colour)})
    return lines


def write_demo(folder: Path) -> None:
    """Writes the demo person and the driving points."""
    videos = HeadVideos("test", SIZE, targets=0)
    sample = videos[0, PERSON]
    write_image(folder / "source.png", sample["source_imgs"][0])
    write_image(folder / "source_mask.png", sample["source_segs"][0])
    points = pose_points(sample["source_poses"][0], SIZE)
    (folder / "source.json").write_text(rounded(points) + "\n")
    driver = videos[0, DRIVER]
    who, behind = (driver[name].expand(FRAMES) for name in ("person", "background"))
    scene = motion(CLIP, FRAMES, ranges=RANGES)
    (folder / "driving.json").write_text(rounded(videos.truth(who, behind, scene)["points"]) + "\n")


def rounded(points: Tensor) -> str:
    """Points as JSON, in tenths of a pixel."""
    tenths = (points.double() * 10).round() / 10
    return json.dumps(tenths.tolist(), separators=(",", ":"))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent,
                        help="folder to write; default: that of this file")  # fmt: skip
    folder = parser.parse_args(argv).folder
    (folder / "demo").mkdir(parents=True, exist_ok=True)
    (folder / "tables.json").write_text(json.dumps(tables()) + "\n")
    with torch.no_grad():
        write_demo(folder / "demo")
    print(f"written: {folder / 'tables.json'}, {folder / 'demo'}")


if __name__ == "__main__":
    main()
