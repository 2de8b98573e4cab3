"""The modules that the scripts share. Importing this compiles, downloads and opens nothing.

Shape letters, the same in all modules:

    N  batch                 P  poses, or body parts
    C  channels              T  frames
    H  W  pixels             D  numbers of a latent code
    S  side of a square      K  landmarks, keypoints or joints (J where both occur)

Images are (N, C, H, W): uint8 in [0, 255] as read, float in [-1, 1] inside the networks. Points are
(x, y). Pixel coordinates refer to pixel centres: 0 is the first pixel's centre, W - 1 the last
one's. Docstrings of normalised coordinates state which corners they refer to.
"""

__version__ = "0.2.0"
