"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="lifelong",
    extensions=[
        Extension(
            "stage",
            "lifelong",
            "crosstask_lifelong.stage:Lifelong",
            summary="Tasks arrive one by one, each is measured against few sources, and knowledge grows",
            source="Ruvolo & Eaton (2013), active task selection for lifelong machine learning",
        ),
        Extension(
            "recipe",
            "lifelong",
            "crosstask_lifelong:recipes/lifelong.toml",
            summary="Ten digit tasks arrive one by one, beside sources chosen at random",
        ),
    ],
    api=(2, 0),
)
