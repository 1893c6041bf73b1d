"""Checks of recommenders."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crosstask.errors import CrosstaskError
from crosstask.testing.compare import difference, plain
from crosstask.testing.kit import Call, Kit, expect, refused
from crosstask_recommenders.support import Interactions, Support
from crosstask_recommenders.testing import planted

FEEDBACK = ("explicit", "implicit")


class RecommenderKit(Kit):
    """It learns from a small table and scores items for new users, each alone. A `twin(interactions, support, items)`
    gives the same scores.

    Every check is made with each kind of feedback that the recommender claims.
    """

    point = "recommender"
    capabilities: ClassVar[frozenset[str]] = frozenset({*FEEDBACK, "baseline"})

    @property
    def kinds(self) -> list[str]:
        return [kind for kind in FEEDBACK if kind in self.subject.component.capabilities]

    def inputs(self) -> dict[str, Any]:
        kind = self.kinds[0] if self.kinds else FEEDBACK[0]
        return {"interactions": planted(kind), "support": self.support(kind), "items": self.items()}

    def support(self, kind: str) -> Support:
        """Three users with 1, 4 and 2 support ratings."""
        users = [([3], [4.0]), ([1, 5, 9, 2], [1.0, 5.0, 3.0, 2.0]), ([7, 4], [2.0, 5.0])]
        return Support.of([(items, ratings if kind == "explicit" else None) for items, ratings in users])

    def items(self) -> Tensor:
        return torch.tensor([[1, 2, 8, 11, 12], [4, 6, 7, 8, 10], [1, 2, 3, 5, 12]])

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        model = call("fit", interactions=inputs["interactions"])
        return call("score", model=model, support=inputs["support"], items=inputs["items"])

    def scored(self, kind: str, *asked: tuple[Support, Tensor], table: Interactions | None = None) -> list[Tensor]:
        """Scores for each pair of support and items, by one fitted model."""
        component = self.make()
        with self.run(component) as run:
            model = run.call(component, "fit", interactions=table or planted(kind))
            return [run.call(component, "score", model=model, support=s, items=items) for s, items in asked]

    def check_claims_a_feedback(self) -> None:
        """It claims explicit feedback, implicit, or both, and refuses with a DataError what it does not claim."""
        expect(self.kinds, f"{self.name} claims neither explicit nor implicit feedback")
        for kind in FEEDBACK:
            if kind not in self.kinds:
                with refused(f"{self.name} fitted to {kind} feedback", CrosstaskError, naming=kind):
                    self.scored(kind)

    def check_scores(self) -> None:
        """Scores are finite, one for each item asked for, and hold no graph."""
        for kind in self.kinds:
            (found,) = self.scored(kind, (self.support(kind), self.items()))
            told = f"{self.name}, {kind} feedback: scores"
            expect(found.shape == (3, 5), f"{told} have shape {tuple(found.shape)}, expected (3, 5)")
            expect(torch.isfinite(found).all(), f"{told} are not all finite: {found}")
            expect(not found.requires_grad, f"{told} hold a graph of gradients")

    def check_ratings_are_in_their_units(self) -> None:
        """Of explicit feedback scores are ratings: their error is not far above that of the mean rating."""
        if "explicit" not in self.kinds:
            return
        table = planted("explicit", users=60)
        cold = planted("explicit", users=20, seed=1)
        support = Support.rows_of(cold)
        (found,) = self.scored("explicit", (support.first(3), support.items[:, 3:]), table=table)
        real = support.mask[:, 3:]
        error = (found - support.ratings[:, 3:])[real].square().mean().sqrt()
        plain_error = (table.rating.mean() - support.ratings[:, 3:])[real].square().mean().sqrt()
        told = f"an RMSE of {float(error):.3g}; always saying the mean has {float(plain_error):.3g}"
        expect(error < 1.5 * plain_error, f"{self.name}: {told}")

    def check_users_stand_alone(self) -> None:
        """A user's scores are the same in a batch of others with more ratings as alone, whatever padding holds."""
        for kind in self.kinds:
            whole, items = self.support(kind), self.items()
            dirty = Support(
                torch.where(whole.mask, whole.items, 6), torch.where(whole.mask, whole.ratings, 99.0), whole.mask
            )
            alone = [(whole.take([user]).first(int(whole.counts[user])), items[user : user + 1]) for user in range(3)]
            found = [each.detach() for each in self.scored(kind, (whole, items), (dirty, items), *alone)]
            together, padded, *each = found
            scale = 1e-4 * max(1.0, float(together.abs().max()))
            far = float((torch.cat(each) - together).abs().max())
            expect(far <= scale, f"{self.name}: alone a user's scores differ by {far:.2g} from those in a batch")
            far = float((padded - together).abs().max())
            expect(far <= scale, f"{self.name}: what stands in the padding of a support set moves scores by {far:.2g}")

    def check_order_of_support(self) -> None:
        """The order of a user's support ratings does not matter."""
        for kind in self.kinds:
            one = self.support(kind).take([1])
            turned = Support(one.items.flip(1), one.ratings.flip(1), one.mask)
            first, second = self.scored(kind, (one, self.items()[1:2]), (turned, self.items()[1:2]))
            far = float((first - second).abs().max())
            expect(
                far <= 1e-4 * max(1.0, float(first.abs().max())),
                f"{self.name}: another order moves scores by {far:.2g}",
            )

    def check_unknown_item(self) -> None:
        """Item 0, which is not known, is scored like any other and may stand in a support set."""
        for kind in self.kinds:
            zero = Support.of([([0, 3], [4.0, 2.0] if kind == "explicit" else None)])
            (found,) = self.scored(kind, (zero, torch.tensor([[0, 1, 2]])))
            expect(torch.isfinite(found).all(), f"{self.name}: scores with the unknown item 0 are {found.tolist()}")

    def check_item_out_of_range_refused(self) -> None:
        """An item that the table does not count is refused, in the support set and among those asked for."""
        for kind in self.kinds:
            far, known = Support.of([([99], None)]), self.support(kind).take([0])
            component = self.make()
            with self.run(component) as run:
                model = run.call(component, "fit", interactions=planted(kind))
                for what, support, items in (("with item 99 of 12 in the support", far, [[1, 2]]),
                                             ("asked for item 99 of 12", known, [[1, 99]])):  # fmt: skip
                    with refused(f"{self.name} {what}", CrosstaskError, naming="99"):
                        run.call(component, "score", model=model, support=support, items=torch.tensor(items))

    def check_model_untouched(self) -> None:
        """Scoring changes no weight, leaves no gradient, and the module is in evaluation mode before and after."""
        for kind in self.kinds:
            component = self.make()
            with self.run(component) as run:
                model: nn.Module = run.call(component, "fit", interactions=planted(kind))
                before = plain(model.state_dict())
                modes = any(part.training for part in model.modules())
                run.call(component, "score", model=model, support=self.support(kind), items=self.items())
            modes = modes or any(part.training for part in model.modules())
            expect(not modes, f"{self.name}: the fitted module, or a part of it, is in training mode")
            found = difference(before, plain(model.state_dict()), "weights")
            expect(found is None, f"{self.name}: scoring changes the fitted module: {found}")
            held = [name for name, p in model.named_parameters() if p.grad is not None]
            expect(not held, f"{self.name}: fitting or scoring leaves a gradient in {', '.join(held[:3])}")

    def check_agrees_with_twin(self) -> None:
        """It gives the scores that the twin gives, of every kind of feedback that it claims."""
        assert self.subject.twin is not None
        for kind in self.kinds:
            support, items = self.support(kind), self.items()
            (ours,) = self.scored(kind, (support, items))
            theirs = self.subject.twin(planted(kind), support, items)
            far = float((ours - theirs).abs().max())
            expect(far <= 1e-4, f"{self.name} and its twin, {kind} feedback: scores differ by {far:.2g}")
