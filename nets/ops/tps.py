"""Thin-plate splines: their coefficients, and images warped with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nets.ops._library import define
from nets.ops.sampling import (
    FLOATS,
    PADDINGS,
    check_beside,
    check_image,
    check_padding,
    computed,
    lookup,
    lookup_backward,
    repeatable,
)

MAX_POINTS = 2048


def tps_fit(control: Tensor, target: Tensor) -> Tensor:
    """Coefficients of the thin-plate spline that maps every control point to its target.

    control  [K, 2] or [N, K, 2]  (x, y) in pixels, not all on one line; 3 <= K <= 2048
    target   [N, K, 2]  in pixels
    returns  [N, K + 3, 2]  for `tps_warp`, float64 or else float32: the weights of the K radial
             functions, then a_0, a_x, a_y, of the displacement in pixels; differentiable in both

    The spline is f(p) = p + a_0 + a_x q_x + a_y q_y + sum_k w_k U(|q - q_k|^2), U(s) = s ln s. Here
    q is p minus the mean of the control points, divided by twice their rms distance from it. That
    is the same f as in pixel coordinates, but far better conditioned. Solved in float64.
    Raises ValueError on a wrong shape and on points that lie on one line. Bookstein 1989, eq. 4, 6.
    """
    _check_points("tps_fit", control)
    check_beside("tps_fit", "target", target, control)
    k = control.shape[-2]
    same = control.ndim == 2 or control.shape[0] == target.shape[0]
    if target.ndim != 3 or target.shape[1:] != (k, 2) or not same:
        raise ValueError(
            f"tps_fit: target must be [N, {k}, 2] for control {list(control.shape)}, "
            f"got {list(target.shape)}"
        )
    nodes, _ = normalised(control)  # [M, K, 2]
    affine = torch.cat([torch.ones_like(nodes[..., :1]), nodes], -1)  # [M, K, 3]
    radial = radial_functions((nodes[:, :, None] - nodes[:, None]).square().sum(-1))
    corner = nodes.new_zeros(len(nodes), 3, 3)
    system = torch.cat([torch.cat([radial, affine], 2), torch.cat([affine.mT, corner], 2)], 1)
    n = target.shape[0]
    shift = torch.nn.functional.pad(target.double() - control.double(), (0, 0, 0, 3))
    if control.ndim == 2:  # one system, solved once for all images
        shift = shift.permute(1, 0, 2).reshape(1, k + 3, 2 * n)
    try:
        solved = torch.linalg.solve(system, shift)
    except torch.linalg.LinAlgError as error:
        raise ValueError(
            "tps_fit: control must not lie on one line or hold a point twice, got a singular system"
        ) from error
    if control.ndim == 2:
        solved = solved.view(k + 3, n, 2).transpose(0, 1)
    return solved.to(computed(torch.promote_types(control.dtype, target.dtype)))


def tps_warp(
    image: Tensor, control: Tensor, coefficients: Tensor, *, padding: str = "border"
) -> Tensor:
    """The image warped: output pixel p reads the input at f(p), f the spline of `tps_fit`.

    image         [N, C, H, W]  any floating type and memory layout; differentiable once
    control       [K, 2] or [N, K, 2]  as given to `tps_fit`; no gradient flows to it here. One
                  [K, 2] for all images costs least.
    coefficients  [N, K + 3, 2]  from `tps_fit`; differentiable once
    padding       "border" or "zeros": what positions outside the image read
    returns       [N, C, H, W]; bilinear; pixel centres at the integers, the first at 0

    At the control points, the result shows what the image holds at the targets. It is OpenCV's
    ThinPlateSplineShapeTransformer.warpImage estimated from (target, control). float16 and bfloat16
    images are computed in float32; under autocast the result is float32. Raises TypeError or
    ValueError on a wrong type, shape, device or padding, and on control points that require a
    gradient.
    """
    check_image("tps_warp", "image", image)
    _check_points("tps_warp", control)
    check_beside("tps_warp", "control", control, image)
    check_beside("tps_warp", "coefficients", coefficients, image)
    check_padding("tps_warp", padding)
    n, k = image.shape[0], control.shape[-2]
    if control.ndim == 3 and control.shape[0] != n:
        raise ValueError(
            f"tps_warp: control must be [K, 2] or [{n}, K, 2], got {list(control.shape)}"
        )
    if control.requires_grad:
        raise ValueError(
            "tps_warp: control must not require a gradient, none flows to it here, only in tps_fit;"
            " got requires_grad=True (detach it)"
        )
    if coefficients.shape != (n, k + 3, 2):
        raise ValueError(
            f"tps_warp: coefficients must be {[n, k + 3, 2]}, got {list(coefficients.shape)}"
        )
    kind = computed(image.dtype)
    nodes, frame = (t.to(kind) for t in normalised(control))
    if n == 0:
        nodes, frame = nodes[:0], frame[:0]
    return _warp(image, nodes, frame, coefficients.to(kind), PADDINGS.index(padding))


def _check_points(name: str, control: Tensor) -> None:
    if control.dtype not in FLOATS:
        raise TypeError(f"{name}: control must be a floating tensor, got {control.dtype}")
    shape = list(control.shape)
    if control.ndim not in (2, 3) or shape[-1] != 2 or not 3 <= shape[-2] <= MAX_POINTS:
        raise ValueError(
            f"{name}: control must be [K, 2] or [N, K, 2] with 3 <= K <= {MAX_POINTS}, got {shape}"
        )


def normalised(control: Tensor) -> tuple[Tensor, Tensor]:
    """The control points normalised [M, K, 2], and their frame (mean, 1 / extent) [M, 3]; float64.

    The extent is twice the rms distance from the mean. Both are smooth functions of the points,
    which the gradient of `tps_fit` needs.
    """
    points = control.double().view(-1, *control.shape[-2:])
    mean = points.mean(1, keepdim=True)
    centred = points - mean
    inverse = centred.square().sum(-1).mean(1)[:, None, None].rsqrt() / 2
    return centred * inverse, torch.cat([mean, inverse], -1)[:, 0]


def radial_functions(s: Tensor) -> Tensor:
    """s ln s of squared distances, 0 at 0."""
    return torch.where(s > 0, s * s.clamp_min(torch.finfo(s.dtype).tiny).log(), s)


def _basis(image: Tensor, nodes: Tensor, frame: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The K + 3 functions at every pixel, [M, H W, K + 3], and the pixels' x and y, [H W]."""
    h, w = image.shape[2:]
    rows, columns = (torch.arange(n, dtype=nodes.dtype, device=nodes.device) for n in (h, w))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    pixels = torch.stack([x.flatten(), y.flatten()], -1)
    q = (pixels - frame[:, None, :2]) * frame[:, None, 2:]  # [M, H W, 2]
    radial = radial_functions((q[:, :, None] - nodes[:, None]).square().sum(-1))
    basis = torch.cat([radial, torch.ones_like(q[..., :1]), q], -1)
    return basis, pixels[..., 0], pixels[..., 1]


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


