"""Metrics of bilayer avatars, by their published names, with the networks that they need."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nets.bilayer.defaults import words
from nets.data.detectors import dlib_model
from nets.errors import UserError
from nets.metrics import pose_error, signed_psnr, signed_ssim
from nets.pretrained import arcface, lpips, vgg
from nets.pretrained.arcface import IRSE50, csim, load_recognition
from nets.pretrained.lpips import LPIPS, load_lpips
from nets.pretrained.weights import Files
from nets.run.images import to_uint8

METRICS = ("PSNR", "ssim", "lpips", "csim", "dlib_distance", "pose_matching")
ALIASES = {"pose_matching_metric": "pose_matching", "psnr": "PSNR"}
WEIGHTS = {  # metric -> the files of its networks, each by its official names
    "lpips": (vgg.OFFICIAL["torchvision16"], lpips.OFFICIAL),
    "csim": (arcface.OFFICIAL,),
}
Detect = Callable[[Tensor], Tensor | None]  # uint8 (3, H, W) -> 68 points (68, 2) pixels, or None


def look_for_weights(part: str, official: Files, folders: Sequence[Path], ways: str = "") -> None:
    """Raise UserError with the remedy if no file of `official` names is there.

    part      folder of the file below pretrained_weights/
    official  as for `nets.pretrained.weights.find`
    ways      further remedies, for the message
    """
    places = [*folders, Path(torch.hub.get_dir()) / "checkpoints"]
    if not any((place / file).is_file() for place in places for file in official):
        file, (_, _, url) = next(iter(official.items()))
        published = f"; published at {url}" if url else ""
        raise UserError(
            f"no {part} weights: {file} is not in {' or '.join(map(str, places))}; give "
            f"--pretrained_weights_dir DIR with the file DIR/pretrained_weights/{part}/{file}"
            f"{ways}{published}"
        )


class DlibFaces:
    """dlib's network of face recognition: distances of faces, for where IR-SE50 is missing.

    Its 128 numbers are made for distances: faces nearer than 0.6 count as one person. So this is
    another measure than the cosine of csim, and has another name.
    Raises UserError if dlib or its models are not installed.
    """

    def __init__(self) -> None:
        try:
            self._dlib = importlib.import_module("dlib")
        except ImportError as error:
            raise UserError(f"it needs dlib ({error}): pip install -e '.[dlib]'") from error
        self._net = self._dlib.face_recognition_model_v1(
            str(dlib_model("dlib_face_recognition_resnet_model_v1.dat"))
        )

    def distance(self, prediction: Tensor, truth: Tensor, points: Tensor) -> Tensor:
        """Distances of the faces' descriptors, (N,); 0: the same, above 0.6: another person.

        Arguments as for `csim`: images in [-1, 1], and the true image's points for both.
        """
        pairs = zip(to_uint8(prediction).cpu(), to_uint8(truth).cpu(), points.cpu(), strict=True)
        distances = [
            (self._descriptor(one, at) - self._descriptor(two, at)).norm() for one, two, at in pairs
        ]
        return torch.stack(distances)

    def _descriptor(self, image: Tensor, points: Tensor) -> Tensor:
        pixels = image.permute(1, 2, 0).contiguous().numpy()
        (x0, y0), (x1, y1) = points.amin(0).round().tolist(), points.amax(0).round().tolist()
        marks = [self._dlib.point(round(x), round(y)) for x, y in points.tolist()]
        box = self._dlib.rectangle(int(x0), int(y0), int(x1), int(y1))
        face = self._dlib.full_object_detection(box, marks)
        return torch.tensor(list(self._net.compute_face_descriptor(pixels, face)))


class Metrics:
    """Metrics of a pass of the networks: `metrics(data)` compares predictions with ground truth.

    names     of `METRICS` or `ALIASES`
    folders   part ("lpips", "csim") -> folders to search for weight files before torch's cache
    detect    detector of face points, for pose_matching
    pair      names of the prediction and of the ground truth in `data`
    download  download missing files that their publishers serve
    source    "random": untrained networks, for tests of programs

    `absent` holds a line for each metric that cannot be measured here. It is for the log; results
    lack these metrics. `descriptions` names the weights of the others.
    Raises ValueError on an unknown metric.
    """

    def __init__(
        self,
        names: Sequence[str] | str,
        folders: Callable[[str], Sequence[Path]] = lambda part: (),
        detect: Detect | None = None,
        pair: tuple[str, str] = ("pred_target_imgs", "target_imgs"),
        download: bool = False,
        source: str = "auto",
        device: torch.device | str = "cpu",
    ):
        names = [ALIASES.get(name, name) for name in words(names)]
        unknown = [name for name in names if name not in METRICS]
        if unknown:
            raise ValueError(
                f"bilayer: a metric must be of {', '.join(METRICS)}, got {unknown[0]!r}"
            )
        self.pair, self.detect, self.device = pair, detect, torch.device(device)
        self.names: list[str] = []
        self.absent: list[str] = []
        self.descriptions: list[str] = []
        self.lpips: LPIPS | None = None
        self.recognition: IRSE50 | None = None
        self.dlib: DlibFaces | None = None
        self.left_out = 0  # count of images without a detected face
        for name in dict.fromkeys(names):
            try:
                if source != "random" and not download:
                    for official in WEIGHTS.get(name, ()):
                        look_for_weights(name, official, folders(name))
                if name == "lpips":
                    net = load_lpips(source=source, download=download, folders=folders(name))
                    self.lpips = net.to(self.device)
                    self.descriptions.append(f"{name}: {net.description}")
                elif name == "csim":
                    recognition = load_recognition(source=source, folders=folders(name))
                    self.recognition = recognition.to(self.device)
                    self.descriptions.append(f"{name}: {recognition.description}")
                elif name == "dlib_distance":
                    self.dlib = DlibFaces()
                    self.descriptions.append(f"{name}: dlib's face recognition, no csim")
                elif name == "pose_matching" and detect is None:
                    raise UserError("no detector of 68 face points")
            except UserError as error:
                self.absent.append(f"{name} is left out: {error}")
                continue
            self.names.append(name)

    @torch.no_grad()
    def __call__(self, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The means over all images, scalars: G_PSNR, G_SSIM, G_SSIM2, G_LPIPS, G_CSIM, G_PME and
        G_DLIB_DISTANCE, which is not among the published ones.

        G_SSIM has the constants of a range of 1, as published, and G_SSIM2 those of the images'
        range of 2. G_PME is absent if no image has a detected face.
        """
        prediction, truth = (data[name].flatten(0, 1).float() for name in self.pair)
        out: dict[str, Tensor] = {}
        for name in self.names:
            if name == "PSNR":
                out["G_PSNR"] = signed_psnr(prediction, truth)
            elif name == "ssim":
                out["G_SSIM"] = signed_ssim(prediction, truth).mean()
                out["G_SSIM2"] = signed_ssim(prediction, truth, 2.0).mean()
            elif name == "lpips" and self.lpips is not None:
                out["G_LPIPS"] = self.lpips(prediction, truth).mean()
            elif name == "csim" and self.recognition is not None:
                points = _points(data["target_poses"], prediction)
                out["G_CSIM"] = csim(self.recognition, prediction, truth, points).mean()
            elif name == "dlib_distance" and self.dlib is not None:
                points = _points(data["target_poses"], prediction)
                out["G_DLIB_DISTANCE"] = self.dlib.distance(prediction, truth, points).mean()
            elif name == "pose_matching" and self.detect is not None:
                errors, missed = pose_error(self.detect, prediction, truth)
                self.left_out += missed
                if len(errors):
                    out["G_PME"] = errors.mean()
        return out


def _points(poses: Tensor, images: Tensor) -> Tensor:
    """The points (N, 68, 2), pixels of the images, of poses (B, T, 136) in [-1, 1]."""
    size = images.new_tensor([images.shape[-1], images.shape[-2]])
    points = poses.flatten(0, 1).unflatten(1, (-1, 2))[:, :68]
    return (points.float() + 1) / 2 * size
