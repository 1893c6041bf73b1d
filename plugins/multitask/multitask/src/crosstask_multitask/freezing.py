"""Parts of a module that stay as they are while another task is learned."""

from __future__ import annotations

from typing import Self

from torch import nn


class Freezable(nn.Module):
    """A module of which parts can be frozen: their weights need no gradient and, in training too, they are in
    evaluation mode, so that neither dropout nor the statistics of a batch move what they answer.
    """

    _frozen: tuple[nn.Module, ...] = ()
    _loosed: tuple[nn.Parameter, ...] = ()

    def freeze(self, *parts: nn.Module) -> None:
        """Freeze these parts of it, until `thaw`."""
        for part in parts:
            self._loosed += tuple(p for p in part.parameters() if p.requires_grad)
            part.requires_grad_(False).eval()
            self._frozen += (part,)

    def thaw(self) -> None:
        """Let everything learn again that `freeze` has frozen; what was frozen before that stays so."""
        for parameter in self._loosed:
            parameter.requires_grad_(True)
        self._loosed, self._frozen = (), ()
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for part in self._frozen:
            part.eval()
        return self
