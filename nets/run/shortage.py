"""What to do where the system runs out of open files or shared memory."""

from __future__ import annotations

import re
import resource
import shutil

SHARED = "/dev/shm"  # where torch's workers hand batches over
FILES = re.compile(r"Too many open files|items of ancdata|Errno 2[34]\\b")
MEMORY = re.compile(
    r"[Bb]us error|shared memory|unable to (mmap|write to file|resize file|open file) .*</?torch_|"
    r"out of shm|unable to (allocate|open) shared|</torch_[^>]*>: No space left"
)


def shortage(text: str) -> str:
    """One line with the remedy if an error's text tells of such a shortage, else an empty text."""
    if FILES.search(text):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        how = f"raise it in the same shell with `ulimit -n {min(hard, 65536)}`"
        if hard in (soft, resource.RLIM_INFINITY):
            how = "raise it with `ulimit -n 65536` as root, or docker run --ulimit nofile=65536"
        return f"too many open files, the limit is {soft}: {how}, or give fewer --workers"
    if MEMORY.search(text):
        return (
            f"the shared memory in {SHARED} is too small for the workers ({shared_size()}): "
            "enlarge it (docker run --shm-size=2g, mount -o remount,size=2g), or give --workers 0"
        )
    return ""


def shared_size() -> str:
    """Size and free space of the shared memory, for messages."""
    try:
        disk = shutil.disk_usage(SHARED)
    except OSError:
        return "not there"
    return f"{disk.total >> 20} MiB, {disk.free >> 20} MiB free"


def shared_is_full() -> bool:
    """True if less than a page of the shared memory is free."""
    try:
        return shutil.disk_usage(SHARED).free < 1 << 16
    except OSError:
        return True
