import torch
from torch import nn

from crosstask import component, option
from crosstask_alignment import Alignment


@component
class Means(Alignment):
    """Domains have the same mean features."""

    power: float = option(2.0, ge=1, help="of the distance between two means")

    def misalignment(self, features, domain, outputs, progress):
        means = torch.stack([features[domain == d].mean(0) for d in domain.unique()])
        return torch.pdist(means).pow(self.power).mean()


rng = torch.Generator().manual_seed(0)
x, domain = torch.randn(200, 5, generator=rng), torch.arange(200) % 2
y = (x[:, 0] > 0).long()
x = x + 3 * domain[:, None]  # domain 1 is elsewhere, and its labels are not used
trunk, head, term = nn.Linear(5, 4), nn.Linear(4, 2), Means()
optimizer = torch.optim.Adam([*trunk.parameters(), *head.parameters(), *term.parameters()], lr=0.02)
for _ in range(100):
    features = trunk(x)
    loss = nn.functional.cross_entropy(head(features)[domain == 0], y[domain == 0]) + term.loss(features, domain)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
right = (head(trunk(x)).argmax(1) == y)[domain == 1]
assert right.double().mean() > 0.8
