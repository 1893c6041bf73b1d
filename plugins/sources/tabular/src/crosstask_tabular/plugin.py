"""The manifest of the plugin (not that of a user's folder: that is `manifest.py`)."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="tabular",
    extensions=[
        Extension(
            "source",
            "tabular",
            "crosstask_tabular.tabular:Tabular",
            summary="Your own tasks: a folder of CSV, NPZ or Parquet files with a TOML manifest",
        ),
    ],
    api=(2, 0),
)
