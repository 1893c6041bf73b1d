"""The index of plugins: its format, where it comes from, that a hostile one does nothing, and the search in it."""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import crosstask.cli
from crosstask import OptionError, PluginError, Registry, Settings, UnknownComponentError
from crosstask import registry as registry_module
from crosstask.recipe import recipe_from
from crosstask.registry import Indexed, load_index, named_index, parse_index
from crosstask.settings import load_settings
from crosstask_fakes.registry import with_fakes

OFFERS = {
    "balancer/rgb": {"install": "crosstask-rgb", "summary": "Rotates gradients toward their consensus"},
    "balancer/default": {"install": "crosstask-rgb"},
    "balancer/pcgrad": {"install": "crosstask-jacobian", "summary": "Projects conflicting gradients"},
    "point/router": {"install": "crosstask-routing", "summary": "Plans over tools"},
    "recipe/heal": {"install": "crosstask-monitoring"},
    "command/monitor": {"install": "crosstask-monitoring", "summary": "Watch a stream", "later": "ignored"},
    "stage/heal": {"install": "crosstask-monitoring"},
}


def text(offers: object = OFFERS, version: object = 1) -> str:
    return json.dumps({"crosstask_index": version, "offers": offers, "made_by": "us"})


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "index.json"
    path.write_text(text())
    return path


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    yield
    named_index.cache_clear()


# The file -------------------------------------------------------------------------------------------------------------


def test_an_index_is_read_by_path_and_by_address(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = load_index(str(index))
    assert found["balancer/rgb"] == Indexed("crosstask-rgb", "Rotates gradients toward their consensus")
    assert found["recipe/heal"].summary == ""
    assert load_index(index.as_uri()) == found
    monkeypatch.setenv("HOME", str(index.parent))
    assert load_index("~/index.json") == found


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", "is not JSON: JSONDecodeError"),
        ("import os; os.system('touch x')", "is not JSON"),
        ("[" * 100_000, "is not JSON: RecursionError"),
        ("[]", "is no index of plugins: it needs crosstask_index = 1 and offers"),
        ("{}", "is no index of plugins"),
        ('{"balancer/rgb": "crosstask-rgb"}', "is no index of plugins"),
        (text(version=True), "is no index of plugins"),
        (text(version="1"), "is no index of plugins"),
        (text(offers=[]), "is no index of plugins"),
        (text(version=2), "is of version 2; this crosstask reads version 1"),
        (text({"rgb": {"install": "x"}}), "'rgb' must be point/name"),
        (text({"a/b c": {"install": "x"}}), "must be point/name"),
        (text({"a/b\n": {"install": "x"}}), "must be point/name"),
        (text({"a/b": {"install": "x", "summary": 3}}), "its summary a text"),
        (text({"a/b": "x"}), "install must be a distribution's name, such as crosstask-mine; got None"),
        (text({"a/b": {}}), "got None"),
        (text({"a/b": {"install": "x; rm -rf /"}}), "got 'x; rm -rf /'"),
        (text({"a/b": {"install": "-r evil.txt"}}), "got '-r evil.txt'"),
        (text({"a/b": {"install": "--index-url=http://evil"}}), "install must be"),
        (text({"a/b": {"install": "git+https://evil/x"}}), "install must be"),
        (text({"a/b": {"install": "x\nrm"}}), "install must be"),
        (text({"a/b": {"install": "x" * 1000}}), "install must be"),
    ],
)
def test_a_broken_or_hostile_index_is_one_line(tmp_path: Path, given: str, told: str) -> None:
    path = tmp_path / "index.json"
    path.write_text(given)
    with pytest.raises(PluginError) as caught:
        load_index(str(path))
    assert told in str(caught.value)
    assert str(caught.value).startswith(f"the index {str(path)!r}")
    assert len(str(caught.value).splitlines()) == 1
    assert len(str(caught.value)) < 400
    assert [each.name for each in tmp_path.iterdir()] == ["index.json"]


def test_what_an_index_says_is_cut_and_does_nothing_to_the_terminal(index: Path, installed: Registry) -> None:
    index.write_text(text({"a/evil": {"install": "x", "summary": "\x1b]0;owned\x07" + "y" * 5000}}))
    assert len(load_index(str(index))["a/evil"].summary) == 300
    told = search("evil", "--index", str(index))[1]
    assert "\x1b" not in told
    assert "\\x1b]0;owned" in told


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("http://example.org/index.json", "give a path, or an address that begins with file:// or https://"),
        ("ftp://example.org/index.json", "give a path, or an address"),
        ("nowhere.json", "cannot be read: No such file"),
        ("file:///nowhere.json", "cannot be read: No such file"),
        ("https://", "cannot be read"),
        ("https://[::1", "cannot be read"),
        ("nul\0", "cannot be read"),
        (".", "is no file"),
    ],
)
def test_an_index_that_cannot_be_had(where: str, told: str) -> None:
    with pytest.raises(PluginError, match=told) as caught:
        load_index(where)
    assert len(str(caught.value).splitlines()) == 1


