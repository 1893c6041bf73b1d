"""Finds the members of this repository when `crosstask` is built.

- The metadata hook makes every member a dependency: `name @ file://…` where the sources lie (a checkout, an
  unpacked sdist, pip's clone of a git URL), or `name==version` in a release: with CROSSTASK_RELEASE=1, and in
  what is built from a release's sdist.
- The build hook acts on `pip install -e` only. The members are then installed like any other dependency,
  which gives their entry points; a .pth puts the sources of the checkout before them on sys.path, so that an
  edit is live.

pip caches a wheel built from `name @ git+…@<full commit>`, and the file:// references in it do not outlive
the first installation: give a branch or a tag, or --no-cache-dir.
"""

import os
import tempfile
import tomllib
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

LIVE = """\
import sys

# Before site-packages, where the members' installed copies lie; a plain line of a .pth would come after it
at = next((index for index, path in enumerate(sys.path) if path.endswith("-packages")), 0)
sys.path[at:at] = {sources}
"""


def members(root: str) -> list[Path]:
    """The folders of the kernel and of every built-in plugin."""
    folders = ("kernel", "plugins/*/*")
    return sorted(file.parent for folder in folders for file in Path(root).glob(f"{folder}/pyproject.toml"))


class MemberDependencies(MetadataHookInterface):
    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        packed = metadata.get("dependencies", [])  # in an sdist: those of the folder that it was made from
        from_release = bool(packed) and not any(" @ " in requirement for requirement in packed)
        release = from_release or os.environ.get("CROSSTASK_RELEASE") == "1"
        metadata["dependencies"] = []
        for folder in members(self.root):
            project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
            source = f"=={project['version']}" if release else f" @ {folder.as_uri()}"
            metadata["dependencies"].append(project["name"] + source)
            if "report" in project.get("optional-dependencies", {}):
                # Beside the line above: pip takes a file:// reference with an extra for no offer of the name without it
                metadata["dependencies"].append(f"{project['name']}[metrics,report]{source}")


class LiveSources(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":
            return
        sources = [str(folder / "src") for folder in members(self.root)]
        self.folder = tempfile.TemporaryDirectory()  # removed with this hook, after the wheel is written
        for name, text in {
            # A module is run once; a .pth is read twice in a virtual environment
            "crosstask.pth": "import _crosstask_live\n",
            "_crosstask_live.py": LIVE.format(sources=sources),
        }.items():
            file = Path(self.folder.name, name)
            file.write_text(text, "utf-8")
            build_data["force_include_editable"][str(file)] = name
