"""What the CUDA kernels compile to, and the least time that a model allows on an A100 and an H100.

python benchmarks/sass.py                    all kernels: registers, spills, occupancy, instructions
python benchmarks/sass.py tps_warp           those of csrc/*/tps_warp.cu
python benchmarks/sass.py --model            the forward warps at the sizes below, against memory
python benchmarks/sass.py --model --write    and into benchmarks/results/sass.json

Needs nvcc, cuobjdump and nvdisasm, but no GPU (pip: nvidia-cuda-cuobjdump, nvidia-cuda-nvdisasm).
Spills are in bytes.
Instructions, and the bytes of accesses to global memory, are counted as they stand in the code. The
model runs the loops over nodes and channels as often as the size says, and everything else once for
each pack of pixels. It counts each instruction as one issue slot: a lower bound, as is the time of
the memory.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from nets.ops import _build

RESULTS = Path(__file__).parent / "results/sass.json"
TOOLS = ("nvcc", "cuobjdump", "nvdisasm", "c++filt")
TYPES = {"float": ("float32", 4), "Half": ("float16", 2), "BFloat16": ("bfloat16", 2)}
THREADS, REGISTERS, WARPS = 256, 65536, 64  # of a block (skeletons: 128); of an SM


class Gpu(NamedTuple):
    arch: str
    sms: int
    clock: float  # GHz, boost
    bandwidth: float  # GB/s


GPUS = {"A100": Gpu("sm_80", 108, 1.41, 2039), "H100": Gpu("sm_90", 132, 1.83, 3350)}


class Kernel(NamedTuple):
    name: str
    registers: int
    spills: int  # bytes
    shared: int  # bytes
    code: list[tuple[int, str]]  # (address, instruction), without padding


class Size(NamedTuple):
    """A warp's work: output pixels, and how often its loops run."""

    text: str
    pixels: int
    channels: int
    nodes: int
    numbers: int  # read or written for each pixel, each once


SIZES = {
    "tps_warp": Size("16x3x128x128, 25 points", 16 * 128 * 128, 3, 25, 6),
    "uv_sample": Size("8x3x256x256, layer and mask", 8 * 256 * 256, 3, 0, 2 + 3 + 1 + 3 + 3),
    "perspective_crops": Size("16x8 crops of 3x64x64", 16 * 8 * 64 * 64, 3, 0, 3 + 1.5),
}
NAMES = {"tps_warp": "warp_kernel", "uv_sample": "uv_kernel", "perspective_crops": "crops_kernel"}


def kernels(file: Path, arch: str, folder: Path) -> list[Kernel]:
    """The compiled kernels of a .cu file."""
    cubin = folder / "kernels.cubin"
    flags = [*_build.flags(native=False, cuda=True)["nvcc"], "-std=c++20", f"-arch={arch}"]
    include = ["-isystem", f"{Path(torch.__file__).parent}/include", "-I", str(_build.CSRC)]
    command = ["nvcc", *flags, *include, "-Xptxas", "-v", "-cubin", "-o", cubin, file]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    dump = subprocess.run(
        ["cuobjdump", "-sass", cubin], check=True, capture_output=True, text=True
    ).stdout
    facts = {}
    for part in said.split("Compiling entry function '")[1:]:
        shared = re.search(r"(\d+) bytes smem", part)
        spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
        facts[part.split("'")[0]] = (
            int(re.search(r"Used (\d+) registers", part)[1]),
            int(spills[1]) + int(spills[2]),
            int(shared[1]) if shared else 0,
        )
    found = []
    for part in dump.split("Function : ")[1:]:
        symbol = part.split()[0]
        lines = re.findall(r"/\*([0-9a-f]{4,})\*/ +([^;]+?) *;", part)
        code = [(int(address, 16), text) for address, text in lines if text != "NOP"]
        found.append(Kernel(readable(symbol), *facts[symbol], code))
    return sorted(found)


def readable(symbol: str) -> str:
    """A kernel's name with its pack size and types."""
    name = subprocess.check_output(["c++filt", symbol], text=True)
    name = name.replace("(anonymous namespace)::", "").replace("void ", "")
    name = re.sub(r"\((?:\w|::)+\)(\d+)", r"\1", name)  # an enumerator, with its type
    return re.sub(r"\b(guise|c10|torch|headeronly)::", "", name).split("(")[0].strip()


def loops(kernel: Kernel) -> list[list[str]]:
    """The instructions of each innermost loop."""
    spans = []
    for address, text in kernel.code:
        match = re.search(r"\bBRA(?:\.\w+)* .*?0x([0-9a-f]+)", text)
        if match and int(match[1], 16) < address:
            spans.append((int(match[1], 16), address))
    inner = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    return [[t for a, t in kernel.code if low <= a <= high] for low, high in inner]