def test_what_never_ends_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PluginError, match="is no file"):
        load_index(str(tmp_path / "pipe"))
    monkeypatch.setattr(registry_module, "_LARGEST_INDEX", 10)
    (tmp_path / "large").write_text(text())
    with pytest.raises(PluginError, match="is larger than 10 bytes"):
        load_index(str(tmp_path / "large"))


class Site(BaseHTTPRequestHandler):
    """Answers as an https server would; the tests take the encryption away, and nothing else."""

    def do_GET(self) -> None:
        places = {"/away": "http://127.0.0.1/index.json", "/on": "https://127.0.0.1:%d/index.json"}
        if place := places.get(self.path):
            self.send_response(302)
            self.send_header("Location", place.replace("%d", str(self.connection.getsockname()[1])))
            self.end_headers()
            return
        self.send_response(200 if self.path == "/index.json" else 404)
        self.end_headers()
        if self.path == "/index.json":
            self.wfile.write(text().encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    class Plain(http.client.HTTPConnection):
        def __init__(self, *arguments: Any, context: Any = None, check_hostname: Any = None, **options: Any) -> None:
            super().__init__(*arguments, **options)

    monkeypatch.setattr(http.client, "HTTPSConnection", Plain)
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with HTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_an_index_of_an_https_address_and_never_of_an_open_one(site: str, index: Path) -> None:
    assert load_index(f"{site}/index.json") == load_index(str(index)) == load_index(f"{site}/on")
    with pytest.raises(PluginError, match=r"leads on to 'http://127.0.0.1/index.json', which is not https"):
        load_index(f"{site}/away")
    with pytest.raises(PluginError, match="cannot be read: HTTP Error 404"):
        load_index(f"{site}/none")


# The setting ----------------------------------------------------------------------------------------------------------


def test_the_users_file_and_the_environment_name_an_index(tmp_path: Path) -> None:
    user = tmp_path / "crosstask" / "config.toml"
    user.parent.mkdir()
    user.write_text('[plugins]\nindex = "mine.json"\n[mine]\nkey = 1\n')
    environment = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)}
    found = load_settings(environment, tmp_path)
    assert (found.index, found.origins["index"]) == (str(user.parent / "mine.json"), str(user))
    assert found.tables == {"mine": {"key": 1}}
    user.write_text('plugins = {index = "https://example.org/index.json"}')
    assert load_settings(environment, tmp_path).index == "https://example.org/index.json"
    later = load_settings({**environment, "CROSSTASK_PLUGINS_INDEX": "x.json"}, tmp_path)
    assert (later.index, later.origins["index"]) == ("x.json", "CROSSTASK_PLUGINS_INDEX")


@pytest.mark.parametrize("wrong", ["plugins = 3", "[plugins]\nindex = 3", "[plugins]\nfolder = 'x'", "[plugins]"])
def test_a_wrong_table_of_plugins(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "crosstask").mkdir()
    (tmp_path / "crosstask" / "config.toml").write_text(wrong)
    with pytest.raises(OptionError, match=r"\[plugins\] has one key, index, a path or an address; got"):
        load_settings({"XDG_CONFIG_HOME": str(tmp_path)}, tmp_path)


def test_a_project_names_no_index(tmp_path: Path) -> None:
    """It could say to everybody who works below it what to install."""
    (tmp_path / "pyproject.toml").write_text('[tool.crosstask.plugins]\nindex = "https://evil.example/index.json"')
    with pytest.raises(OptionError, match=r"plugins.index cannot be set by a project: .* CROSSTASK_PLUGINS_INDEX"):
        load_settings({"XDG_CONFIG_HOME": str(tmp_path / "x")}, tmp_path)


# Errors ---------------------------------------------------------------------------------------------------------------


