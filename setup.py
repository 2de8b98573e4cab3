"""Installs guise; compiles csrc/ ahead of time if torch and a compiler are present.

pip install --no-build-isolation -e .     uses this environment's torch and compiles now
pip install -e .                          compiles the operators at their first use
pip install .                             the same, with the scripts as commands (guise-infer, ...)
"""

import os
import re
import runpy
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
BUILD, NVCC = (runpy.run_path(str(ROOT / "nets/ops" / name)) for name in ("_build.py", "_nvcc.py"))
CHOICE = os.environ.get("GUISE_OPS", "auto")
# The distribution's name: `guise` on PyPI belongs to somebody else's project.
NAME = "guise-nets"
SCRIPTS = (
    "train_vunet",
    "train_landmarks",
    "train_bilayer",
    "train_dcign",
    "infer",
    "extract",
    "evaluate",
    "export",
    "app",
    "distil",
)
TRIED = (11, 13)  # minor versions of Python
# MediaPipe in the release whose networks lie in its package, which there is up to Python 3.12. It
# wants NumPy before 2, on which everything else runs as well. From Python 3.13 the newer interface,
# whose networks are files: python -m nets.data.mediapipe_tasks --download
EXTRACT = [
    "mediapipe==0.10.21; python_version < '3.13'",
    "numpy<2; python_version < '3.13'",
    "mediapipe>=1.2; python_version >= '3.13'",
]
DLIB = ["dlib-bin", "face_recognition_models"]
APP = ["gradio==6.31.0"]  # pinned: its page is tested in a browser
EXPORT = ["onnx", "onnxscript", "onnxruntime"]
HUB = ["huggingface_hub>=2"]
BROWSER = ["selenium==4.51.0"]  # drives Chromium in tests


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
                    NVCC["choose_archs"](BUILD["say"], here=False)
                BUILD["write_facts"](generated, native, cuda)
                folder = NVCC["runtime_folder"](generated) if cuda else None
                self.extensions[0].library_dirs += [str(folder)] if folder else []
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
    """Adds csrc/ and configs/ to a wheel: operators still compile there, and configs are found."""

    def run(self):
        if self.editable_mode:
            super().run()
            return
        shutil.rmtree(self.build_lib, ignore_errors=True)  # modules that have moved since
        super().run()
        for folder in ("csrc", "configs"):
            shutil.copytree(ROOT / folder, Path(self.build_lib) / "nets" / folder)


version = re.search(r'__version__ = "(.+)"', (ROOT / "nets" / "__init__.py").read_text())[1]
ext_modules, cmdclass = extension()
setup(
    name=NAME,
    version=version,
    description="One image's appearance in another image's pose: four families of networks",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    classifiers=[f"Programming Language :: Python :: 3.{minor}" for minor in TRIED],
    packages=find_packages(include=["nets", "nets.*", "guise", "guise.*"]),
    package_data={
        "nets": [
            "trained/*",
            "bilayer/*.safetensors",
            "pretrained/*.safetensors",
            "pretrained/*.txt",
            "worlds/heads/face/*.npz",
            "worlds/heads/face/*.md",
        ]
    },
    py_modules=list(SCRIPTS),
    entry_points={
        "console_scripts": [f"guise-{name.replace('_', '-')} = {name}:main" for name in SCRIPTS]
    },
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
        "dlib": DLIB,  # face points on any Python
        "heif": ["pillow-heif"],  # photos of phones, .heic
        "eval": ["scipy"],  # .mat files of BBC Pose
        "export": EXPORT,
        "hub": HUB,  # checkpoints as hf://OWNER/NAME
        "app": APP,
        # Kept apart from `test`: Gradio asks for older versions of what the other tests run on.
        "test-app": [*APP, *BROWSER],
        "plot": ["matplotlib"],  # scatter plots of evaluate.py
        "test": [
            *DLIB,
            *EXPORT,
            *HUB,
            *BROWSER,
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
            "mypy==2.4.1",
            "types-PyYAML==6.0.12.20261122",
            "types-tqdm==4.70.0.20261106",
            "codespell==2.4.3",
            "clang-format==23.1.5",
        ],
        "benchmark": ["kornia", "opencv-python-headless", "matplotlib", "psutil"],
    },
)
