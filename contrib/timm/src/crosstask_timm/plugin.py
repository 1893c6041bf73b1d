"""The manifest: imports nothing heavy."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="timm",
    extensions=[
        Extension(
            "source",
            "timm_models",
            "crosstask_timm.models:TimmModels",
            summary="Of a folder, the models that timm has saved",
        ),
        Extension(
            "source",
            "image_folders",
            "crosstask_timm.images:ImageFolders",
            summary="Folders of images, one for each class, as tasks",
        ),
    ],
    api=(2, 0),
)
