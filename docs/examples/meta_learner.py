import copy

import torch
from torch import nn

from crosstask import DataError, MetaLearner, component
from crosstask.descriptors import TensorData
from crosstask.learning.episodes import Episodes, episode_accuracy, episode_losses, of_task


class NearestMean(nn.Module):
    def __init__(self, encoder, support):
        super().__init__()
        self.encoder, (self.support, self.ways) = encoder, of_task(support)
        if self.ways is None:
            raise DataError("a task without classes has no class means")

    def forward(self, inputs):
        features = self.encoder(self.support.inputs)
        means = [features[self.support.targets == number].mean(0) for number in range(self.ways)]
        return -torch.cdist(self.encoder(inputs), torch.stack(means)).square()


@component
class Means(MetaLearner):
    """Learns features in which samples lie near the mean of their class."""

    capabilities = frozenset({"encoder"})

    def meta_step(self, model, episodes, optimizer):
        self.check_episodes(episodes)  # of equal size, with queries
        tasks = zip(map(episodes.support, range(len(episodes))), episodes.query_inputs, strict=True)
        scores = torch.stack([NearestMean(model, support)(inputs) for support, inputs in tasks])
        loss = episode_losses(scores, episodes.query_targets).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        accuracy = episode_accuracy(scores, episodes.query_targets).mean()
        return {"loss": loss.item(), "accuracy": accuracy.item()}

    def adapt(self, model, support, steps):
        return NearestMean(copy.deepcopy(model), support).eval()


generator = torch.Generator().manual_seed(0)


def tasks(count):
    """Two classes that the first of six numbers tells apart; one sample of each to learn from, ten to be judged on."""
    inputs, labels = torch.randn(count, 22, 6, generator=generator), (torch.arange(22) % 2).expand(count, -1)
    inputs[..., 0] = inputs[..., 0].abs() * (2 * labels - 1)
    return Episodes(inputs[:, :2], labels[:, :2], inputs[:, 2:], labels[:, 2:], 2)


learner, model = Means(), nn.Linear(6, 4)
optimizer = learner.optimizer(model)
metrics = [learner.meta_step(model, tasks(8), optimizer) for _ in range(300)]
assert sum(m["accuracy"] for m in metrics[-20:]) > sum(m["accuracy"] for m in metrics[:20]) + 2
support = TensorData(torch.eye(6)[[0, 0]] * torch.tensor([[2.0], [-2.0]]), torch.tensor([8, 7]))
adapted = learner.adapt(model, support, None)
found = adapted(torch.tensor([[3.0, 0, 0, 0, 0, 0], [-3.0, 0, 0, 0, 0, 0]])).argmax(1)
assert found.tolist() == [1, 0]  # columns of the scores follow the labels, 7 and 8
