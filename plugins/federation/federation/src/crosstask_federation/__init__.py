"""Learning from sites that keep their data: what leaves them is named, counted and merged."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "LOCAL": "tensors",
    "Federated": "stage",
    "FederatedResult": "records",
    "Federation": "contract",
    "Gathered": "contract",
    "Local": "contract",
    "Lost": "records",
    "PlainSum": "secure",
    "Plan": "rounds",
    "Rounds": "rounds",
    "SecureSum": "secure",
    "SharedEdge": "records",
    "SharedEdges": "edges",
    "SharedEdgesResult": "records",
    "Site": "contract",
    "Split": "splits",
    "State": "contract",
    "begun": "contract",
    "like": "tensors",
    "mean_over": "rounds",
    "named": "tensors",
    "nbytes": "tensors",
    "of_form": "tensors",
    "put": "tensors",
    "split_by_groups": "splits",
    "split_task": "splits",
    "state_of": "tensors",
    "train_at": "training",
    "trained_at": "training",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_federation.contract import Federation, Gathered, Local, Site, State, begun
    from crosstask_federation.edges import SharedEdges
    from crosstask_federation.records import FederatedResult, Lost, SharedEdge, SharedEdgesResult
    from crosstask_federation.rounds import Plan, Rounds, mean_over
    from crosstask_federation.secure import PlainSum, SecureSum
    from crosstask_federation.splits import Split, split_by_groups, split_task
    from crosstask_federation.stage import Federated
    from crosstask_federation.tensors import LOCAL, like, named, nbytes, of_form, put, state_of
    from crosstask_federation.training import train_at, trained_at
