"""Settings: read from three places, later wins, and where each came from is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosstask.errors import OptionError
from crosstask.settings import Settings, load_settings


def test_environment_over_project_over_user(tmp_path: Path) -> None:
    user = tmp_path / "home" / ".config" / "crosstask" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text('deny = ["of-user"]\nallow = ["a", "b"]\n[prefer]\nrgb = "one"\n')
    project = tmp_path / "project"
    (project / "deep" / "inside").mkdir(parents=True)
    (project / "pyproject.toml").write_text('[tool.crosstask]\ndeny = ["of-project"]\n')
    environment = {"HOME": str(tmp_path / "home"), "CROSSTASK_PREFER": "rgb=two, balancer/x = three"}
    found = load_settings(environment, project / "deep" / "inside")
    assert (found.allow, found.deny) == (("a", "b"), ("of-project",))
    assert found.prefer == {"rgb": "two", "balancer/x": "three"}
    assert found.origins == {
        "allow": str(user),
        "deny": str(project / "pyproject.toml"),
        "prefer": "CROSSTASK_PREFER",
    }
    more = load_settings({**environment, "CROSSTASK_ALLOW": "x, y,", "CROSSTASK_DENY": "z"}, project)
    assert (more.allow, more.deny, more.origins["deny"]) == (("x", "y"), ("z",), "CROSSTASK_DENY")


def test_xdg_folder_and_nothing_at_all(tmp_path: Path) -> None:
    (tmp_path / "crosstask").mkdir()
    (tmp_path / "crosstask" / "config.toml").write_text('deny = ["x"]')
    assert load_settings({"XDG_CONFIG_HOME": str(tmp_path)}, Path("/")).deny == ("x",)
    assert load_settings({"HOME": "/nowhere"}, Path("/")) == Settings()


def test_this_folder_and_environment_are_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[tool.other]\n")
    assert load_settings().deny == ()
    (tmp_path / "pyproject.toml").write_bytes(b"[tool.crosstask]\n\xff")
    with pytest.raises(OptionError, match=r"pyproject.toml: cannot be read: 'utf-8' codec"):
        load_settings()


def test_deny_wins_over_allow_and_globs_match_either_name() -> None:
    settings = Settings(allow=("rgb", "crosstask-*"), deny=("crosstask-p*",), origins={"deny": "here"})
    assert settings.refuses("rgb", "other-dist") is None
    assert settings.refuses("own", "crosstask-gradnorm") is None
    assert settings.refuses("pcgrad", "crosstask-pcgrad") == "denied by 'crosstask-p*' (here)"
    assert settings.refuses("foreign", "foreign-dist") == "not in the allow list (settings)"
    assert settings.refuses("RGB") == "not in the allow list (settings)"  # names are matched as they are written
    assert Settings().refuses("anything") is None
