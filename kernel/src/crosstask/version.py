"""The version of the kernel, as in its pyproject.toml (.ci/bump writes both)."""

__version__ = "0.1.0"
