import torch
from torch import nn

from crosstask import component, option
from crosstask_recommenders import Recommender, Support, check_items, cold_start, cold_users
from crosstask_recommenders.digits import table
from crosstask_recommenders.evaluation import ColdStart


class Offsets(nn.Module):
    def __init__(self, expected):
        super().__init__()
        self.register_buffer("expected", expected)
        self.eval()


@component
class Offset(Recommender):
    """The item's mean, and how far the user's ratings lie from those of their items."""

    capabilities = frozenset({"explicit"})

    shrink: float = option(3.0, gt=0, help="ratings behind a user's offset")

    def fit(self, interactions):
        self.check_feedback(interactions)
        counts = interactions.counts("item").clamp_min(1)
        sums = torch.zeros(len(counts)).index_add(0, interactions.item, interactions.rating)
        return Offsets(torch.where(sums > 0, sums / counts, interactions.rating.mean()))

    def score(self, model, support, items):
        for asked in (items, support.items[support.mask]):
            check_items(asked, len(model.expected) - 1, self.origin)
        away = torch.where(support.mask, support.ratings - model.expected[support.items], 0.0).sum(1)
        return model.expected[items] + (away / (support.counts + self.shrink))[:, None]


train, test = cold_users(table(300), 0.2, 11)
cold = ColdStart.of(test, (1, 10), generator=torch.Generator().manual_seed(0))
offset = Offset()
model = offset.fit(train)
one, ten = cold_start(lambda support, items: offset.score(model, support, items), cold, "offset")
assert ten.rmse < one.rmse
assert offset.score(model, Support.of([([10], [16])]), torch.tensor([[5, 6]])).shape == (1, 2)
