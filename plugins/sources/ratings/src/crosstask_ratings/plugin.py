"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="ratings",
    extensions=[
        Extension(
            "source",
            "ratings",
            "crosstask_ratings.ratings:Ratings",
            summary="Your own table of ratings: one table of all, or each user as a task",
        ),
    ],
    api=(2, 0),
)