def marked(loop: list[str], marker: str) -> int:
    return sum(bool(re.search(rf"\b{marker}", text)) for text in loop)


def issued(kernel: Kernel, size: Size, pack: int) -> float:
    """Instructions for each pack of pixels.

    A loop may be unrolled. Each channel stores once, and each node converts one exponent a pixel.
    """
    inner = loops(kernel)
    total = len(kernel.code) - sum(map(len, inner))
    for marker, each, times in (("STG", 1, size.channels), ("I2F", pack, size.nodes)):
        counted = [(marked(loop, marker) / each, len(loop)) for loop in inner]
        units, length = max(counted, default=(0, 0))
        total += length / units * times if units else 0
    return total


def accessed(kernel: Kernel) -> int:
    """Bytes of all loads, stores and atomics of global memory that stand in the code."""
    total = 0
    for _, text in kernel.code:
        if re.search(r"\b(LDG|STG|RED|ATOMG)\b", text):
            width = re.search(r"\.[US]?(8|16|64|128)\b", text)
            total += int(width[1]) // 8 if width else 4
    return total


def occupancy(kernel: Kernel) -> int:
    """Warps that fit the registers of an SM, of 64."""
    each = (kernel.registers * 32 + 255) // 256 * 256
    return min(WARPS, REGISTERS // (each * THREADS // 32) * THREADS // 32)


def table(file: Path, folder: Path) -> None:
    for gpu in GPUS.values():
        print(f"\n{file.name}, {gpu.arch}")
        print("registers  spills  shared  warps/SM  instructions  bytes  kernel")
        for k in kernels(file, gpu.arch, folder):
            print(
                f"{k.registers:9}  {k.spills:6}  {k.shared:6}  {occupancy(k):8}  "
                f"{len(k.code):12}  {accessed(k):5}  {k.name}"
            )


def limits(name: str, label: str, folder: Path) -> list[dict]:
    """A row for each type of a forward warp: its wide kernel, for images with dense rows."""
    size, gpu, rows = SIZES[name], GPUS[label], []
    (file,) = _build.CSRC.glob(f"*/{name}.cu")
    for k in kernels(file, gpu.arch, folder):
        match = re.match(rf"{NAMES[name]}<(\d+), (float|Half|BFloat16)\b(?!.*false)", k.name)
        if not match or match[1] == "1":
            continue
        pack, (dtype, size_of) = int(match[1]), TYPES[match[2]]
        each = issued(k, size, pack) / pack
        slots = gpu.sms * 4 * gpu.clock * 1e3  # instructions of a warp in a microsecond
        rows.append({
            "name": name, "size": size.text, "gpu": label, "dtype": dtype, "pixels": pack,
            "registers": k.registers, "spills": k.spills, "warps": occupancy(k),
            "instructions": round(each, 1),
            "issue_us": round(size.pixels / 32 * each / slots, 2),
            "memory_us": round(size.pixels * size.numbers * size_of / gpu.bandwidth / 1e3, 2),
        })  # fmt: skip
    return sorted(rows, key=lambda row: row["dtype"], reverse=True)


def model(folder: Path) -> list[dict]:
    print("instructions for each pixel, the time to issue them, and the time of the memory")
    rows = []
    for name, size in SIZES.items():
        print(f"\n{name}, {size.text}")
        print(f"{'':17}pixels  registers  warps/SM  per pixel  issue us  memory us")
        for label in GPUS:
            for row in limits(name, label, folder):
                rows.append(row)
                print(
                    f"{label}  {row['dtype']:9}  {row['pixels']:6}  {row['registers']:9}  "
                    f"{row['warps']:8}  {row['instructions']:9.0f}  {row['issue_us']:8.1f}  "
                    f"{row['memory_us']:9.1f}"
                )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="files under csrc without .cu; default: all")
    parser.add_argument("--model", action="store_true", help="the warps against the memory's limit")
    parser.add_argument("--write", action="store_true", help="write the model's figures as JSON")
    args = parser.parse_args()
    if args.write and not args.model:
        parser.error("--write needs --model")
    for tool in TOOLS:
        if shutil.which(tool) is None:
            parser.error(f"{tool} is not on the PATH")
    with tempfile.TemporaryDirectory() as folder:
        if args.model:
            rows = model(Path(folder))
            if args.write:
                said = subprocess.check_output(["nvcc", "--version"], text=True)
                version = re.search(r"release ([\d.]+), V([\d.]+)", said)[2]
                report = {"nvcc": version, "torch": torch.__version__, "rows": rows}
                RESULTS.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
            return
        for file in sorted(_build.CSRC.glob("*/*.cu")):
            if not args.names or file.stem in args.names:
                table(file, Path(folder))


if __name__ == "__main__":
    main()
