"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="fed-statistics",
    api=(2, 0),
    extensions=[
        Extension(
            "federation",
            "statistics",
            "crosstask_fed_statistics.statistics:FedStatistics",
            summary="A head in closed form from sums of features, exactly that of all data in one place",
            source="Hoerl, Kennard (1970), ridge regression; Fisher (1936), linear discriminants",
        ),
    ],
)
