"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="fed-gradients",
    api=(2, 0),
    extensions=[
        Extension(
            "federation",
            "gradients",
            "crosstask_fed_gradients.gradients:FedGradients",
            summary="Sites send the gradient of their loss, and a balancer combines them",
            source="McMahan et al. (2017), FedSGD, arXiv:1602.05629; Hu et al. (2022), FedMGDA+, arXiv:2006.11489",
        ),
    ],
)
