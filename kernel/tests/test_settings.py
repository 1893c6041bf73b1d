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
    assert (found.allow, found.deny) == (("a", "b"), ("of-user", "of-project"))
    assert found.prefer == {"rgb": "two", "balancer/x": "three"}
    assert found.origins == {
        "allow": str(user),
        "deny": f"{user}, {project / 'pyproject.toml'}",
        "deny/of-user": str(user),
        "deny/of-project": str(project / "pyproject.toml"),
        "prefer": "CROSSTASK_PREFER",
    }
    more = load_settings({**environment, "CROSSTASK_ALLOW": "x, y,", "CROSSTASK_DENY": "z"}, project)
    assert (more.allow, more.deny) == (("x", "y"), ("of-user", "of-project", "z"))
    assert [more.whence("deny", pattern) for pattern in more.deny] == [
        str(user),
        str(project / "pyproject.toml"),
        "CROSSTASK_DENY",
    ]


def test_a_projects_file_cannot_allow_what_the_user_does_not(tmp_path: Path) -> None:
    """It may lie in a folder above, and be somebody else's."""
    user = tmp_path / "home" / "crosstask" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text('allow = ["crosstask-*", "mine"]\ndeny = ["crosstask-bad"]\n')
    project = tmp_path / "project"
    (project / "inside").mkdir(parents=True)
    (project / "pyproject.toml").write_text('[tool.crosstask]\nallow = ["*"]\ndeny = []\n')
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
    found = load_settings(environment, project / "inside")
    assert found.refuses("bad", "crosstask-bad") == f"denied by 'crosstask-bad' ({user})"
    assert found.refuses("evil", "evil") == f"not in the allow list ({user})"
    assert found.refuses("mine", "mine") is None
    (project / "pyproject.toml").write_text('[tool.crosstask]\nallow = ["mine", "evil"]\n')
    narrowed = load_settings(environment, project)
    assert narrowed.refuses("mine", "mine") is None
    assert narrowed.refuses("rgb", "crosstask-rgb") == f"not in the allow list ({project / 'pyproject.toml'})"
    assert narrowed.refuses("evil", "evil") == f"not in the allow list ({user})"
    once = load_settings({**environment, "CROSSTASK_ALLOW": "evil", "CROSSTASK_DENY": "other"}, project)
    assert once.refuses("evil", "evil") is None, "whoever sets it for one call knows the project"
    assert once.refuses("mine", "mine") == "not in the allow list (CROSSTASK_ALLOW)"
    assert once.refuses("bad", "crosstask-bad") == f"denied by 'crosstask-bad' ({user})"


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


def test_deny_wins_over_allow_and_only_deny_looks_at_the_plugins_own_name() -> None:
    settings = Settings(allow=("rgb", "crosstask-*"), deny=("crosstask-p*", "odd"), origins={"deny": "here"})
    assert settings.refuses("own", "crosstask-gradnorm") is None
    assert settings.refuses("pcgrad", "crosstask-pcgrad") == "denied by 'crosstask-p*' (here)"
    assert settings.refuses("odd", "crosstask-odd") == "denied by 'odd' (here)"
    assert settings.refuses("foreign", "foreign-dist") == "not in the allow list (settings)"
    # its author chose the entry point's name; where it comes from the user chose
    assert settings.refuses("rgb", "evil-dist") == (
        "not in the allow list (settings): it must name the distribution, 'evil-dist', not the plugin"
    )
    assert Settings().refuses("anything", "at-all") is None


@pytest.mark.parametrize("name", ["my_plugin", "My-Plugin", "my.plugin", "MY__.PLUGIN"])
@pytest.mark.parametrize("pattern", ["my-plugin", "My_Plugin", "my.pl*", "MY-?lugin", "my_[a-p]lugin"])
def test_names_and_patterns_are_compared_as_pep_503_says(name: str, pattern: str) -> None:
    assert Settings(deny=(pattern,)).refuses("x", name) == f"denied by {pattern!r} (settings)"
    assert Settings(deny=(pattern,)).refuses(name, "x") == f"denied by {pattern!r} (settings)"
    assert Settings(allow=(pattern,)).refuses("x", name) is None
    assert Settings(allow=(pattern,)).refuses("x", "my-plugin-too" if "*" not in pattern else "mine")


# What plugins are told ------------------------------------------------------------------------------------------------


