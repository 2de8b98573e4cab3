"""What the scripts share. Importing this compiles, downloads and opens nothing.

Shape letters, the same everywhere: N batch, C channels, H W pixels, K landmarks or joints, P parts,
T frames. Points are (x, y). Images are (N, C, H, W); uint8 in [0, 255] as read, float in [-1, 1]
inside the networks. Pixel coordinates count pixel centres: the first pixel's centre is 0, the last
one's W - 1. Normalised coordinates say beside them which corners they mean.
"""

__version__ = "0.2.0"
