"""Recipes: reading, inheriting, overriding, and everything that can be wrong in one."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosstask import RecipeError, Registry
from crosstask.options import unstructure
from crosstask.recipe import load_recipe, recipe_from

BASE = """
name = "base"
seeds = 2
[source]
use = "fake"
count = 3
[[discovery]]
use = "fake"
[transfer]
use = "fake"
fail_on = "x"
[curriculum]
target = "task1"
planner = "fake"
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_recipe_inherits_overrides_and_tells_origins(tmp_path: Path, registry: Registry) -> None:
    base = write(tmp_path, "base.toml", BASE)
    child = write(
        tmp_path,
        "child.toml",
        'extends = "base.toml"\nname = "child"\n[source]\ncount = 5\n[transfer]\nuse = "other"\n',
    )
    found = load_recipe(child, registry, ["budget.steps=7", "curriculum.target=task2", "model.hidden=[4, 4]"])
    recipe = found.recipe
    assert (recipe.name, recipe.seeds, recipe.source.options) == ("child", 2, {"count": 5})
    assert (recipe.transfer.use, recipe.transfer.options) == ("other", {})  # another component: other options
    assert (recipe.budget.steps, recipe.model.hidden) == (7, (4, 4))
    assert recipe.curriculum is not None
    assert (recipe.curriculum.target, recipe.curriculum.planner.use) == ("task2", "fake")
    assert found.origins["seeds"] == str(base)
    assert found.origins["source.count"] == str(child)
    assert found.origins["budget.steps"] == "command line"
    assert "transfer.fail_on" not in found.origins


def test_a_recipe_survives_its_record(tmp_path: Path, registry: Registry) -> None:
    recipe = load_recipe(write(tmp_path, "base.toml", BASE), registry).recipe
    assert recipe_from(unstructure(recipe)) == recipe


def test_a_syntax_error_shows_its_line(tmp_path: Path, registry: Registry) -> None:
    path = write(tmp_path, "bad.toml", 'name = "x"\n[source\nuse = "fake"\n')
    with pytest.raises(RecipeError, match=r"bad\.toml: .*line 2.*\n  2 \| \[source"):
        load_recipe(path, registry)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing option 'source'"),
        ('source = "fake"\nsead = 1', "unknown option 'sead'; did you mean 'seed'"),
        ('source = "fake"\nseed = -1', "seed must be >= 0, got -1"),
        ('source = "fake"\nseed = 1.5', "seed must be an integer, got 1.5"),
        ("source = 3", 'source must be a name, or a table with use = "name"'),
        ('source = "fake"\n[budget]\nsteps = "many"', "steps must be an integer, got 'many'"),
        ('source = "fake"\n[budget]\nstpes = 5', "unknown option 'stpes'; did you mean 'steps'"),
        ('source = "fake"\n[model]\nkind = "mpl"', "kind must be 'mlp', 'conv' or"),
        ('source = "fake"\ndiscovery = "fake"', "discovery must be a list of tables"),
        ('source = "fake"\n[[discovery]]\nname = "fake"', r"discovery\[0\] must be a name, or a table with use"),
        ('source = "fake"\n[curriculum]\nplanner = "fake"', "missing option 'target'"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, registry: Registry, text: str, message: str) -> None:
    path = write(tmp_path, "r.toml", text)
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path, registry)
    assert "r.toml" in str(caught.value)


def test_recipes_that_cannot_be_found(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(RecipeError, match="no recipe file"):
        load_recipe(tmp_path / "none.toml", registry)
    with pytest.raises(RecipeError, match="no recipe named 'dmeo'"):
        load_recipe("dmeo", registry)
    with pytest.raises(RecipeError, match="an override must look like"):
        load_recipe(write(tmp_path, "base.toml", BASE), registry, ["seed"])


def test_recipes_in_a_circle(tmp_path: Path, registry: Registry) -> None:
    write(tmp_path, "a.toml", 'extends = "b.toml"')
    write(tmp_path, "b.toml", 'extends = "a.toml"')
    with pytest.raises(RecipeError, match=r"in a circle: .*a\.toml -> .*b\.toml -> .*a\.toml"):
        load_recipe(tmp_path / "a.toml", registry)
