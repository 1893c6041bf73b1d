"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="detectors",
    api=(2, 0),
    extensions=[
        Extension(
            "detector",
            "e_process",
            "crosstask_detectors.betting:EProcess",
            summary="A bet on a drop at any time: the chance of ever a false alarm is bounded",
            source="Waudby-Smith, Ramdas 2024, JRSS B 86(1), arXiv:2010.09686; Ville 1939",
            default=True,
        ),
        Extension(
            "detector",
            "e_detector",
            "crosstask_detectors.betting:EDetector",
            summary="Bets that begin at every record, added up: quicker, false alarms are rare but come",
            source="Shin, Ramdas, Rinaldo 2024, NEJSDS 2(2), arXiv:2203.03532",
        ),
        Extension(
            "detector",
            "cusum",
            "crosstask_detectors.cusum:CUSUM",
            summary="Cumulative sums of standardised losses, also of scores without limits",
            source="Page 1954, Biometrika 41; Siegmund 1985, Sequential Analysis, (10.17)",
        ),
    ],
)
