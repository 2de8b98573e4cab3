"""python -m nets.ops: prints the library in use, how it was built, and each operator's kernel."""

import torch

from nets.ops import NAMES, _build, kernel


def main() -> None:
    library = _build.library()
    print(f"torch          {torch.__version__}, CUDA {torch.version.cuda or 'none'}")
    if library is None:
        print("library        none: the PyTorch references serve")
    else:
        info = library.build_info()
        print(f"library        {library.file}")
        for key in ("compiler", "flags", "cuda_archs", "torch", "torch_target"):
            print(f"{'  ' + key:<15}{info[key] or 'none'}")
    width = max(map(len, NAMES))
    print(f"{'operator':<{width}}  cpu        cuda")
    for name in NAMES:
        print(f"{name:<{width}}  {kernel(name, 'cpu'):<9}  {kernel(name, 'cuda')}")


if __name__ == "__main__":
    main()
