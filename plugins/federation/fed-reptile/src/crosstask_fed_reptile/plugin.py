"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="fed-reptile",
    api=(2, 0),
    extensions=[
        Extension(
            "federation",
            "fed_reptile",
            "crosstask_fed_reptile.reptile:FedReptile",
            summary="A start between the sites' own weights, from which each adapts by a few steps",
            source="Nichol, Achiam, Schulman (2018), arXiv:1803.02999; Jiang et al. (2019), arXiv:1909.12488",
        ),
        Extension(
            "federation",
            "per_fedavg",
            "crosstask_fed_reptile.per_fedavg:PerFedAvg",
            summary="A start of which each site is judged after a step on its own data",
            source="Fallah, Mokhtari, Ozdaglar (2020), arXiv:2002.07948",
        ),
    ],
)
