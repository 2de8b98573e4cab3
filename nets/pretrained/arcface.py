"""Face recognition with IR-SE50, and the identity similarity of two faces.

Deng, Guo, Xue, Zafeiriou, "ArcFace", CVPR 2019: a residual network of 50 layers with squeeze and
excitation. It maps a face of 112 x 112 pixels to 512 numbers. 43,797,696 parameters; the 397 keys
are those of the published InsightFace weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nets.errors import UserError
from nets.pretrained.weights import find, read_state
from nets.tensor_files import require

SIDE = 112
# Centres of the eyes, tip of the nose and corners of the mouth in the aligned face, pixels (x, y).
TEMPLATE = (
    (35.343697, 51.6963),
    (76.453766, 51.5014),
    (56.029396, 71.7366),
    (39.14085, 92.3655),
    (73.18488, 92.2041),
)
OFFICIAL = {"insight_face.pth": ("", "", "")}  # published without digest and address


class Excitation(nn.Module):
    """Squeeze and excitation: x times a gate per channel, computed from the channels' means."""

    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class Bottleneck(nn.Module):
    """A residual block with squeeze and excitation."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        if inputs == outputs:
            self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            Excitation(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.res_layer(x) + self.shortcut_layer(x)


class IRSE50(nn.Module):
    """The face recognition network, frozen and always in evaluation mode."""

    def __init__(self, description: str = ""):
        super().__init__()
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)
        )
        body: list[nn.Module] = []
        inputs = 64
        for width, count in ((64, 3), (128, 4), (256, 14), (512, 3)):
            for k in range(count):
                body.append(Bottleneck(inputs, width, 1 if k else 2))
                inputs = width
        self.body = nn.Sequential(*body)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512),
            nn.Dropout(0.6),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, 512),
            nn.BatchNorm1d(512),
        )
        self.description = description
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> IRSE50:
        """Stays in evaluation mode."""
        return super().train(False)

    def forward(self, faces: Tensor) -> Tensor:
        """Embeddings (N, 512) of length 1, of aligned faces (N, 3, 112, 112) in [-1, 1]."""
        if tuple(faces.shape[1:]) != (3, SIDE, SIDE):
            raise ValueError(
                f"IRSE50: faces must be [N, 3, {SIDE}, {SIDE}], got {list(faces.shape)}"
            )
        return F.normalize(self.output_layer(self.body(self.input_layer(faces))))


def load_recognition(
    path: str | Path | None = None,
    source: str = "auto",
    folders: Sequence[Path] = (),
    option: str = "--pretrained_weights_dir",
) -> IRSE50:
    """IR-SE50 on the CPU in float32.

    path     an insight_face.pth; None: looks in `folders` and torch's hub cache
    source   "auto", or "random": seeded, untrained weights for tests of programs
    folders  folders to look in
    option   the option that names a folder, for messages
    Raises UserError, one line with the remedy, if the file is missing or wrong.
    """
    if source == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(50)
            return IRSE50("IR-SE50 of random weights (seeded, untrained)")
    if path is None:
        path = find(OFFICIAL, "IR-SE50 weights", option, folders=folders)
    file = Path(path).expanduser()
    if not file.is_file():
        raise UserError(f"{file}: no such IR-SE50 weight file")
    with torch.device("meta"):
        net = IRSE50(f"IR-SE50, {file}")
    state, expected = read_state(file), net.state_dict()
    for name in expected:
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, torch.zeros((), dtype=torch.int64))
    require(state, expected, file, "an IR-SE50 state dict")
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    net.load_state_dict(state, assign=True)
    return net.eval().requires_grad_(False)


def five_points(points: Tensor) -> Tensor:
    """Eyes, nose and mouth corners, (N, 5, 2), from 68 points (N, 68, 2)."""
    eyes = [points[:, 36:42].mean(1), points[:, 42:48].mean(1)]
    return torch.stack([*eyes, points[:, 30], points[:, 48], points[:, 54]], dim=1)


def similarity_transform(source: Tensor, target: Tensor) -> Tensor:
    """Rotation, scale and translation from `source` to `target` by least squares, (N, 2, 3).

    source  (K, 2) points
    target  (N, K, 2) points
    Without reflection. Umeyama 1991; in the plane it is a product of complex numbers.
    """
    centre, middle = source.mean(0), target.mean(1)
    x, y = source - centre, target - middle[:, None]
    length = x.square().sum()
    a = (x * y).sum((1, 2)) / length
    b = (x[:, 0] * y[..., 1] - x[:, 1] * y[..., 0]).sum(1) / length
    matrix = torch.stack([torch.stack([a, -b], 1), torch.stack([b, a], 1)], 1)
    return torch.cat([matrix, (middle - matrix @ centre)[..., None]], dim=2)


def aligned(image: Tensor, points: Tensor) -> Tensor:
    """Upright faces of one size, (N, 3, 112, 112); zeros beyond the image.

    image   (N, 3, H, W) in [-1, 1]
    points  (N, 68, 2) pixels (x, y) from the image's corner, so that x / W is in [0, 1]
    """
    h, w = image.shape[-2:]
    template = torch.tensor(TEMPLATE, dtype=points.dtype, device=points.device)
    matrix = similarity_transform(template, five_points(points))
    size = torch.tensor([w, h], dtype=points.dtype, device=points.device)[:, None]
    turn = matrix[..., :2] * SIDE / size
    shift = 2 * matrix[..., 2:] / size + turn.sum(2, keepdim=True) - 1
    theta = torch.cat([turn, shift], dim=2)
    grid = F.affine_grid(theta, [len(image), 3, SIDE, SIDE], align_corners=False)
    return F.grid_sample(image, grid.to(image.dtype), align_corners=False)


@torch.no_grad()
def embeddings(net: IRSE50, images: Tensor, points: Tensor) -> Tensor:
    """Embeddings (N, 512) of length 1 of the faces in images.

    images  (N, 3, H, W) in [-1, 1]
    points  (N, 68, 2) that align the faces; see `aligned`
    """
    with torch.autocast(images.device.type, enabled=False):
        return net(aligned(images.float(), points.float()))


def csim(net: IRSE50, prediction: Tensor, truth: Tensor, points: Tensor) -> Tensor:
    """Cosine similarity of the faces' embeddings, (N,) in [-1, 1]; larger is more similar.

    prediction, truth  (N, 3, H, W) in [-1, 1]
    points             (N, 68, 2) of the true image, which align both faces; see `aligned`
    """
    return (embeddings(net, prediction, points) * embeddings(net, truth, points)).sum(1)
