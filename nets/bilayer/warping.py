"""What guides the offsets into the texture while they are learnt: how long they are held near zero,
and where in the texture each keypoint lies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, distributed


class WarpingWeight:
    """The weight of the warping regulariser: times `decay` after every `schedule` calls, not below
    `eps`. A decay of 1 or a schedule below 1 leave it as it is."""

    def __init__(self, weight: float, decay: float, schedule: int, eps: float):
        self.weight, self.calls = float(weight), 0
        self.decay, self.schedule, self.eps = decay, schedule, eps

    def next(self) -> float:
        """The weight of this training call."""
        weight = self.weight
        self.calls += 1
        if self.decay != 1 and self.schedule > 0 and self.calls % self.schedule == 0:
            self.weight = max(self.weight * self.decay, self.eps)
        return weight

    def state_dict(self) -> dict[str, float | int]:
        return {"wpr_weight": self.weight, "wpr_calls": self.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.weight, self.calls = float(state["wpr_weight"]), int(state["wpr_calls"])


class KeypointPlaces:
    """Each keypoint's one place in the texture: the mean of its places in all pictures so far.

    Where pictures alone are to teach the offsets, a texture without contrast gives them no
    gradient, and offsets that fit nothing leave the texture without contrast. Keypoints say which
    pixels of two pictures show the same place of a face, whatever is painted there.
    """

    def __init__(self) -> None:
        self.places: Tensor | None = None  # (K, 2), in [-1, 1]
        self.calls = 0

    def add(self, poses: Tensor) -> None:
        """Count the poses (b, t, 2 K) of a training step, of all ranks."""
        mean = poses.detach().float().mean((0, 1)).unflatten(0, (-1, 2))
        if distributed.is_initialized():
            distributed.all_reduce(mean)
            mean /= distributed.get_world_size()
        self.calls += 1
        old = mean if self.places is None else self.places.to(mean.device)
        self.places = old + (mean - old) / self.calls

    def distance(self, uvs: Tensor, poses: Tensor) -> Tensor:
        """Mean L1 distance of the places that are read under the keypoints from their own.

        uvs    (b, t, S, S, 2) absolute, (x, y) in [-1, 1]
        poses  (b, t, 2 K) in [-1, 1]
        """
        points = poses.float().flatten(0, 1).unflatten(1, (-1, 2))
        fields = uvs.float().flatten(0, 1).permute(0, 3, 1, 2)
        found = F.grid_sample(fields, points[:, None], padding_mode="border", align_corners=False)
        places = points.mean(0) if self.places is None else self.places
        return F.l1_loss(found[:, :, 0].mT, places.expand_as(points))

    def state_dict(self) -> dict[str, Any]:
        return {} if self.places is None else {"kpc_places": self.places, "kpc_calls": self.calls}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.places, self.calls = state.get("kpc_places"), int(state.get("kpc_calls", 0))
