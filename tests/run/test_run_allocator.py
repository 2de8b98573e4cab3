"""malloc keeps freed memory in training."""

import subprocess
import sys

import pytest

FREED_AND_TAKEN = """
import resource, torch
from nets.run.run import keep_freed_memory
KEEP
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(1 << 24)  # 64 MB: by default always of the system's own, never kept
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc on Linux only")
def test_freed_memory_is_taken_again_without_page_faults():
    counts = []
    for keep in ("", "assert keep_freed_memory()"):
        program = FREED_AND_TAKEN.replace("KEEP", keep)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        counts.append(int(done.stdout))
    default, kept = counts
    assert kept < 100 < default, counts  # default: 20 * 32 huge pages, or 20 * 16384 small ones
