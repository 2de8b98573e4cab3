"""A detector of white and grey boxes, scenes for it, and calls of extract.py.

As a script it is extract.py with this detector, for tests with several processes. Environment:
BOXES_LOG    file that gets a line with the rank for each image that is searched
BOXES_DIE    "RANK COUNT": that rank ends at its image number COUNT, as if the power failed
BOXES_FAIL   the same, but with an error
BOXES_SLEEP  "RANK SECONDS" an image
"""

import os
import sys
import time

import pytest
import torch

import extract
from nets.data.detectors import Person, person_box
from nets.data.extraction import jobs
from nets.data.io.images import write_image
from nets.data.io.video_writer import VideoWriter
from nets.skeletons import JOINTS_17

# Joints of a person, (x, y) as fractions of its box.
STANDING = dict(
    rankle=(0.3, 1), rknee=(0.3, 0.75), rhip=(0.35, 0.5), rshoulder=(0.2, 0.2), relbow=(0, 0.35),
    rwrist=(0, 0.5), reye=(0.45, 0.05), lankle=(0.7, 1), lknee=(0.7, 0.75), lhip=(0.65, 0.5),
    lshoulder=(0.8, 0.2), lelbow=(1, 0.35), lwrist=(1, 0.5), leye=(0.55, 0.05), cnose=(0.5, 0.1),
    rear=(0.4, 0.07), lear=(0.6, 0.07),
)  # fmt: skip
JOINTS = torch.tensor([STANDING[name] for name in JOINTS_17])
FACE = torch.rand(68, 2, generator=torch.Generator().manual_seed(0))
FACE[0], FACE[1] = 0, 1  # the corners of the box


def scene(*boxes, size=(120, 160)):
    """A dark image with boxes (x, y, w, h), the first white, the second grey."""
    image = torch.full((3, *size), 20, dtype=torch.uint8)
    for level, (x, y, w, h) in zip((250, 180), boxes, strict=False):
        image[:, y : y + h, x : x + w] = level
    return image


class Boxes:
    def __init__(self):
        self.asked = 0

    def _boxes(self, image):
        self.asked += 1
        self.obey()
        boxes = []
        for level in (250, 180):
            at = ((image.float() - level).abs() < 30).all(0).nonzero()
            if len(at) > 60:
                (y0, x0), (y1, x1) = at.amin(0).tolist(), at.amax(0).tolist()
                boxes.append(torch.tensor([[x0, y0], [x1 - x0, y1 - y0]]))
        return sorted(boxes, key=lambda box: -box[1].max())

    def obey(self):
        """Do what the environment asks for."""
        rank = os.environ.get("RANK", "0")
        if "BOXES_LOG" in os.environ:
            with open(os.environ["BOXES_LOG"], "a") as log:
                log.write(f"{rank}\n")
        for what in ("DIE", "FAIL", "SLEEP"):
            who, value = os.environ.get(f"BOXES_{what}", "none 0").split()
            if who != rank:
                continue
            if what == "SLEEP":
                time.sleep(float(value))
            elif self.asked == int(value):
                if what == "DIE":
                    os._exit(9)
                raise OSError(5, "Input/output error", "disk")

    def people(self, image, near=None):
        people = []
        for corner, sides in self._boxes(image):
            joints = JOINTS * sides + corner
            if sides[1] < 1.5 * sides[0]:  # shorter than a person: cut off below
                joints[[JOINTS_17.index("lhip"), JOINTS_17.index("rhip")]] = torch.nan
            people.append(Person(joints.float(), person_box(joints)))
        if near is None:
            return people
        return [p for p in people if abs(p.box[0] - near.box[0]) < 25]

    def places(self, image):
        return [person.around for person in self.people(image)]

    def faces(self, image, near=None, known=None):
        return [FACE * sides + corner for corner, sides in self._boxes(image)]

    def mask(self, image):
        return (image[0] > 100).float()


def run(*arguments):
    extract.main([*map(str, arguments), "--workers", "0"])


def refused(capsys, *arguments):
    with pytest.raises(SystemExit, match="2"):
        extract.main([*map(str, arguments), "--workers", "0"])
    return capsys.readouterr().err.strip().splitlines()[-1]


def video(path, frames, fps=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    with VideoWriter(path, fps) as out:
        for frame in frames:
            out.write(frame)


def photos(folder):
    write_image(folder / "a/two.png", scene((20, 20, 30, 80), (90, 30, 30, 76)))
    write_image(folder / "a/small.png", scene((20, 20, 10, 30)))
    write_image(folder / "b/cut.png", scene((20, 20, 70, 70)))
    write_image(folder / "b/one.jpg", scene((100, 10, 36, 90)))
    (folder / "b/broken.jpg").write_text("no image")
    write_image(folder / "b/nobody.png", scene())
    video(folder / "walk.mp4", [scene((10 + 8 * i, 20, 30, 80)) for i in range(8)])


if __name__ == "__main__":
    the_detector = Boxes()
    jobs.detector = lambda backend: the_detector
    extract.main([*sys.argv[1:], "--workers", "0"])
