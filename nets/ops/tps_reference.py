"""What `tps_warp` and its gradients are, in stock torch."""

from __future__ import annotations

import torch
from torch import Tensor

from nets.ops.sampling import PADDINGS, lookup, lookup_backward


def normalised(control):
    """Points q [M, K, 2] about their mean and over twice their rms distance from it; that frame
    (mean, 1 / extent) [M, 3]; float64. A smooth function of the points, as tps_fit's gradient asks.
    """
    points = control.double().view(-1, *control.shape[-2:])
    middle = points.mean(1, keepdim=True)
    apart = points - middle
    over = apart.square().sum(-1).mean(1)[:, None, None].rsqrt() / 2
    return apart * over, torch.cat([middle, over], -1)[:, 0]


def radial_functions(s):
    return torch.where(s > 0, s * s.clamp_min(torch.finfo(s.dtype).tiny).log(), s)


def _basis(image, nodes, frame):
    """The K + 3 functions at every pixel, [M, H W, K + 3], and the pixels' x and y, [H W]."""
    h, w = image.shape[2:]
    kind = dict(dtype=nodes.dtype, device=nodes.device)
    y, x = torch.meshgrid(torch.arange(h, **kind), torch.arange(w, **kind), indexing="ij")
    pixels = torch.stack([x.flatten(), y.flatten()], -1)
    q = (pixels - frame[:, None, :2]) * frame[:, None, 2:]  # [M, H W, 2]
    radial = radial_functions((q[:, :, None] - nodes[:, None]).square().sum(-1))
    return torch.cat([radial, torch.ones_like(q[..., :1]), q], -1), *pixels.unbind(-1)


def tps_warp_reference(
    image: Tensor, nodes: Tensor, frame: Tensor, coefficients: Tensor, padding: int
) -> Tensor:
    """The definition, in stock torch; `padding` is an index into PADDINGS."""
    basis, x, y = _basis(image, nodes, frame)
    dx, dy = _by_image(basis, coefficients).unbind(-1)
    out = lookup(image.to(nodes.dtype), x + dx, y + dy, PADDINGS[padding])
    return out.view(image.shape).to(image.dtype).contiguous()


def tps_warp_backward_reference(
    grad: Tensor, image: Tensor, nodes: Tensor, frame: Tensor, coefficients: Tensor, padding: int
) -> tuple[Tensor, Tensor]:
    """Gradients by image and coefficients."""
    basis, x, y = _basis(image, nodes, frame)
    dx, dy = _by_image(basis, coefficients).unbind(-1)
    grad_, image_ = grad.to(nodes.dtype).flatten(2), image.to(nodes.dtype)
    grad_image, gx, gy = lookup_backward(grad_, image_, x + dx, y + dy, PADDINGS[padding])
    return grad_image.to(image.dtype), _by_image(basis.mT, torch.stack([gx, gy], -1))


def _by_image(matrix, vectors):
    """matrix [M, A, B] @ vectors [N, B, 2] -> [N, A, 2]; N / M images in a row share a matrix."""
    n, m = vectors.shape[0], matrix.shape[0]
    out = matrix[:, None] @ vectors.view(m, n // max(m, 1), *vectors.shape[1:])
    return out.flatten(0, 1).contiguous()
