"""guise: one image's appearance in the pose of another.

    import guise
    model = guise.load()                       # the newest run under runs/
    image = model.transfer("me.jpg", "dancer.jpg")
    guise.write_image("out.png", image)

`nets.api` documents the models that `load` returns; the training code is in `nets`.
"""

from nets import __version__
from nets.api import (
    LiveAvatar,
    LoadedBilayer,
    LoadedDCIGN,
    LoadedLandmarks,
    LoadedVUNet,
    load,
)
from nets.data.io.images import read_image, write_image
from nets.errors import BadSample, UserError

__all__ = [
    "BadSample",
    "LiveAvatar",
    "LoadedBilayer",
    "LoadedDCIGN",
    "LoadedLandmarks",
    "LoadedVUNet",
    "UserError",
    "__version__",
    "load",
    "read_image",
    "write_image",
]
