"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="fedavg",
    api=(2, 0),
    extensions=[
        Extension(
            "federation",
            "fedavg",
            "crosstask_fedavg.fedavg:FedAvg",
            summary="Sites train, and the server takes the mean of their weights by their samples",
            source="McMahan et al. (2017), arXiv:1602.05629; Li et al. (2020), arXiv:1812.06127",
            default=True,
        ),
    ],
)
