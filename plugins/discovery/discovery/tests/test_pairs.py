"""What discoverers say of a pair."""

import pytest
from structlog.testing import capture_logs

from crosstask.descriptors import TaskDescriptor
from crosstask.errors import DataError
from crosstask.graph import Evidence, RelationType, TransferEdge, TransferGraph
from crosstask.points.discovery import Discoverer
from crosstask.tasks import Portfolio, Task
from crosstask_discovery.pairs import edge_between, interval, refuse_none, samples_of, tell_left_out

ONE, OTHER = (TaskDescriptor(task_id=name, output_dim=3) for name in ("one", "other"))


def test_an_edge_has_the_interval_of_its_error() -> None:
    edge = edge_between(ONE, OTHER, 0.3, 0.1, evidence=Evidence.ESTIMATED, found_by="me", estimates={"raw": 4.0})
    assert edge == TransferEdge(
        source="one", target="other", transfer_coefficient=0.3, evidence=Evidence.ESTIMATED, found_by="me",
        relation=RelationType.WEAKLY_SIMILAR, uncertainty=0.1, low=0.3 - 1.96 * 0.1, high=0.3 + 1.96 * 0.1,
        estimates={"raw": 4.0},
    )  # fmt: skip


@pytest.mark.parametrize(("error", "relation"), [(0.1, "independent"), (0.02, "antagonistic")])
def test_what_may_be_noise_is_not_antagonistic(error: float, relation: str) -> None:
    edge = edge_between(ONE, OTHER, -0.05, error, evidence=Evidence.MEASURED, found_by="me")
    assert edge.relation is RelationType(relation)
    assert edge.hurts == (relation == "antagonistic")


@pytest.mark.parametrize(
    ("coefficient", "error", "expected"),
    [(0.9, 0.2, (0.9, 0.508, 1.0)), (1.3, 0.1, (1.0, 1.0, 1.0)), (-1.2, 0.5, (-1.0, -1.0, -0.22)), (0, 2, (0, -1, 1))],
)
def test_all_of_it_stays_inside(coefficient: float, error: float, expected: tuple[float, float, float]) -> None:
    found = interval(coefficient, error)
    assert (found.mean, found.low, found.high) == pytest.approx(expected)


def test_shots_count_per_class() -> None:
    plain = TaskDescriptor(task_id="r", task_type="regression", output_dim=3)
    assert samples_of(ONE, 50, None) == 50
    assert samples_of(ONE, 50, 4) == 12
    assert samples_of(plain, 50, 4) == 50
    assert samples_of(TaskDescriptor(task_id="x"), None, 4) is None


def test_what_is_left_out_is_told_with_its_reasons() -> None:
    class Nobody(Discoverer):
        """Finds nothing."""

        def discover(self, portfolio: Portfolio, graph: TransferGraph) -> list[TransferEdge]:
            return []

    skipped = [("a", "b", "no data"), ("a", "c", "no model"), ("b", "c", "no data")]
    with capture_logs() as told:
        tell_left_out(Nobody(), skipped)
        tell_left_out(Nobody(), [])
    [line] = told
    assert (line["event"], line["count"], line["reasons"]) == ("pairs left out", 3, ["no data", "no model"])
    portfolio = Portfolio([Task(descriptor=ONE)], name="mine")
    with pytest.raises(DataError, match=r"^no pair of portfolio 'mine' can be measured: no data; no model$"):
        refuse_none(portfolio, skipped, "measured")
