"""Recipes: reading, inheriting, overriding, stages' tables and their order, and everything that can be wrong in one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from crosstask import RecipeError, Registry
from crosstask import recipe as recipe_module
from crosstask import registry as registry_module
from crosstask.manifest import Extension, Plugin
from crosstask.options import unstructure
from crosstask.parts import Reference
from crosstask.recipe import StageTable, bind, load_recipe, recipe_from

BASE = """
name = "base"
seeds = 2
[source]
use = "fake"
count = 3
[look]
discoverers = ["fake"]
[transfer]
use = "fake"
fail_on = "x"
[prepare]
task = "task1"
chooser = { use = "first", share = 0.5 }
"""


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def order(registry: Registry, **stages: Any) -> list[str]:
    """The tables of a recipe in the order in which they run."""
    recipe = recipe_from({"source": "fake", **stages}, registry)
    return [each.name for each in bind(recipe, registry)]


def test_a_recipe_inherits_overrides_and_tells_origins(tmp_path: Path, registry: Registry) -> None:
    base = write(tmp_path, "base.toml", BASE)
    child = write(
        tmp_path,
        "child.toml",
        'extends = "base.toml"\nname = "child"\n[source]\ncount = 5\n[transfer]\nuse = "other"\n'
        "[prepare]\nscale = 2.0\n",
    )
    found = load_recipe(child, registry, ["budget.steps=7", "prepare.task=task2", "model.hidden=[4, 4]"])
    recipe = found.recipe
    assert (recipe.name, recipe.seeds, recipe.source.options) == ("child", 2, {"count": 5})
    assert (recipe.transfer.use, recipe.transfer.options) == ("other", {})  # another component: other options
    assert (recipe.budget.steps, recipe.model.hidden) == (7, (4, 4))
    assert recipe.stages == {
        "look": StageTable("look", {"discoverers": ["fake"]}),
        "prepare": StageTable("prepare", {"task": "task2", "chooser": {"use": "first", "share": 0.5}, "scale": 2.0}),
    }
    assert found.origins["seeds"] == str(base)
    assert found.origins["source.count"] == str(child)
    assert found.origins["prepare.scale"] == str(child)
    assert found.origins["prepare.task"] == found.origins["budget.steps"] == "command line"
    assert "transfer.fail_on" not in found.origins


def test_every_value_is_told_those_of_stages_too(tmp_path: Path, registry: Registry) -> None:
    path = write(tmp_path, "base.toml", BASE + '[again]\nuse = "look"\n[wild]\n[other]\nuse = "bare"\n[bare]\n')
    registry.register(Plugin("bare", [Extension("stage", "bare", "crosstask_fakes.stages:FakeBare")], api=(2, 0)))
    told = load_recipe(path, registry, ["prepare.scale=3.0"]).table()
    assert told["prepare.task"] == ("task1", str(path))
    assert told["prepare.scale"] == (3.0, "command line")
    assert told["prepare.withhold"] == ("", "default")
    assert told["prepare.chooser.share"] == (0.5, str(path))
    assert told["again.use"] == ("look", str(path))
    assert told["again.discoverers"] == ([], "default")
    assert told["budget.steps"] == (100, "default")
    assert told["transfer.use"] == ("fake", str(path))
    assert told["executor.use"] == ("default", "default")
    assert told["wild.size"] == (2, "default"), "its table is empty"
    assert "wild" not in told
    assert told["bare"][0] == {}, "which has no options at all"
    assert "extends" not in told


def test_a_recipe_survives_its_record(tmp_path: Path, registry: Registry) -> None:
    twice = BASE + '[prepare2]\nuse = "prepare"\n[measure]\nmodel = { from = "prepare2", take = "model" }\n'
    recipe = load_recipe(write(tmp_path, "base.toml", twice), registry).recipe
    plain = unstructure(recipe)
    assert recipe_from(plain, registry) == recipe
    assert plain["prepare2"] == {"use": "prepare"}
    assert plain["measure"] == {"model": {"from": "prepare2", "take": "model"}}
    assert "stages" not in plain


def test_a_recipe_of_a_plugin_is_found_by_its_name(registry: Registry) -> None:
    recipe = load_recipe("fakes", registry).recipe
    assert list(recipe.stages) == ["prepare", "measure", "look"]
    assert [each.name for each in bind(recipe, registry)] == ["prepare", "look", "measure"]
    assert load_recipe(registry.default("recipe"), registry).recipe == recipe


def test_a_syntax_error_shows_its_line(tmp_path: Path, registry: Registry) -> None:
    path = write(tmp_path, "bad.toml", 'name = "x"\n[source\nuse = "fake"\n')
    with pytest.raises(RecipeError, match=r"bad\.toml: .*line 2.*\n  2 \| \[source"):
        load_recipe(path, registry)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "missing option 'source'"),
        ('source = "fake"\nsead = 1', "unknown table or key 'sead'; did you mean 'seed'"),
        ('source = "fake"\n[mesure]', "unknown table or key 'mesure'; did you mean 'measure'"),
        ('source = "fake"\n[x]\nuse = "mesure"', r"\[x\]: no stage named 'mesure'; did you mean 'measure'"),
        ('source = "fake"\n[x]\nuse = 3', "x: use must be the name of a stage, got 3"),
        ('source = "fake"\nlook = "fake"', r"look is a stage: its options stand in a table \[look\], got 'fake'"),
        ('source = "fake"\n[[look]]\nuse = "fake"', r"look is a stage: its options stand in a table \[look\], got \[{"),
        ('source = "fake"\nseed = -1', "seed must be >= 0, got -1"),
        ('source = "fake"\nseed = 1.5', "seed must be an integer, got 1.5"),
        ("source = 3", 'source must be a name, or a table with use = "name"'),
        ('source = "fake"\n[budget]\nsteps = "many"', "steps must be an integer, got 'many'"),
        ('source = "fake"\n[budget]\nstpes = 5', "unknown option 'stpes'; did you mean 'steps'"),
        ('source = "fake"\n[model]\nkind = "mpl"', "kind must be 'mlp', 'conv' or"),
        ('source = "fake"\nwrappers = "fake"', "wrappers must be a list of tables"),
        ('source = "fake"\n[[observers]]\nname = "fake"', r"observers\[0\] must be a name, or a table with use"),
        ('source = "fake"\n[prepare]\nscale = 0', r"\[prepare\]: scale must be > 0, got 0"),
        ('source = "fake"\n[prepare]\nsacle = 1', r"\[prepare\]: unknown option 'sacle'; did you mean 'scale'"),
        ('source = "fake"\n[look]\ndiscoverers = [{ coefficient = 1 }]', r"\[look\]: discoverers\[0\] must be a name"),
        ('source = "fake"\n[prepare2]\nuse = "prepare"\nscale = "big"', r"\[prepare2\]: scale must be a number, got"),
        ('extends = 3\nsource = "fake"', "extends must be a recipe's name or path, got 3"),
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
    with pytest.raises(RecipeError, match="no recipe named 'faeks'; did you mean 'fakes'"):
        load_recipe("faeks", registry)
    with pytest.raises(RecipeError, match="an override must look like"):
        load_recipe(write(tmp_path, "base.toml", BASE), registry, ["seed"])


def test_recipes_in_a_circle(tmp_path: Path, registry: Registry) -> None:
    write(tmp_path, "a.toml", 'extends = "b.toml"')
    write(tmp_path, "b.toml", 'extends = "a.toml"')
    with pytest.raises(RecipeError, match=r"in a circle: .*a\.toml -> .*b\.toml -> .*a\.toml"):
        load_recipe(tmp_path / "a.toml", registry)


# Stages that cannot be used -------------------------------------------------------------------------------------------


def test_a_stage_that_a_known_package_has_is_named_with_it(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_module, "packages", lambda: {"stage/few_shot": "crosstask-meta"})
    for table in ({"few_shot": {}}, {"mine": {"use": "few_shot"}}):
        with pytest.raises(
            RecipeError, match=r"\[\w+\]: no stage named 'few_shot' is installed; pip install crosstask-m"
        ):
            recipe_from({"source": "fake", **table}, registry)


def test_a_stage_that_cannot_be_used_says_why(registry: Registry) -> None:
    registry.register(
        Plugin("x", [Extension("stage", "later", "crosstask_fakes.stages:FakeLook")], api=(2, 9)), distribution="x-dist"
    )
    with pytest.raises(RecipeError, match=r"\[later\]: stage 'later' of x-dist cannot be used: incompatible: made for"):
        recipe_from({"source": "fake", "later": {}}, registry)


def test_a_former_name_of_a_stage_is_read_with_one_warning(registry: Registry, tmp_path: Path) -> None:
    old = Extension("stage", "gaze", "crosstask_fakes.stages:FakeLook", aliases=["stare"])
    registry.register(Plugin("x", [old], api=(2, 0)))
    path = write(tmp_path, "r.toml", 'source = "fake"\n[stare]\ndiscoverers = ["fake"]\n')
    with pytest.warns(FutureWarning, match="stage 'stare' is now called 'gaze'") as told:
        found = load_recipe(path, registry)
    assert len(told) == 1
    assert found.recipe.stages == {"stare": StageTable("gaze", {"discoverers": ["fake"]})}
    assert recipe_from(unstructure(found.recipe), registry) == found.recipe  # which is written under the new name


# Twice, and alone -----------------------------------------------------------------------------------------------------


def test_one_stage_twice(registry: Registry) -> None:
    recipe = recipe_from(
        {"source": "fake", "prepare": {}, "other": {"use": "prepare", "scale": 2.0}, "look": {}}, registry
    )
    bound = bind(recipe, registry)
    assert [(each.name, each.stage.name, each.stage.options().get("scale")) for each in bound] == [
        ("prepare", "prepare", 1.0),
        ("other", "prepare", 2.0),
        ("look", "look", None),
    ]
    assert [each.stage.before for each in bound] == [(), ("prepare",), ("prepare", "prepare")]


def test_a_stage_that_the_recipe_lacks_gets_an_empty_table_if_it_is_asked_for(
    tmp_path: Path, registry: Registry
) -> None:
    path = write(tmp_path, "r.toml", 'source = "fake"\n[prepare]\nscale = 2.0\n')
    assert list(load_recipe(path, registry).recipe.stages) == ["prepare"]
    found = load_recipe(path, registry, ["measure.task=task1"], stage="measure").recipe.stages
    assert found == {
        "prepare": StageTable("prepare", {"scale": 2.0}),
        "measure": StageTable("measure", {"task": "task1"}),
    }
    assert load_recipe(path, registry, stage="prepare").recipe.stages == {
        "prepare": StageTable("prepare", {"scale": 2.0})
    }


# Order ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", list(itertools.permutations(["wild", "prepare", "wild2"])))
def test_without_a_reason_the_recipes_order_is_kept(registry: Registry, names: tuple[str, ...]) -> None:
    tables: dict[str, Any] = {"wild": {}, "prepare": {}, "wild2": {"use": "wild"}}
    assert order(registry, **{name: tables[name] for name in names}) == list(names)


def test_what_a_stage_comes_after_comes_first_where_both_are_there(registry: Registry) -> None:
    assert order(registry, measure={}, wild={}, look={}) == ["wild", "look", "measure"]
    assert order(registry, measure={}, wild={}) == ["measure", "wild"]
    assert order(registry, measure={}, early={"use": "look"}, late={"use": "look"}) == ["early", "late", "measure"]


def test_what_a_stage_refers_to_comes_first(registry: Registry) -> None:
    model = {"from": "prepare", "take": "model"}
    assert order(registry, measure={"model": model}, wild={}, prepare={}) == ["wild", "prepare", "measure"]
    chain = {"m3": {"use": "measure", "chosen": {"from": "m2"}}, "m2": {"use": "measure", "chosen": {"from": "m1"}}}
    assert order(registry, **chain, m1={"use": "measure"}) == ["m1", "m2", "m3"]


def test_a_circle_names_its_members_and_no_others(registry: Registry) -> None:
    def after(name: str) -> dict[str, Any]:
        return {"use": "measure", "chosen": {"from": name}}

    with pytest.raises(RecipeError, match=r"these stages wait for one another: one -> three -> two -> one$"):
        order(
            registry,
            waiting=after("two"), one=after("three"), free={"use": "measure"}, two=after("one"), three=after("two"),
        )  # fmt: skip


# References -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("measure", "said"),
    [
        (
            {"model": {"from": "perpare"}},
            "[measure]: model: the recipe has no stage 'perpare' before it; did you mean 'prepare'? Valid: look, pre",
        ),
        ({"chosen": {"from": "measure"}}, "chosen: the recipe has no stage 'measure' before it"),
        (
            {"model": {"from": "prepare", "take": "modle"}},
            "[measure]: model: stage 'prepare' provides no 'modle'; did you mean 'model'? Valid: centre, means, model, "
            "names, told",
        ),
        (
            {"model": {"from": "prepare", "take": "centre"}},
            "[measure]: model: 'centre' of stage 'prepare' is a Tensor, a Module is needed; it provides model",
        ),
        (
            {"chosen": {"from": "prepare", "take": "means"}},
            "a tuple[str, ...] is needed; it provides names",
        ),
        ({"centre": {"from": "look", "take": "edges"}}, "a Tensor is needed; it provides nothing of that kind"),
        ({"model": {"from": "prepare", "give": 1}}, "[measure]: model: a reference has no 'give'; valid: from, take"),
        ({"model": "prepare"}, "[measure]: model must be a Module, got 'prepare'"),
    ],
)
def test_a_reference_that_leads_nowhere(registry: Registry, measure: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        order(registry, prepare={}, look={}, measure=measure)
    assert said in str(caught.value)


def test_a_reference_is_to_a_table_whatever_its_stage_is_called(registry: Registry) -> None:
    recipe = recipe_from(
        {"source": "fake", "w": {"use": "wild"}, "measure": {"model": {"from": "w", "take": "net"}}}, registry
    )
    bound = bind(recipe, registry)
    assert bound[1].stage.references()["model"][0] == Reference("w", "net")


def test_a_stage_knows_which_of_its_artifacts_are_wanted(registry: Registry) -> None:
    linked = {"model": {"from": "prepare"}, "chosen": {"from": "prepare", "take": "names"}}
    recipe = recipe_from(
        {"source": "fake", "prepare": {}, "measure": linked, "wild": {}, "again": {"use": "measure", **linked}},
        registry,
    )
    taken = {each.name: each.stage.taken for each in bind(recipe, registry)}
    assert taken == {
        "prepare": {"model", "names"},
        "measure": frozenset(),
        "wild": frozenset(),
        "again": frozenset(),
    }


def test_a_reference_is_replaced_whole_by_inheritance(tmp_path: Path, registry: Registry) -> None:
    linked = '[measure]\nchosen = { from = "prepare", take = "names" }\n'
    write(tmp_path, "base.toml", f'source = "fake"\n[prepare]\n[m]\nuse = "measure"\n{linked}')

    def inherited(text: str, *overrides: str) -> Any:
        child = write(tmp_path, "child.toml", f'extends = "base.toml"\n[measure]\n{text}\n')
        return load_recipe(child, registry, overrides)

    found = inherited('chosen = { from = "m" }')  # without `take`, which is not that of before
    assert found.recipe.stages["measure"].options == {"chosen": {"from": "m"}}
    assert "measure.chosen.take" not in found.origins
    assert inherited('chosen = ["x"]').recipe.stages["measure"].options == {"chosen": ["x"]}
    assert inherited("", 'measure.chosen={ from = "m" }').recipe.stages["measure"].options == {"chosen": {"from": "m"}}
    write(tmp_path, "base.toml", 'source = "fake"\n[prepare]\n[measure]\nchosen = ["x"]\n')
    assert inherited('chosen = { from = "prepare", take = "names" }').recipe.stages["measure"].options == {
        "chosen": {"from": "prepare", "take": "names"}
    }


def test_a_component_that_is_replaced_loses_its_options_and_one_that_is_not_keeps_them(
    tmp_path: Path, registry: Registry
) -> None:
    write(tmp_path, "base.toml", BASE)

    def chooser(text: str) -> Any:
        child = write(tmp_path, "child.toml", f'extends = "base.toml"\n[prepare]\nchooser = {text}\n')
        return load_recipe(child, registry).recipe.stages["prepare"].options["chooser"]

    assert chooser('{ use = "last" }') == {"use": "last"}
    assert chooser('"last"') == "last"
    assert chooser("{ share = 0.25 }") == {"use": "first", "share": 0.25}


def test_prefer_of_a_recipe_decides_between_stages(registry: Registry, tmp_path: Path) -> None:
    for name, kind in (("one", "FakeWild"), ("two", "FakeBare")):
        twin = Extension("stage", "twin", f"crosstask_fakes.stages:{kind}")
        registry.register(Plugin(name, [twin], api=(2, 0)), distribution=name)
    text = 'source = "fake"\n[twin]\n'
    with pytest.raises(RecipeError, match="'twin' is offered by one and two; choose with prefer"):
        load_recipe(write(tmp_path, "twin.toml", text), registry)
    preferring = write(tmp_path, "prefer.toml", f'{text}[prefer]\n"stage/twin" = "one"\n')
    assert load_recipe(preferring, registry).defaults == {"twin": {"size": 2}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[prepare]\nscale = inf", "prepare.scale must be a finite number, got inf"),
        ("[prepare]\nchooser = { use = 'first', share = nan }", "chooser.share must be a finite number, got nan"),
        ("[model]\nhidden = [8, -inf]", r"model.hidden\[1\] must be a finite number, got -inf"),
        ("[prepare]\ntask = 2026-01-01", "prepare.task must not be a date or a time alone, got 2026-01-01"),
    ],
)
def test_what_a_runs_record_would_not_give_back(tmp_path: Path, registry: Registry, text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        load_recipe(write(tmp_path, "r.toml", f'source = "fake"\n{text}\n'), registry)


def test_what_is_extended_cannot_be_set(tmp_path: Path, registry: Registry) -> None:
    with pytest.raises(RecipeError, match="extends cannot be set"):
        load_recipe(write(tmp_path, "r.toml", 'source = "fake"\n'), registry, ["extends=fakes"])


@pytest.mark.parametrize(
    ("given", "kind", "suits"),
    [
        (int, Any, True),
        (bool, int | None, True),
        (str, int | None, False),
        (tuple[str, ...], tuple[str, ...] | None, True),
        (tuple[int, ...], tuple[str, ...], False),
        (int, bool, False),
    ],
)
def test_which_types_of_what_is_provided_an_option_takes(given: Any, kind: Any, suits: bool) -> None:
    assert recipe_module._suits(given, kind) == suits
