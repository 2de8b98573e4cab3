"""What every test may ask for."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

if "ATEN_CPU_CAPABILITY" in os.environ:
    # Inductor's cache does not see the capability: code for wider vectors would be taken from it.
    cache = Path(tempfile.gettempdir()) / f"guise-inductor-{os.environ['ATEN_CPU_CAPABILITY']}"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
if "PYTEST_XDIST_WORKER" in os.environ:  # one process a core: threads would wait for each other
    torch.set_num_threads(1)


# Files and folders of tests whose bounds depend on the processor's arithmetic.
NUMBERS = (
    "tests/ops/", "tests/published/", "tests/pretrained/", "tests/worlds/",
    "tests/landmarks/test_landmark_network.py", "tests/landmarks/test_landmark_losses.py",
    "tests/landmarks/test_landmark_norm.py", "tests/landmarks/test_landmark_augment.py",
    "tests/bilayer/test_bilayer_networks.py", "tests/bilayer/test_bilayer_losses.py",
    "tests/bilayer/test_bilayer_drive.py", "tests/bilayer/test_bilayer_training_pass.py",
    "tests/bilayer/test_bilayer_metrics.py", "tests/dcign/test_network.py",
    "tests/dcign/test_code.py", "tests/dcign/test_dcign_metrics.py", "tests/test_layers.py",
    "tests/test_metrics.py", "tests/test_skeletons.py", "tests/vunet/test_losses.py",
    "tests/vunet/test_vunet_network.py", "tests/vunet/test_vunet_weights.py",
    "tests/run/test_run_precision.py",
)  # fmt: skip


def pytest_collection_modifyitems(config, items):
    for name in NUMBERS:
        assert (config.rootpath / name).exists(), f"{name} in tests/conftest.py: no such file"
    for item in items:
        if item.nodeid.startswith(NUMBERS):
            item.add_marker(pytest.mark.numbers)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """The device to test on; cuda skips itself where there is none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return request.param


@pytest.fixture
def small_disk(tmp_path):
    """The folder of a disk of 256 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("cannot mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
