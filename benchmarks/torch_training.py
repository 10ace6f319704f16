"""The reference recipe of MB-PFM in PyTorch, step by step: the peer of `training`.

As the authors run it: eager, mapping networks with BatchNorm in batch statistics, one Adam with L2
a level. Better than they run it where that is free: BatchNorm of the frozen networks is folded and
Adam is fused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.detectors import build
from benchmarks.reference_recipe import Runs
from benchmarks.torch_methods import PFM
from benchmarks.torch_peer import device
from jaxad.core import Variables
from jaxad.detector import Detector


class Trainer:
    """MB-PFM in training: the model, and the optimiser of each level."""

    def __init__(
        self, config: Any, detector: Detector, variables: Variables, *, channels_last: bool
    ) -> None:
        m, self.device = config.method, device()
        self.model = PFM(config, detector, variables, folded=False).to(self.device)
        self.model.channels_last = channels_last
        if channels_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        for network in (self.model.source, self.model.target):
            network.eval().requires_grad_(False)
        self.model.mappings.train()
        rates = [m.learning_rate[h - 1] for h in sorted(m.levels)]
        self.optimizers = [
            torch.optim.Adam(
                self.model.mappings[name].parameters(),
                lr=rate,
                weight_decay=m.weight_decay,
                fused=True,
            )
            for (name, _), rate in zip(self.model.pairs, rates)
        ]

    def features(self, images: np.ndarray[Any, Any]) -> list[tuple[Tensor, Tensor]]:
        """Normalised features of both networks, a pair for each level."""
        with torch.no_grad():
            return self.model.features(torch.from_numpy(images).to(self.device))

    def step(self, features: list[tuple[Tensor, Tensor]]) -> float:
        """Train every level on whole maps; returns the sum of their losses."""
        losses = []
        for (name, _), (F_S, F_T), optimizer in zip(self.model.pairs, features, self.optimizers):
            optimizer.zero_grad()
            pairs = self.model.mapped(name, F_S, F_T)
            loss = torch.stack([F.mse_loss(y, true) for y, true in pairs]).sum()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return float(torch.stack(losses).sum())  # waits for the device


def peer_runs(config: Any, images: np.ndarray[Any, Any]) -> dict[str, Runs]:
    """What the peer computes for a step, in both memory formats; each waits for its result."""
    detector, variables = build(config)
    torch.backends.cudnn.benchmark = True

    def of(trainer: Trainer) -> Runs:
        found = trainer.features(images)

        def features() -> None:
            float(trainer.features(images)[-1][1].sum())  # waits for the device

        return Runs(lambda: trainer.step(found), features)

    return {
        label: of(Trainer(config, detector, variables, channels_last=label == "channels_last"))
        for label in ("contiguous", "channels_last")
    }