def test_errors_say_what_to_install_by_the_users_index(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = with_fakes(Settings(index=str(index)))
    with pytest.raises(UnknownComponentError, match="no balancer named 'rgb' is installed; pip install crosstask-rgb"):
        found.find("balancer", "rgb")
    with pytest.raises(UnknownComponentError, match="extension point 'router'; pip install crosstask-routing brings"):
        found.point("router")
    with pytest.raises(OptionError, match=r"\[heal\]: no stage named 'heal' .* pip install crosstask-monitoring"):
        recipe_from({"source": "fake", "heal": {}}, found)
    monkeypatch.setattr(registry_module, "packages", lambda: {"balancer/rgb": "ours"})
    assert found.offered("balancer/rgb") == "ours", "ours comes first"
    assert found.offered("balancer/none") == ""


def test_what_an_index_names_is_not_ours(index: Path) -> None:
    """Manifests of strangers are read in another process, whatever somebody's index says."""
    record = with_fakes(Settings(index=str(index))).plugins()[0]
    record.entry_point, record.distribution = "x", "crosstask-rgb"
    assert record.is_foreign


def test_errors_do_without_an_index_that_cannot_be_read() -> None:
    found = with_fakes(Settings(index="nowhere.json"))
    with (
        pytest.warns(RuntimeWarning, match=r"the index 'nowhere.json' cannot be read"),
        pytest.raises(UnknownComponentError, match="no balancer named 'rgb'; valid"),
    ):
        found.find("balancer", "rgb")
    with pytest.raises(UnknownComponentError):  # said once
        found.find("balancer", "rgb")


# The search -----------------------------------------------------------------------------------------------------------


def search(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(crosstask.cli.cli, ["plugins", "search", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit | PluginError), result.exception
    return result.exit_code, result.output


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch, installed: Registry) -> None:
    monkeypatch.setattr(registry_module, "shipped_index", lambda: parse_index(text(), "ours"))


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("rgb", ["balancer/rgb"]),
        ("balancer/rgb", ["balancer/rgb"]),
        ("RGB", ["balancer/rgb"]),
        ("router", ["point/router"]),
        ("heal", ["recipe/heal", "stage/heal"]),
        ("monitor", ["command/monitor", "recipe/heal", "stage/heal"]),
        ("gradients", ["balancer/rgb", "balancer/pcgrad"]),
        ("gradients conflict", ["balancer/pcgrad"]),
        ("crosstask-routing", ["point/router"]),
        ("balancer", ["balancer/rgb", "balancer/pcgrad"]),
    ],
)
@pytest.mark.usefixtures("ours")
def test_search_finds_names_before_words(asked: str, names: list[str]) -> None:
    code, told = search(asked, "--json")
    found = json.loads(told)
    assert code == 0
    assert [f"{row['point']}/{row['name']}" for row in found["found"]] == names
    assert found["near"] == []


@pytest.mark.usefixtures("ours")
def test_search_shows_what_comes_nearest() -> None:
    code, told = search("balancer/pcgard")
    assert code == 1
    assert told == (
        "nothing is called 'balancer/pcgard', or says so of itself; what comes nearest:\n"
        "balancer pcgrad: Projects conflicting gradients\n  pip install crosstask-jacobian\n"
    )
    code, told = search("projects conflicting optimisation")
    assert (code, told) == (
        1,
        "nothing is called 'projects conflicting optimisation', or says so of itself; what comes nearest:\n"
        "balancer pcgrad: Projects conflicting gradients\n  pip install crosstask-jacobian\n",
    ), "what has most of the words"
    assert search("zzzz yyyy") == (1, "nothing is called 'zzzz yyyy', or says so of itself\n")
    code, told = search("zzzz")
    assert (code, told) == (1, "nothing is called 'zzzz', or says so of itself\n")
    assert json.loads(search("pcgard", "--json")[1])["near"][0]["install"] == "crosstask-jacobian"


@pytest.mark.usefixtures("ours")
def test_search_says_what_is_installed_and_which_index_says_it(tmp_path: Path, installed: Registry) -> None:
    mine = tmp_path / "mine.json"
    mine.write_text(text({"balancer/rgb": {"install": "crosstask_fakes", "summary": "Mine"}}))
    told = search("rgb", "--index", str(mine))[1]
    assert told == (
        "balancer rgb: Rotates gradients toward their consensus\n  pip install crosstask-rgb\n"
        f"balancer rgb: Mine  (by {mine})\n  installed: crosstask_fakes\n"
    )
    object.__setattr__(installed.settings, "index", str(mine))
    assert search("rgb")[1] == told, "the setting"
    mine.write_text("{")
    result = CliRunner().invoke(crosstask.cli.cli, ["plugins", "search", "rgb"])
    assert "is not JSON" in str(result.exception), "whoever searches is told"
