"""The files of networks that MediaPipe from 1.0 needs, since its package holds none.

    python -m nets.data.mediapipe_tasks                  says which files are there
    python -m nets.data.mediapipe_tasks --download       downloads the missing ones, about 14 MB

They lie in torch's hub cache, in `checkpoints`, and are checked by their SHA-256.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import torch

from nets.errors import UserError

HOST = "https://storage.googleapis.com/mediapipe-models"
# Part -> (file, address, SHA-256). The address names a version, so the file is fixed.
FILES = {
    "pose": (
        "pose_landmarker_full.task",
        f"{HOST}/pose_landmarker/pose_landmarker_full/float16/1/pose_landmarker_full.task",
        "4eaa5eb7a98365221087693fcc286334cf0858e2eb6e15b506aa4a7ecdcec4ad",
    ),
    "faces": (
        "face_landmarker.task",
        f"{HOST}/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
        "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
    ),
    "masks": (
        "selfie_segmenter.tflite",
        f"{HOST}/image_segmenter/selfie_segmenter/float16/1/selfie_segmenter.tflite",
        "191ac9529ae506ee0beefa6b2c945a172dab9d07d1e802a290a4e4038226658b",
    ),
}
COMMAND = "python -m nets.data.mediapipe_tasks --download"


def file_of(part: str, download: bool = False) -> Path:
    """The checked file of the networks for "pose", "faces" or "masks".

    download  download it if it is missing
    Raises UserError with the remedy if it is missing or damaged.
    """
    name, address, digest = FILES[part]
    path = folder() / name
    if not path.is_file():
        if not download:
            raise UserError(
                f"mediapipe from 1.0 needs {name} for {part} in {folder()}: `{COMMAND}` downloads "
                f"it, or copy it there from {address}"
            )
        print(f"downloading {address} to {folder()}", flush=True)
        try:
            folder().mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(address, str(path), hash_prefix=digest)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"download of {address} failed ({error}); fetch it by hand and put it into "
                f"{folder()}"
            ) from error
    check(part, path)
    return path


def folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def are_there() -> bool:
    """True if all files are in the cache."""
    return all((folder() / name).is_file() for name, _, _ in FILES.values())


def check(part: str, path: Path) -> None:
    """Raises UserError if a file is not the one at the address of its networks."""
    _, address, digest = FILES[part]
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != digest:
        raise UserError(
            f"{path}: is damaged, or not the file at {address} (sha256 {found}, must be {digest}); "
            f"delete it, then `{COMMAND}`"
        )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--download", action="store_true", help="download the missing files")
    args = parser.parse_args(argv)
    missing = 0
    for part in FILES:
        try:
            path = file_of(part, args.download)
            print(f"{part}: {path}, {path.stat().st_size} bytes, sha256 {FILES[part][2]}")
        except UserError as error:
            missing += 1
            print(f"{part}: {error}", file=sys.stderr)
    if missing:
        raise SystemExit(2)


if __name__ == "__main__":
    main()
