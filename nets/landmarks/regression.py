"""Joints from landmarks: a linear map, and the scores of its predictions."""

from __future__ import annotations

from typing import Any

import numpy as np

GROUPS = ("head", "wrists", "elbows", "shoulders")
PIXELS = 6.0  # largest distance of a hit in halved coordinates; 12 pixels of the frame

PROTOCOL = {
    "regression": (
        "regression: least squares of minimum norm (SVD) from the landmarks' means to the joints, "
        "without intercept, both relative to the image's centre; fitted on training frames only"
    ),
    "mean_pose": "mean pose: every joint at its mean over the frames of the fit",
    "points": (
        "points: as the regression, each point fitted on the images that have it; with_bias: with "
        "an intercept"
    ),
    "interocular": (
        "error: mean distance of a point over the distance of the true eyes, {first} and {second}, "
        "in pixels of the image file; mean over the known points of all test images; images "
        "without both eyes are left out and counted"
    ),
    "labels": (
        "labels: the error when N images are labelled, mean and standard deviation over {draws} "
        "random draws of them; the same test images"
    ),
    "consistency": (
        "consistency: landmarks of a frame and of its warp, the latter mapped back by the known "
        "warp (thin-plate spline; turn up to pi/8, scale 1.05 to 1.15, shift up to 5 % of the "
        "side, each of 100 control points up to 2 pixels more): mean distance as a share of the "
        "side; unmoved: landmarks that ignore the warp; landmarks whose place leaves the frame are "
        "left out"
    ),
    "accuracy": (
        "accuracy: share of joints within 6 pixels of the truth in halved coordinates, "
        "0.5 (p - 1) + 1, or 12 pixels of the frame; boxes of 300 x 300 pixels around the true "
        "joints"
    ),
}


