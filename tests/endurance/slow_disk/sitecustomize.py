"""Python reads this first where it is on its path: a disk that takes its time, so that a test can
meet a program while it writes.
"""

import os
import time

_fsync = os.fsync


def fsync(descriptor):
    time.sleep(0.05)
    _fsync(descriptor)


os.fsync = fsync
