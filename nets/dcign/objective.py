"""The objective of a training step, its optimiser, and the mean bound of each type of batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nets.dcign.code import active_mask, factor_slice, hold, invariance
from nets.dcign.losses import LIKELIHOODS, kl_divergence
from nets.dcign.network import DCIGN
from nets.dcign.options import groups
from nets.dcign.rmsprop import RMSprop
from nets.run import options


class Objective(nn.Module):
    """The loss of a step: the negative lower bound of a clamped code, summed over the batch."""

    owned: Tensor  # (types, D) bool: the active latents of each type of batch

    def __init__(self, net: DCIGN, args: options.Namespace):
        super().__init__()
        self.net, self.args = net, args
        self.likelihood = LIKELIHOODS[args.likelihood]
        if args.regime == "entangled":
            owned = torch.ones(1, net.latents, dtype=torch.bool)
        else:
            slices = [factor_slice(groups(args), g.name, net.latents) for g in groups(args)]
            owned = torch.stack([active_mask(s, net.latents) for s in slices])
        self.register_buffer("owned", owned, persistent=False)

    def forward(
        self, image: Tensor, kind: Tensor, noise: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and its terms by name in nats per image.

        image  (N, 1, S, S) in [0, 1]
        kind   (1,) number of the batch's type
        noise  (N, D) standard normal
        """
        args, active = self.args, self.owned[kind][0]
        heads = self.net.encode(image)
        mu, log_variance = (hold(head, active, args.clamp, args.gradient_filter) for head in heads)
        parameters = self.net.decode_parameters(self.net.sample(mu, log_variance, noise))
        reconstruction = self.likelihood(parameters, image)
        kl = kl_divergence(mu, log_variance)
        loss = reconstruction + kl
        terms = {
            "lower_bound": -loss,
            "reconstruction": reconstruction,
            "kl": kl,
            "kl_unclamped": kl_divergence(*heads),
        }
        if args.force_invariance:
            of_mu, of_log_variance = (
                invariance(head, active, args.invariance_strength, args.invariance_sign)
                for head in heads
            )
            terms["invariance"] = of_mu + of_log_variance
            loss = loss + terms["invariance"]
        return loss, {name: term.detach() / len(image) for name, term in terms.items()}


class TypeMeans:
    """Mean lower bound of each type of batch since the last `take`, on this rank's batches."""

    def __init__(self, kinds: list[str], device: torch.device):
        self.kinds = kinds
        self.sums = torch.zeros(2, len(kinds), device=device)

    def add(self, kind: Tensor, bound: Tensor) -> None:
        """Add the lower bound of a batch, nats per image; kind (1,)."""
        self.sums.index_add_(1, kind, torch.stack([bound.float(), torch.ones_like(bound)])[:, None])

    def take(self) -> dict[str, float]:
        """The mean of each type that occurred, by its name in the log; starts a new mean."""
        sums, counts = self.sums.tolist()
        self.sums.zero_()
        return {
            f"lower_bound_{k}": s / c for k, s, c in zip(self.kinds, sums, counts, strict=True) if c
        }

    def state_dict(self) -> dict[str, Tensor]:
        return {"sums": self.sums}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.sums.copy_(state["sums"])


def make_optimizer(args: options.Namespace, net: DCIGN) -> torch.optim.Optimizer:
    """The optimiser that --optimizer names, with the decays of both moments."""
    decays = (args.momentum_decay, args.update_decay)
    if args.optimizer == "rmsprop":
        return RMSprop(net.parameters(), args.lr, *decays)
    betas = tuple(1 - decay for decay in decays)
    return torch.optim.Adam(net.parameters(), args.lr, betas, fused=True)