def fit(landmarks: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """The map (F, T) of minimum norm for which landmarks @ map is nearest to the joints.

    landmarks  (N, F)
    joints     (N, T)
    Least squares in float64 by SVD. Two landmarks at one place give equal columns. The minimum norm
    gives both the same weight, where other solutions have large weights that cancel.
    """
    landmarks, joints = np.asarray(landmarks, np.float64), np.asarray(joints, np.float64)
    return np.linalg.lstsq(landmarks, joints, rcond=None)[0]


def to_pixels(predicted: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Positions (2, J, N) in pixels of the frame from predictions relative to boxes.

    predicted  (N, 2J), x of all joints, then y, from -0.5 to 0.5 over the box
    boxes      (N, 4), x_min, y_min, x_max, y_max, pixels
    """
    points = predicted.reshape(len(predicted), 2, -1)
    corner, side = boxes[:, :2, None], (boxes[:, 2:] - boxes[:, :2])[:, :, None]
    return np.transpose(points * side + side / 2 + corner, (1, 2, 0))


def accuracy(predicted: np.ndarray, truth: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """Shares of joints at most 12 pixels from the truth, by the protocol of BBC Pose.

    predicted, truth  (2, J, N), pixels of the frame, counted from 1; NaN in the truth: not
                      annotated, the joint is left out
    names             of the J joints; all but the head begin with r or l
    returns           "accuracy" of all joints; "frames", N; "per_joint", name -> share; "groups",
                      mean of the right and the left joint's shares; "mean_of_joints", mean of the
                      joints' shares
    """
    p, t = (0.5 * (points - 1) + 1 for points in (predicted, truth))
    known = np.isfinite(t[0]) & np.isfinite(t[1])
    hits = np.linalg.norm(p - t, axis=0) <= PIXELS
    per_joint = {
        name: float(hits[j][known[j]].mean()) if known[j].any() else float("nan")
        for j, name in enumerate(names)
    }
    groups: dict[str, list[float]] = {}
    for name, value in per_joint.items():
        plural = name if name == "head" else f"{name[1:]}s"
        groups.setdefault(plural, []).append(value)
    return {
        "accuracy": float(hits[known].mean()),
        "frames": int(truth.shape[2]),
        "per_joint": per_joint,
        "groups": {name: float(np.mean(values)) for name, values in groups.items()},
        "mean_of_joints": float(np.mean(list(per_joint.values()))),
    }


def predicted_points(
    landmarks: np.ndarray, points: np.ndarray, test_landmarks: np.ndarray, bias: bool
) -> np.ndarray:
    """Points (M, J, 2) of test images, by a regression from their landmarks.

    landmarks       (N, K, 2) in [-1, 1)
    points          (N, J, 2) from -0.5 to 0.5 over the image; NaN: missing. Each point is fitted on
                    the images that have it, and is NaN if none has
    test_landmarks  (M, K, 2)
    bias            fit an intercept too
    """
    flat, test_flat = (x.reshape(len(x), -1) for x in (landmarks, test_landmarks))
    if bias:
        flat, test_flat = (np.concatenate([x, np.ones((len(x), 1))], 1) for x in (flat, test_flat))
    columns = []
    for j in range(points.shape[1]):
        known = np.isfinite(points[:, j]).all(1)
        unknown = np.full((len(test_flat), 2), np.nan)
        columns.append(test_flat @ fit(flat[known], points[known, j]) if known.any() else unknown)
    return np.stack(columns, 1)


def interocular_error(
    predicted: np.ndarray, truth: np.ndarray, sides: np.ndarray, eyes: tuple[int, int]
) -> float:
    """Mean error of the points over the distance of the true eyes: `PROTOCOL["interocular"]`.

    predicted, truth  (M, J, 2), fractions of the image; NaN: missing
    sides             (M, 2), width and height in pixels
    eyes              places of both eyes among the points
    Raises ValueError if no image has both eyes.
    """
    pixels, expected = predicted * sides[:, None], truth * sides[:, None]
    between = np.linalg.norm(expected[:, eyes[0]] - expected[:, eyes[1]], axis=-1)
    errors = np.linalg.norm(pixels - expected, axis=-1) / between[:, None]
    known = np.isfinite(errors)
    if not known.any():
        raise ValueError("interocular_error: truth must hold both eyes of one image at least")
    return float(errors[known].mean())


def distances(
    landmarks: np.ndarray, joints: np.ndarray, test_landmarks: np.ndarray, test_joints: np.ndarray
) -> dict[str, Any]:
    """Mean distances of the regression's predictions and of the mean pose from the test joints.

    landmarks  (N, K, 2) in [-1, 1)
    joints     (N, J, 2) from -0.5 to 0.5 over the image; NaN: missing. Each joint is fitted on the
               frames that have it
    returns    "error" and "error_mean_pose", shares of the image's side; "ratio_to_mean_pose"; and
               the errors of each joint, "per_joint" and "per_joint_mean_pose", NaN if a joint is
               in no training or no test frame
    """
    flat, test_flat = (
        landmarks.reshape(len(landmarks), -1),
        test_landmarks.reshape(len(test_landmarks), -1),
    )
    errors, means, weights = [], [], []
    for j in range(joints.shape[1]):
        known, expected = (np.isfinite(x[:, j]).all(1) for x in (joints, test_joints))
        if not known.any() or not expected.any():
            errors.append(float("nan"))
            means.append(float("nan"))
            weights.append(0)
            continue
        truth = test_joints[expected, j]
        predicted = test_flat[expected] @ fit(flat[known], joints[known, j])
        mean = joints[known, j].mean(0)
        errors.append(float(np.linalg.norm(predicted - truth, axis=1).mean()))
        means.append(float(np.linalg.norm(mean - truth, axis=1).mean()))
        weights.append(int(expected.sum()))
    counted = np.array(weights) > 0
    error, mean = (
        float(np.average(np.array(x)[counted], weights=np.array(weights)[counted]))
        for x in (errors, means)
    )
    return {
        "error": error,
        "error_mean_pose": mean,
        "ratio_to_mean_pose": error / mean,
        "per_joint": errors,
        "per_joint_mean_pose": means,
    }
