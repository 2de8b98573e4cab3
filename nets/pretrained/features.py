"""The network of a perceptual loss, by the value of --perceptual."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from nets.pretrained.mobilenet import MobileNetV2, load_mobilenet
from nets.pretrained.vgg import VGG19, load_vgg

Perceptual = Literal["pretrained", "random", "mobilenet"]
HELP = (
    "weights of the perceptual loss; random: seeded random ones, which need no file; mobilenet: "
    "MobileNetV2 instead of VGG19"
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

    kind         "mobilenet", or VGG19 with "pretrained" or "random" weights
    vgg_options  of `load_vgg` alone; MobileNetV2 ignores them
    The others   as for `load_vgg` and `load_mobilenet`
    Raises UserError, one line with the remedy, if weights are missing or wrong.
    """
    if kind == "mobilenet":
        return load_mobilenet(path, family, download, option, folders)
    source = "random" if kind == "random" else "auto"
    return load_vgg(path, family, source, download, option=option, folders=folders, **vgg_options)