def _by_image(matrix: Tensor, vectors: Tensor) -> Tensor:
    """matrix [M, A, B] @ vectors [N, B, 2] -> [N, A, 2]; N / M images in a row share a matrix."""
    n, m = vectors.shape[0], matrix.shape[0]
    out = matrix[:, None] @ vectors.view(m, n // max(m, 1), *vectors.shape[1:])
    return out.flatten(0, 1).contiguous()


def _fake_backward(
    grad: Tensor, image: Tensor, nodes: Tensor, frame: Tensor, coefficients: Tensor, padding: int
) -> tuple[Tensor, Tensor]:
    return image.new_empty(image.shape), coefficients.new_empty(coefficients.shape)


_GIVEN = "Tensor image, Tensor nodes, Tensor frame, Tensor coefficients, int padding"
_warp = define(
    f"tps_warp({_GIVEN}) -> Tensor",
    tps_warp_reference,
    lambda image, *_: image.new_empty(image.shape),
)
_warp_backward = define(
    f"tps_warp_backward(Tensor grad, {_GIVEN}) -> (Tensor, Tensor)",
    tps_warp_backward_reference,
    _fake_backward,
    autocast=False,
)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.padding = inputs
    ctx.save_for_backward(*tensors)


@torch.autograd.function.once_differentiable
def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    backward = repeatable(_warp_backward, tps_warp_backward_reference, grad)
    grad_image, grad_coefficients = backward(grad, *ctx.saved_tensors, ctx.padding)
    return grad_image, None, None, grad_coefficients, None


torch.library.register_autograd("guise::tps_warp", _backward, setup_context=_setup)
