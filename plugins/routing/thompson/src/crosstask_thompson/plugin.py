"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="thompson",
    api=(2, 0),
    extensions=[
        Extension(
            "router",
            "thompson",
            "crosstask_thompson.thompson:LinearThompson",
            summary="The tool that is best in a draw from what is believed of all",
            source="Agrawal, Goyal 2013, ICML, arXiv:1209.3352, algorithm 1",
        ),
    ],
)
