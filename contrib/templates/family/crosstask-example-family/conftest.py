"""The template in the package has tests of its own, for whoever starts from it: they are not this project's."""

collect_ignore = ["src"]
