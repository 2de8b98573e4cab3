"""The network of a perceptual loss, by the value of --perceptual."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from nets.errors import UserError
from nets.pretrained.mobilenet import MobileNetV2, load_mobilenet
from nets.pretrained.vgg import VGG19, load_vgg

Perceptual = Literal["pretrained", "random", "mobilenet"]
HELP = (
    "network of the perceptual loss: VGG19 with its weights, or seeded random ones, which need no "
    "file; mobilenet: MobileNetV2, whose weights come with guise"
)


def load_features(
    kind: Perceptual,
    path: str | Path | None = None,
    family: str = "torchvision",
    download: bool = False,
    option: str = "--vgg_weights",
    folders: Sequence[Path] = (),
    **vgg_options: Any,
) -> VGG19 | MobileNetV2:
    """A frozen network with the interface of VGG19, on the CPU in float32.

    kind        "mobilenet", or VGG19 with "pretrained" or "random" weights
    The others  as for `load_vgg`; "mobilenet" only has the `family` of these
    Raises UserError, one line with the remedy, if weights are missing or wrong.
    """
    if kind == "mobilenet":
        if path is not None:
            raise UserError(f"{option} {path}: mobilenet has its weights with it")
        return load_mobilenet(family)
    source = "random" if kind == "random" else "auto"
    return load_vgg(path, family, source, download, option=option, folders=folders, **vgg_options)
