"""Distillers whose knowledge is a network that others can start from."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from torch import nn

from crosstask.points.distillation import Distilled, Distiller
from crosstask.tasks import Task


class EncoderDistiller(Distiller):
    """A distiller that can give what it distilled as a network: the stage provides it as `encoder`."""

    @abstractmethod
    def encoder(self, knowledge: Distilled, tasks: Sequence[Task]) -> nn.Module:
        """The network, with weights of its own that can be trained: inputs [N, …] to features [N, F].

        It follows from the knowledge alone, also from knowledge that was stored; `tasks`, with their models, are those
        that it was distilled from and only say what the network's layers are. DataError if none of them does.
        """
