"""mean_z: several estimators' z-scores inside each target, averaged."""

from __future__ import annotations

from typing import Any, ClassVar

from crosstask.errors import DataError
from crosstask.graph import Evidence, TransferEdge, TransferGraph
from crosstask.options import component, option, state
from crosstask.parts import Choice, Part, part
from crosstask.points.discovery import Discoverer
from crosstask.tasks import Portfolio
from crosstask_discovery.calibration import Scores, calibrated, with_known, within_targets
from crosstask_discovery.estimator import Estimator, raw_estimates
from crosstask_discovery.pairs import LeftOut, edge_between, refuse_none, tell_left_out

OWN = ("logme", "leep", "nce", "hscore", "transrate", "gbc", "cka", "knn", "ridge", "fisher")
EIGHT = ("logme", "leep", "nce", "hscore", "gbc", "cka", "knn", "ridge")
"""The default: not `fisher`, which costs most, and not `transrate`, which misleads with fewer samples than features."""


@component
class MeanZ(Discoverer):
    """The mean, over estimators, of their z-scores among the sources of a target. Better than any one of them: their
    errors differ, and z-scores take away what belongs to the target.

    Any discoverer that puts raw values into `estimates` can be one of the `estimators`. An estimator that cannot say
    anything of a pair is left out of its mean; what all left out is in `skipped`. Edges hold all raw values, and the
    mean as `mean_z`. DataError if no pair can be estimated.
    """

    capabilities: ClassVar[frozenset[str]] = frozenset()

    estimators: tuple[Part, ...] = part("discovery", EIGHT, help="whose z-scores are averaged")
    samples: int | None = option(250, ge=2, help="training samples of the target, for estimators given by name")
    shots: int | None = option(None, ge=1, help="samples per class, for estimators given by name; instead of samples")
    scale: float = option(
        0.15, gt=0, le=1, help="coefficient that one standard deviation stands for, if none is measured"
    )
    keep: bool = option(True, help="keep the features in the store, for estimators given by name")
    skipped: list[LeftOut] = state(factory=list)

    def __attrs_post_init__(self) -> None:
        shared = {name: getattr(self, name) for name in ("samples", "shots", "scale", "keep")}
        self.estimators = tuple(_with_options(choice, shared) for choice in self.estimators)

    def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
        estimates: dict[tuple[str, str], dict[str, float]] = {}
        skipped: dict[tuple[str, str], str] = {}
        self.skipped = []
        failures: list[str] = []
        estimators = self.made_of("estimators")
        ours = [each for each in estimators if type(each).discover is Estimator.discover]
        raw = dict(zip(map(id, ours), raw_estimates(ours, portfolio, graph), strict=True))
        for estimator in estimators:
            try:
                if id(estimator) in raw:
                    found = {pair: {estimator.known_as: value} for pair, value in raw[id(estimator)].items()}
                    if estimator.skipped and not found:
                        refuse_none(portfolio, estimator.skipped, "estimated")
                    tell_left_out(estimator, estimator.skipped)
                else:
                    found = {(e.source, e.target): e.estimates for e in estimator.discover(portfolio, graph)}
            except DataError as error:
                failures.append(str(error))
                continue
            for pair, values in found.items():
                estimates.setdefault(pair, {}).update(values)
            skipped |= {(s, t): reason for s, t, reason in getattr(estimator, "skipped", ())}
        self.skipped = [(*pair, reason) for pair, reason in skipped.items() if pair not in estimates]
        if failures and not estimates:
            raise DataError(failures[0])
        means: Scores = {}
        names = dict.fromkeys(name for known in estimates.values() for name in known)
        scores = [
            within_targets(with_known({p: e[name] for p, e in estimates.items() if name in e}, graph, name))
            for name in names
        ]
        for pair in estimates:
            own = [score[pair] for score in scores if pair in score]
            means[pair] = sum(own) / len(own)
        if self.skipped and not means:
            refuse_none(portfolio, self.skipped, "estimated")
        tell_left_out(self, self.skipped)
        told = calibrated(with_known(means, graph, "mean_z"), graph, self.scale)
        return [
            edge_between(
                portfolio[s].descriptor, portfolio[t].descriptor, told[s, t].coefficient, told[s, t].uncertainty,
                evidence=Evidence.ESTIMATED, found_by="mean_z", estimates={**estimates[s, t], "mean_z": means[s, t]},
            )
            for s, t in estimates
        ]  # fmt: skip


def _with_options(choice: Any, shared: dict[str, Any]) -> Any:
    """One of this package's estimators, chosen by name, with the shared options that the choice does not set itself."""
    if isinstance(choice, Choice) and choice.use in OWN:
        return Choice(use=choice.use, options=shared | choice.options)
    return choice