def test_tables_of_plugins_are_merged_key_by_key_and_the_environment_wins(tmp_path: Path) -> None:
    user = tmp_path / "crosstask" / "config.toml"
    user.parent.mkdir()
    user.write_text('[mlflow]\nuri = "user"\nplace = "home"\n[tracker]\nrate = 0.5\n')
    (tmp_path / "pyproject.toml").write_text(
        '[tool.crosstask]\ndeny = ["x"]\n[tool.crosstask.mlflow]\nuri = "project"\n'
    )
    found = load_settings({"XDG_CONFIG_HOME": str(tmp_path)}, tmp_path)
    assert found.deny == ("x",)
    assert found.table("mlflow", {}) == {"uri": "project", "place": "home"}
    assert found.table("tracker", {}) == {"rate": 0.5}
    environment = {"CROSSTASK_MLFLOW_PLACE": "env", "CROSSTASK_MLFLOW_TOKEN": "t", "CROSSTASK_OTHER_PLACE": "no"}
    assert found.table("mlflow", environment) == {"uri": "project", "place": "env", "token": "t"}
    assert found.table("nobody", environment) == {}
    assert Settings().table("my-tracker", {"CROSSTASK_MY_TRACKER_RATE": "1"}) == {"rate": "1"}


def test_the_process_environment_is_read_when_a_plugin_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(tables={"mlflow": {"uri": "file"}})
    assert settings.table("mlflow") == {"uri": "file"}
    monkeypatch.setenv("CROSSTASK_MLFLOW_URI", "env")
    assert settings.table("mlflow") == {"uri": "env"}


@pytest.mark.parametrize(
    "key",
    [
        "token",
        "api_key",
        "API-KEY",
        "key",
        "apikey",
        "password",
        "passwd",
        "my_secret",
        "credentials",
        "auth",
        "db_dsn",
    ],
)
def test_secrets_are_not_shown(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told = {key: "s3cr3t", "place": "here", "login": {key: "s3cr3t"}, "servers": [{key: "s3cr3t", "port": 1}]}
    settings = Settings(tables={"mlflow": told})
    hidden = "(set, not shown)"
    assert settings.shown("mlflow") == {
        key: hidden, "place": "here", "login": {key: hidden}, "servers": [{key: hidden, "port": 1}],
    }  # fmt: skip
    assert settings.table("mlflow") == told, "the plugin itself is told"
    assert "s3cr3t" not in repr(settings)
    monkeypatch.setenv("CROSSTASK_MLFLOW_TOKEN", "s3cr3t")
    assert "s3cr3t" not in str(settings.shown("mlflow"))


def test_a_login_inside_an_address_is_not_shown_and_ordinary_words_are() -> None:
    told = {"uri": "https://me:s3cr3t@host:5000/x", "monkey": "capuchin", "keys_of": "x", "mail": "a@b.c", "rate": 0.5}
    assert Settings(tables={"t": told}).shown("t") == told | {"uri": "https://(not shown)@host:5000/x"}


def test_folders_of_plugins(tmp_path: Path) -> None:
    user = tmp_path / "home" / "crosstask" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text('plugins_dir = ["mine", "/elsewhere"]\n')
    project = tmp_path / "project"
    project.mkdir()
    environment = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
    found = load_settings(environment, project)
    assert found.plugins_dir == (str(user.parent / "mine"), "/elsewhere"), "relative to the file"
    (project / "pyproject.toml").write_text('[tool.crosstask]\nplugins_dir = ["plugins"]\n')
    found = load_settings(environment, project)
    assert (found.plugins_dir, found.origins["plugins_dir"]) == (
        (str(project / "plugins"),),
        str(project / "pyproject.toml"),
    )
    found = load_settings({**environment, "CROSSTASK_PLUGINS_DIR": "one, /two"}, project)
    assert (found.plugins_dir, found.origins["plugins_dir"]) == (("one", "/two"), "CROSSTASK_PLUGINS_DIR")


@pytest.mark.parametrize(
    "text",
    [
        "[tool.crosstask]\ndeny = ['x']",
        "[tool]\ncrosstask = { deny = ['x'] }",
        "[tool]\ncrosstask.deny = ['x']",
        "[ tool . 'crosstask' ]\ndeny = ['x']",
        "tool.crosstask.deny = ['x']",
        '[tool]\n"crosstask".deny = ["x"]',
    ],
)
def test_the_table_is_found_however_it_is_written(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    assert load_settings({"HOME": str(tmp_path)}, tmp_path).deny == ("x",)


@pytest.mark.parametrize("text", ["tool.crosstask = 3", "[tool]\ncrosstask = 3"])
def test_the_table_must_be_one(tmp_path: Path, text: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    with pytest.raises(OptionError, match=r"pyproject\.toml: tool\.crosstask must be a table, got 3"):
        load_settings({"HOME": str(tmp_path)}, tmp_path)


def test_a_folder_that_is_gone_has_no_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert load_settings({"HOME": str(tmp_path)}).deny == ()
