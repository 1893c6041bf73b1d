"""A new family, published by somebody else, and a package that wraps and composes it: built elsewhere, installed beside
the kernel, used by every command. No kernel file names them.

Their sources in tests/third_party are frozen: they must go on working unchanged, or the API's version is raised and
docs/authors/versions.md says how to move.
"""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.environments import ROOT, Environment

SOURCES = ROOT / "tests" / "third_party"
FAMILY, DOWNSTREAM = "crosstask-calibration", "crosstask-cautious-calibration"


def test_the_sources_are_frozen() -> None:
    """What is changed here breaks every third party in the same way: raise API_VERSION, and say how to move."""
    lines = (SOURCES / "frozen.sha256").read_text("utf-8").splitlines()
    frozen = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    found = {
        path.relative_to(SOURCES).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in (FAMILY, DOWNSTREAM)
        for path in sorted((SOURCES / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert found == frozen


def test_no_kernel_file_names_it() -> None:
    words = ("calibrat", "reliability", "never_worse")
    for file in (ROOT / "kernel" / "src").rglob("*"):
        if file.suffix in (".py", ".json"):
            text = file.read_text("utf-8").lower()
            assert not [word for word in words if word in text.replace("calibration_set", "")], file


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The kernel and the two packages, from wheels built elsewhere; no built-in plugin."""
    made = Environment(tmp_path_factory.mktemp("third"))
    made.install_member("kernel")
    wheels = tmp_path_factory.mktemp("wheels")
    for name in (FAMILY, DOWNSTREAM):
        made.install(made.wheel(SOURCES / name, wheels))
    return made


@pytest.mark.slow
@pytest.mark.packaging
class TestInstalled:
    def test_listed(self, environment: Environment) -> None:
        told = environment.run("crosstask", "plugins")
        assert "calibrator: temperature, vector; stage: calibration; command: reliability" in told
        assert "calibrator: best_of; wrapper: never_worse; recipe: cautious-calibration" in told
        points = {row["point"]: row for row in json.loads(environment.run("crosstask", "plugins", "points", "--json"))}
        assert points["calibrator"]["origin"] == "crosstask-calibration 1.2.0"
        assert points["calibrator"]["components"] == ["best_of", "temperature", "vector"]
        assert points["balancer"]["origin"] == "kernel"
        assert "reliability" in environment.run("crosstask", "--help")

    def test_told_about(self, environment: Environment) -> None:
        info = environment.run("crosstask", "plugins", "info", "stage/calibration")
        assert "bins: int = 10 (>= 2)" in info
        assert "provides for later stages: calibrated" in info
        assert "can be imported" in environment.run("crosstask", "plugins", "why", "vector")
        assert "0 with problems" in environment.run("crosstask", "plugins", "doctor", "--strict")

    def test_checked(self, environment: Environment) -> None:
        told = environment.run("crosstask", "plugins", "check", "calibration")
        assert told.count(" 0 failed") == 3  # two calibrators and the stage
        assert "check_keeps_the_answer" in told
        assert " 0 failed" in environment.run("crosstask", "plugins", "check", "best_of")
        assert " 0 failed" in environment.run("crosstask", "plugins", "check", "never_worse")

    def test_its_own_tests_pass(self, environment: Environment) -> None:
        told = environment.run("python", "-m", "pytest", "-q", SOURCES / FAMILY / "tests", "-p", "no:cacheprovider")
        assert " passed" in told

    def test_scaffolded_from_its_template(self, environment: Environment) -> None:
        environment.run("crosstask", "plugins", "new", "calibrator", "mine", "--into", "projects")
        project = environment.folder / "projects" / "crosstask-mine"
        assert "class Mine(Calibrator)" in (project / "src" / "crosstask_mine" / "mine.py").read_text("utf-8")
        environment.install(project)
        told = environment.run("python", "-m", "pytest", "-q", project, "-p", "no:cacheprovider")
        assert " passed" in told
        environment.run("python", "-m", "pip", "uninstall", "-q", "-y", "crosstask-mine")

    def test_run_shown_and_asked(self, environment: Environment) -> None:
        environment.run("crosstask", "run", "calibration", "--out", "plain", "--set", "calibration.bins=15")
        record = json.loads((environment.folder / "plain" / "run.json").read_text("utf-8"))
        result = record["results"]["calibration"]
        assert set(result["after"]) == {"ten", "even", "loop"}
        assert result["bins"] == 15
        assert record["summary"]["calibration_error_after"] < record["summary"]["calibration_error_before"]
        page = (environment.folder / "plain" / "report.html").read_text("utf-8")
        assert "Expected calibration error" in page
        assert "ten: " in environment.run("crosstask", "reliability", "plain")
        assert record["used"]["crosstask-calibration"] == "1.2.0"

    def test_one_stage_alone(self, environment: Environment) -> None:
        told = environment.run("crosstask", "stage", "calibration", "--recipe", "calibration", "--out", "plain")
        assert "calibration error after" in told

    def test_composed_and_wrapped(self, environment: Environment) -> None:
        shown = json.loads(environment.run("crosstask", "recipe", "show", "cautious-calibration", "--json"))
        assert shown["calibration.calibrator.use"]["value"] == "best_of"
        assert shown["train.steps"]["from"].endswith("site-packages/crosstask_calibration/recipes/calibration.toml")
        environment.run("crosstask", "run", "cautious-calibration", "--out", "careful", "--store", "plain/store.db")
        record = json.loads((environment.folder / "careful" / "run.json").read_text("utf-8"))
        assert record["status"] == "finished"
        assert "best_of" in record["results"]["calibration"]["calibrator"]

    def test_frozen(self, environment: Environment) -> None:
        environment.run("crosstask", "plugins", "freeze", "careful", "--output", "frozen.txt")
        text = (environment.folder / "frozen.txt").read_text("utf-8")
        assert "crosstask-cautious-calibration==0.3.0" in text
        environment.run("crosstask", "run", "cautious-calibration", "--out", "again", "--frozen", "frozen.txt")
        (environment.folder / "frozen.txt").write_text(text.replace("==0.3.0", "==0.4.0"), "utf-8")
        told = environment.run(
            "crosstask", "run", "cautious-calibration", "--out", "no", "--frozen", "frozen.txt", code=2
        )
        assert "crosstask-cautious-calibration is 0.3.0, it names 0.4.0" in told

    def test_readable_without_it(self, environment: Environment) -> None:
        """Last: the family is taken away, and the run stays readable."""
        for name in (FAMILY, DOWNSTREAM):
            environment.run("python", "-m", "pip", "uninstall", "-q", "-y", name)
        before = (environment.folder / "plain" / "run.json").read_text("utf-8")
        environment.run("crosstask", "report", "plain")
        assert (environment.folder / "plain" / "run.json").read_text("utf-8") == before
        assert "This result cannot be shown" in (environment.folder / "plain" / "report.html").read_text("utf-8")
        told = environment.run("crosstask", "run", "calibration", "--out", "no", code=2)
        assert "no recipe named 'calibration'" in told
