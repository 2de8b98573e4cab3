"""Finds, verifies and downloads weight files that others publish."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nets.errors import UserError
from nets.tensor_files import read_plain

Files = Mapping[str, tuple[str, str, str]]  # name -> kind of digest, (start of) digest, address


def find(
    official: Files,
    what: str,
    option: str,
    download: bool = False,
    size: str = "",
    folders: Sequence[Path] = (),
    instead: str = "",
) -> Path:
    """The path of the first official file in `folders` or torch's hub cache.

    what      e.g. "VGG19 weights", for messages
    option    the option that takes the file's path, for messages
    download  download the first official file into the cache if none is there
    size      of that file, e.g. "about 550 MB, ", for messages
    instead   another remedy, for messages
    Raises UserError, one line with the remedy, if no file is found.
    """
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    for folder in (*folders, cache):
        for name in official:
            if (folder / name).is_file():
                return folder / name
    name, (_, digest, url) = next(iter(official.items()))
    if not download or not url:
        places = " or ".join(str(folder) for folder in (*folders, cache))
        ways = [f"give the file with {option}"]
        ways += [f"ask for the download ({size}{url})"] if url else []
        ways += [instead] if instead else []
        text = ways[0] if len(ways) == 1 else f"{', '.join(ways[:-1])}, or {ways[-1]}"
        raise UserError(f"no {what}: {' or '.join(official)} is not in {places}; {text}")
    print(f"downloading {url} to {cache}", flush=True)
    try:
        cache.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(cache / name), hash_prefix=digest or None)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"download of {url} failed ({error}); fetch one of {', '.join(official)} by "
            f"hand and give it with {option}"
        ) from error
    return cache / name


def verify(file: Path, official: Files) -> str:
    """A note, " (sha256 verified)"; empty if no digest is published for the file's name.

    Raises UserError if the digest differs.
    """
    kind, expected, _ = official.get(file.name, ("", "", ""))
    if not expected:
        return ""
    summer = hashlib.new(kind)
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            summer.update(chunk)
    digest = summer.hexdigest()
    if not digest.startswith(expected):
        raise UserError(
            f"{file} is damaged or not the official file: its {kind} is {digest}, "
            f"must {'start with' if len(expected) < len(digest) else 'be'} {expected}"
        )
    return f" ({kind} verified)"


def read_state(file: Path, prefix: str = "") -> dict[str, Tensor]:
    """The entries of a file's state dict whose names start with `prefix`."""
    state = read_plain(file)
    if not isinstance(state, dict):
        raise UserError(f"{file}: must hold a state dict, holds a {type(state).__name__}")
    return {k: v for k, v in state.items() if str(k).startswith(prefix)}


def read_keras(file: Path, instead: str) -> dict[str, Tensor]:
    """The arrays of a Keras HDF5 file by their paths, with kernels in torch's layout.

    instead  a file of the same weights that needs no h5py, for messages
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            f"{file}: reading Keras weights needs h5py (pip install h5py); "
            f"{instead} holds the same weights and does not"
        ) from error
    state = {}

    def collect(name: str, node: object) -> None:
        if isinstance(node, h5py.Dataset):
            value = torch.from_numpy(node[()])
            # Keras stores kernels as (height, width, input, output).
            state[name] = value.permute(3, 2, 0, 1).contiguous() if value.ndim == 4 else value

    try:
        with h5py.File(file, "r") as root:
            root.visititems(collect)
    except Exception as error:  # damage is reported with several exception types
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file}: cannot be read as HDF5 ({reason})") from error
    return state
