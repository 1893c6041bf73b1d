"""The manifest: imports nothing heavy."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="zoo",
    extensions=[
        Extension(
            "source",
            "zoo",
            "crosstask_zoo.source:ZooSource",
            summary="A folder of saved models as tasks, beside the tasks of your data",
        ),
        Extension(
            "source",
            "transformers_models",
            "crosstask_zoo.transformers_models:TransformersModels",
            summary="Of a folder, the models that transformers has saved",
        ),
    ],
    api=(2, 0),
)
