"""Installs guise; builds csrc/ ahead of time where torch and a compiler are there.

pip install --no-build-isolation -e .     with this environment's torch: compiles now
pip install -e .                          without: the operators compile on their first use
"""

import os
import re
import runpy
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
BUILD = runpy.run_path(str(ROOT / "nets" / "ops" / "_build.py"))
CHOICE = os.environ.get("GUISE_OPS", "auto")
# MediaPipe in the release whose networks lie in its package, which there is up to Python 3.12. It
# wants NumPy before 2, on which everything else runs as well.
EXTRACT = ["mediapipe==0.10.21; python_version < '3.13'", "numpy<2; python_version < '3.13'"]


def extension():
    """(ext_modules, cmdclass) of the operators; both empty where they cannot be compiled now."""
    if CHOICE == "reference":
        return [], {}
    try:
        from torch.utils.cpp_extension import CUDA_HOME, BuildExtension, CppExtension, CUDAExtension
    except ImportError as error:
        if CHOICE == "compiled":
            raise
        print(f"guise: no torch to build against ({error}); compiling is left to the first use")
        return [], {}

    cuda = CUDA_HOME is not None
    generated = ROOT / "build" / "facts"

    class Build(BuildExtension):
        def run(self):
            # What stays on this machine may use all that its processor has; a wheel may travel.
            native = bool(self.inplace or self.editable_mode)
            try:
                if cuda:
                    BUILD["choose_archs"]()
                BUILD["write_facts"](generated, native, cuda)
                self.extensions[0].extra_compile_args = BUILD["flags"](native, cuda)
                super().run()
            except Exception as error:
                if CHOICE == "compiled":
                    raise
                print(
                    f"{error}\nguise: the operators were not compiled (above); installing without"
                )
                self.extensions.clear()

    kind = CUDAExtension if cuda else CppExtension
    names = [os.path.relpath(f, ROOT) for f in BUILD["sources"](cuda)]
    one = kind("nets._C", names, include_dirs=[str(generated), str(ROOT / "csrc")])
    return [one], {"build_ext": Build}


class BuildPython(build_py):
    """Takes csrc/ along into a wheel, so that it can still be compiled where it lands."""

    def run(self):
        super().run()
        if not self.editable_mode:
            shutil.copytree(ROOT / "csrc", Path(self.build_lib) / "nets/csrc", dirs_exist_ok=True)


version = re.search(r'__version__ = "(.+)"', (ROOT / "nets" / "__init__.py").read_text())[1]
ext_modules, cmdclass = extension()
setup(
    name="guise",
    version=version,
    description="One image's appearance in another image's pose: four families of networks",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["nets*", "guise*"]),
    ext_modules=ext_modules,
    cmdclass={"build_py": BuildPython, **cmdclass},
    install_requires=[
        "torch>=2.10",
        "numpy",
        "pillow",
        "safetensors",
        "tensorboard",
        "jsonargparse",
        "pyyaml",
        "tqdm",
        "av",
        "ninja",
        "pybind11",
        "setuptools",
    ],
    extras_require={
        "extract": EXTRACT,
        "face-alignment": [*EXTRACT, "face-alignment==1.5.0"],  # joints and masks are MediaPipe's
        "eval": ["scipy"],  # .mat files of BBC Pose
        "plot": ["matplotlib"],  # scatter plots of evaluate.py
        "test": [
            "scipy",
            "matplotlib",
            "pytest==9.2.0",
            "pytest-timeout==2.4.0",
            "pytest-xdist==3.8.0",
            "h5py==3.16.0",
            "hypothesis==6.170.15",
            # The older is the last one for NumPy 1, which `extract` asks for.
            "opencv-python-headless>=4.11.0.86,<=5.0.0.93",
            "nbclient==0.11.0",
            "nbformat==5.11.1",
            "ipykernel==7.4.0",
            "ruff==0.17.5",
        ],
        "benchmark": ["kornia", "opencv-python-headless", "matplotlib", "psutil"],
    },
)
