"""From landmarks to joints: a linear map without intercept, and what its predictions are worth."""

from __future__ import annotations

from typing import Any

import numpy as np

GROUPS = ("head", "wrists", "elbows", "shoulders")
PIXELS = 6.0  # of the halved coordinates: 12 in the frames as they are

PROTOCOL = {
    "regression": (
        "regression: least squares from the landmarks' means to the joints, both about the middle "
        "of the image, without intercept, of minimum norm (SVD); fitted on training frames only"
    ),
    "mean_pose": "mean pose: every joint at its mean over the frames that the regression saw",
    "accuracy": (
        "accuracy: share of joints within 6 pixels after halving the coordinates, 0.5 (p - 1) + 1, "
        "that is within 12 pixels of the frame; boxes of 300 x 300 pixels around the true joints"
    ),
}


def fit(landmarks: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """The map (F, T) of least squares and, among those, least norm: landmarks (N, F) @ map is
    nearest to joints (N, T). Computed in float64 by SVD, so that equal columns, as of two landmarks
    in one place, share their weight instead of cancelling.
    """
    landmarks, joints = np.asarray(landmarks, np.float64), np.asarray(joints, np.float64)
    return np.linalg.lstsq(landmarks, joints, rcond=None)[0]


def to_pixels(predicted: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Absolute positions (2, 7, N) of predictions (N, 14), x before y, in [-0.5, 0.5] over boxes
    (N, 4) x_min, y_min, x_max, y_max.
    """
    points = predicted.reshape(len(predicted), 2, -1)
    corner, side = boxes[:, :2, None], (boxes[:, 2:] - boxes[:, :2])[:, :, None]
    return np.transpose(points * side + side / 2 + corner, (1, 2, 0))


def accuracy(predicted: np.ndarray, truth: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """Shares of joints within the distance: of all, of each, of right and left together.

    predicted, truth  (2, J, N) absolute, 1-based pixels; a joint that is NaN in the truth counts
                      nowhere. Groups are the means of a right and a left joint's figures, and the
                      mean over joints is that of all joints' figures.
    """
    halved = (0.5 * (points - 1) + 1 for points in (predicted, truth))
    p, t = halved
    known = np.isfinite(t).all(0)
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


def distances(
    landmarks: np.ndarray, joints: np.ndarray, test_landmarks: np.ndarray, test_joints: np.ndarray
) -> dict[str, Any]:
    """Errors of the regression on test frames, and of the mean pose, as shares of the image.

    landmarks (N, K, 2) in [-1, 1); joints (N, J, 2) in [-0.5, 0.5] about the middle, NaN where one
    is missing; each joint is fitted on the frames that have it.
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
