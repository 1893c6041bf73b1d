"""What this distribution offers."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="weighting",
    extensions=[
        Extension(
            "balancer",
            "cosmos",
            "crosstask_weighting.cosmos:COSMOS",
            summary="The weighted sum, pulled toward losses in given proportions",
            source="Ruchte & Grabocka 2021, arXiv:2103.13392",
        ),
        Extension(
            "balancer",
            "dwa",
            "crosstask_weighting.dwa:DWA",
            summary="Favours losses that fall slowly",
            source="Liu, Johns, Davison 2019, arXiv:1803.10704",
        ),
        Extension(
            "balancer",
            "equal",
            "crosstask_weighting.equal:Equal",
            summary="The plain sum of the losses",
            default=True,
        ),
        Extension(
            "balancer",
            "famo",
            "crosstask_weighting.famo:FAMO",
            summary="Lets all losses fall at the same rate, from losses alone",
            source="Liu et al. 2023, arXiv:2306.03792",
        ),
        Extension(
            "balancer",
            "fixed",
            "crosstask_weighting.fixed:Fixed",
            summary="Weights chosen beforehand",
        ),
        Extension(
            "balancer",
            "gls",
            "crosstask_weighting.gls:GLS",
            summary="The geometric mean of the losses",
            source="Chennupati et al. 2019, arXiv:1904.08492",
        ),
        Extension(
            "balancer",
            "imtl_l",
            "crosstask_weighting.imtl_l:IMTLL",
            summary="Learned scales that bring all losses to one size",
            source="Liu et al. 2021, Towards Impartial Multi-task Learning, ICLR",
        ),
        Extension(
            "balancer",
            "pbi",
            "crosstask_weighting.pbi:PBI",
            summary="Losses along a direction, and their distance from it",
            source="Zhang & Li 2007, MOEA/D, IEEE Transactions on Evolutionary Computation",
        ),
        Extension(
            "balancer",
            "rlw",
            "crosstask_weighting.rlw:RLW",
            summary="Random weights in every step",
            source="Lin et al. 2022, arXiv:2111.10603",
        ),
        Extension(
            "balancer",
            "scale_invariant",
            "crosstask_weighting.scale_invariant:ScaleInvariant",
            summary="The sum of the logarithms of the losses",
            source="Navon et al. 2022, arXiv:2202.01017",
        ),
        Extension(
            "balancer",
            "stch",
            "crosstask_weighting.stch:STCH",
            summary="A smooth maximum of the losses",
            source="Lin et al. 2024, arXiv:2402.19078",
        ),
        Extension(
            "balancer",
            "uncertainty",
            "crosstask_weighting.uncertainty:Uncertainty",
            summary="Weights from each task's learned noise",
            source="Kendall, Gal, Cipolla 2018, arXiv:1705.07115",
        ),
    ],
    api=(2, 0),
)
