"""Draws the images of README.md and docs/ again, from the weights that come with guise.

python benchmarks/figures.py                 all of them
python benchmarks/figures.py demo.png        one of them, or several

Each figure is the output of one command, with the default seeds. A PNG of more than 300 kB gets a
palette of 256 colours, and is made smaller until it fits. A GIF of more than 500 kB gets 64
colours. docs/app.png, docs/web.png and docs/astronaut.png need a browser or the detectors;
CONTRIBUTING.md has their commands.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageSequence

ROOT = Path(__file__).resolve().parents[1]
LIMITS = {".png": 300_000, ".gif": 500_000}  # bytes in docs/; tests/test_readme.py checks them
OUT = "OUT"  # stands for the file to write


def inferred(system: str) -> tuple[str, ...]:
    """The command that draws the demo images of a system's own weights."""
    return ("infer.py", "--checkpoint", f"nets/trained/{system}.safetensors", "-o", OUT)


SCATTER = ("evaluate.py", "--checkpoint", "nets/trained/dcign.safetensors", "--figure", OUT)
COMMANDS = {
    "demo.png": inferred("vunet"),
    "landmarks.png": inferred("landmarks"),
    "bilayer.gif": inferred("bilayer"),
    "bilayer.png": inferred("bilayer"),
    "dcign_sweep.gif": inferred("dcign"),
    "dcign_scatter.png": SCATTER,
    "people.png": ("-m", "nets.worlds.people.world", "--out", OUT),
    "faces.png": ("-m", "nets.worlds.heads.export", "--out", OUT),
}


def shrink(source: Path, target: Path) -> None:
    """Writes `source` to `target` in at most LIMITS bytes; an error if a GIF stays larger."""
    limit = LIMITS[source.suffix]
    if source.suffix == ".png" and source.stat().st_size > limit:
        image = Image.open(source).convert("RGB")
        size = image.size
        for percent in range(100, 20, -10):
            small = image.resize([side * percent // 100 for side in size], Image.Resampling.BOX)
            small.quantize(256, kmeans=4, dither=Image.Dither.FLOYDSTEINBERG).save(
                source, optimize=True
            )
            if source.stat().st_size <= limit:
                break
    if source.suffix == ".gif" and source.stat().st_size > limit:
        few_colours(source)
    if source.stat().st_size > limit:
        sys.exit(f"figures.py: {target.name} takes more than {limit // 1000} kB; not written")
    target.write_bytes(source.read_bytes())


def few_colours(path: Path, colours: int = 64) -> None:
    """Gives all frames of a GIF one palette, which four of them determine."""
    with Image.open(path) as image:
        duration = image.info["duration"]
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(image)]
    some = frames[:: -(-len(frames) // 4)]
    together = Image.new("RGB", (frames[0].width * len(some), frames[0].height))
    for place, frame in enumerate(some):
        together.paste(frame, (place * frame.width, 0))
    palette = together.quantize(colours, kmeans=2)
    first, *rest = (f.quantize(palette=palette, dither=Image.Dither.NONE) for f in frames)
    first.save(path, save_all=True, append_images=rest, duration=duration, loop=0, optimize=True)


def draw(name: str, folder: Path) -> None:
    """Runs the command of a figure, and writes its output to `folder`."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / name
        command = [str(out) if word == OUT else word for word in COMMANDS[name]]
        if command[0] == "evaluate.py":
            command += ["--out", str(Path(temporary) / "scores.json")]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True)
        shrink(out, folder / name)
    print(f"written: {folder / name}, {(folder / name).stat().st_size // 1000} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help=f"figures; default: all of {', '.join(COMMANDS)}")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs", help="where to write")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in COMMANDS]
    if unknown:
        parser.error(f"no figure is named {unknown[0]}; figures: {', '.join(COMMANDS)}")
    for name in args.names or COMMANDS:
        draw(name, args.folder)


if __name__ == "__main__":
    main()
