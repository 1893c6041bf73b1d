"""Files of ratings: what is read of them, what is refused, and the tasks that they become."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError, OptionError
from crosstask_ratings import Ratings, load_ratings

CSV = """user,item,stars,when,about,age,genre
b,x9,4,3,A good book,30,crime
a,x10,2,1,Not so good,,poems
10,x9,5,2,A good book,40,crime
9,x10,1,9,,20,poems
a,x9,3,5,A good book,50,crime
a,x9,1,4,A good book,50,crime
"""
NAMES: dict[str, Any] = {"rating": "stars", "time": "when"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "r.csv"
    path.write_text(CSV, "utf-8")
    return path


def packed(path: Path, **more: Any) -> Path:
    rng = np.random.default_rng(0)
    pairs = np.array([(u, i) for u in range(1, 9) for i in range(1, 41) if rng.random() < 0.25], dtype=np.int32)
    arrays = {
        "ratings": np.column_stack([pairs, rng.integers(1, 11, len(pairs))])[::2],
        "history": pairs,
        "item_title": np.array([b"", *(f"Book {n}".encode() for n in range(1, 41))]),
        "item_year": np.arange(41),
        "user_age": np.arange(9),
    }
    np.savez(path, **{**arrays, **more})
    return path


def test_ids_of_any_type_count_from_one_in_their_order(file: Path) -> None:
    table = load_ratings(file, **NAMES)
    assert table.user_names == ("", "9", "10", "a", "b")  # numbers by their size, before words
    assert table.item_names == ("", "x10", "x9")
    rows = {*zip(table.user.tolist(), table.item.tolist(), table.rating.tolist(), strict=True)}
    assert rows == {(4, 2, 4.0), (3, 1, 2.0), (2, 2, 5.0), (1, 1, 1.0), (3, 2, 3.0)}  # the latest of a, x9
    assert table.ids("user", ["a", 9]).tolist() == [3, 1]
    assert table.ids("item", ["x11", "x9"], unknown="row").tolist() == [0, 2]
    with pytest.raises(DataError, match="unknown item 'x11'; did you mean 'x10'"):
        table.ids("item", ["x11"])


def test_text_and_side_information(file: Path) -> None:
    told = {"user_columns": ("age",), "item_columns": ("genre",), "text": "about", "text_length": 3}
    table = load_ratings(file, **NAMES, **told)
    assert table.text is not None
    assert table.text.shape == (5, 3)
    assert bool((table.text[0] > 0).all())
    assert table.text[3].tolist() == [0, 0, 0]
    assert table.user_features is not None
    ages = np.array([20.0, 40.0, np.nan, 30.0])  # a's first row has none
    wanted = np.nan_to_num((ages - np.nanmean(ages)) / np.nanstd(ages))
    assert table.user_features[1:, 0].tolist() == pytest.approx(wanted.tolist(), abs=1e-6)
    assert table.item_features is not None
    assert sorted(map(tuple, table.item_features.tolist())) == [(0, 0), (0, 1), (1, 0)]


def test_implicit_feedback_and_npz_and_parquet(file: Path, tmp_path: Path) -> None:
    assert load_ratings(file, rating=None).feedback == "implicit"
    assert load_ratings(file, **NAMES, feedback="implicit").rating.tolist() == [1] * 5
    columns = {"user": np.array([3, 1]), "item": np.array([7, 7]), "rating": np.array([1.5, 2.0])}
    np.savez(tmp_path / "r.npz", **columns)
    wanted = load_ratings(tmp_path / "r.npz")
    assert (wanted.user.tolist(), wanted.user_names) == ([2, 1], ("", "1", "3"))
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    parquet.write_table(pyarrow.table(columns), tmp_path / "r.parquet")
    assert load_ratings(tmp_path / "r.parquet").rating.tolist() == wanted.rating.tolist()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"user": "usr"}, "no column 'usr' .user.; did you mean 'user'"),
        ({}, "no column 'rating'.*where there are none, say feedback = .implicit."),
        ({"rating": "about"}, "column 'about' holds .*, which is no number"),
        ({"rating": "age"}, "'age' of row 2 is nan"),
        ({"rating": None, "user": "age"}, "row 2 has no 'age'"),
        ({"rating": None, "item_columns": ("genree",)}, "side information.*did you mean 'genre'"),
    ],
)
def test_a_column_that_is_not_what_it_should_be(file: Path, given: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        load_ratings(file, **given)


def test_a_file_that_is_not_there(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    with pytest.raises(DataError, match=r"no file of ratings 'q.csv'.*'r.csv'"):
        load_ratings("q.csv")
    (file.parent / "r.txt").write_text("x", "utf-8")
    with pytest.raises(DataError, match=r"a file of ratings is \.csv"):
        load_ratings("r.txt")
    with pytest.raises(OptionError, match="unknown kind 'implicitly'; did you mean 'implicit'"):
        load_ratings(file, feedback="implicitly")
    (file.parent / "two.csv").write_text("user,user,item\n1,2,3\n", "utf-8")
    with pytest.raises(DataError, match="two columns 'user'"):
        load_ratings("two.csv", rating=None)
    monkeypatch.chdir("/")
    monkeypatch.setenv("CROSSTASK_DATA", str(file.parent))
    assert len(load_ratings("r.csv", **NAMES)) == 5


def test_the_packed_layout(tmp_path: Path) -> None:
    path = packed(tmp_path / "p.npz")
    table = load_ratings(path, text="item_title", item_columns=("item_year",), user_columns=("user_age",))
    history = load_ratings(path, table="history")
    assert (table.users, table.items, table.feedback, history.feedback) == (8, 40, "explicit", "implicit")
    assert table.item_names[3] == "Book 3"
    assert torch.equal(table.pairs, history.pairs)  # what was read and not rated is no negative
    assert bool(table.has(history.user, history.item).all())
    with pytest.raises(DataError, match="no table 'histroy'; did you mean 'history'"):
        load_ratings(path, table="histroy")
    with pytest.raises(DataError, match="no array 'item_titel'; did you mean 'item_title'"):
        load_ratings(path, text="item_titel")
    with pytest.raises(DataError, match="is of no user and no item"):
        load_ratings(path, text="history")
    with pytest.raises(DataError, match="'item_year' has 20 rows, needed are 41"):
        load_ratings(packed(tmp_path / "q.npz", item_year=np.arange(20)))
    with pytest.raises(DataError, match="count from 1"):
        load_ratings(packed(tmp_path / "z.npz", history=np.array([[0, 1]])))
    with pytest.raises(DataError, match="not finite"):
        load_ratings(packed(tmp_path / "n.npz", ratings=np.array([[1, 2, np.nan]])))
    with pytest.raises(DataError, match="rows of shape"):
        load_ratings(packed(tmp_path / "s.npz", ratings=np.ones((2, 4))))
    named = load_ratings(packed(tmp_path / "t.npz", item_title=np.array([b""] + [b"same"] * 40)))
    assert named.item_names[3] == "3"


def test_a_table_becomes_two_tasks(tmp_path: Path) -> None:
    path = packed(tmp_path / "p.npz")
    options: dict[str, Any] = {"text": "item_title", "item_columns": ("item_year",)}
    source = Ratings(file=str(path), negatives=1, **options)
    portfolio, table = source.load(), source.interactions()
    assert portfolio.ids == ["rating", "reading"]
    rated, read = portfolio["rating"], portfolio["reading"]
    assert {each: len(rated.data(each)) for each in ("train", "validation", "test")} == {
        each: len(rows) for each, rows in source._splits(table).items()
    }
    negatives = set()
    for split in ("train", "validation", "test"):
        data = read.data(split)
        assert isinstance(data.inputs, MultiInput)
        assert set(data.inputs.parts) == {"user_ids", "item_ids", "text_ids", "item_features"}
        known = table.has(data.inputs.parts["user_ids"], data.inputs.parts["item_ids"])
        assert torch.equal(
            known.long(), data.targets.reshape(-1).long()
        )  # never an item that the user has in any split
        pairs = zip(data.inputs.parts["user_ids"].tolist(), data.inputs.parts["item_ids"].tolist(), strict=True)
        own = {pair for pair, there in zip(pairs, known.tolist(), strict=True) if not there}
        assert not own & negatives
        negatives |= own
    assert Ratings(file=str(path), table="history").load().ids == ["reading"]


def test_users_become_tasks_and_some_are_held_back(tmp_path: Path) -> None:
    path = packed(tmp_path / "p.npz")
    portfolio = Ratings(file=str(path), tasks="users", least=3, users=6, item_columns=("item_year",)).load()
    assert (len(portfolio), len(portfolio.unseen)) == (5, 1)
    assert portfolio[portfolio.ids[0]].data().inputs.shape[1] == 3
    with pytest.raises(DataError, match="no user has 99 ratings"):
        Ratings(file=str(path), tasks="users", least=99).load()
    with pytest.raises(OptionError, match="of implicit feedback there are none"):
        Ratings(file=str(path), tasks="users", table="history").load()


def test_the_packed_layout_does_what_is_asked_or_says_no(tmp_path: Path) -> None:
    path = packed(tmp_path / "p.npz")
    assert load_ratings(path, rating=None).feedback == "implicit"
    with pytest.raises(DataError, match="the packed layout has no time"):
        load_ratings(path, time="when")
    with pytest.raises(DataError, match="'history' has no ratings: its feedback is implicit"):
        load_ratings(path, table="history", feedback="explicit")
    with pytest.raises(DataError, match="row 1 of 'ratings' has an id that is no whole number"):
        load_ratings(packed(tmp_path / "q.npz", ratings=np.array([[1, 1, 5], [1.5, 2, 5]])))
    with pytest.raises(DataError, match="'ratings' has no rows"):
        load_ratings(packed(tmp_path / "q.npz", ratings=np.zeros((0, 3))))


@pytest.mark.parametrize(
    ("column", "values", "told"),
    [
        ("rating", [1.0, 2.0, 3.0], "'rating' has 3 rows, 'user' 2"),
        ("rating", [[1.0, 2.0], [2.0, 3.0]], r"'rating' has rows of shape \(2,\), one value each"),
        ("user", [[1], [2]], r"'user' has rows of shape \(1,\), one value each"),
    ],
)
def test_columns_of_an_npz_file_are_of_one_length(tmp_path: Path, column: str, values: Any, told: str) -> None:
    columns = {"user": [1, 2], "item": ["a", "b"], "rating": [1.0, 2.0], column: values}
    np.savez(tmp_path / "r.npz", **columns)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=told):
        load_ratings(tmp_path / "r.npz")


def test_side_information_that_is_not_finite_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("user,item,rating,age,none\n1,1,4,inf,\n2,2,4,5,\n3,3,4,7,\n", "utf-8")
    found = load_ratings(path, user_columns=["age", "none"]).user_features
    assert found is not None
    assert found.tolist() == [[0, 0], [0, 0], [-1, 0], [1, 0]]


def test_columns_that_contradict_are_refused(file: Path) -> None:
    with pytest.raises(OptionError, match="explicit feedback needs a column of ratings"):
        load_ratings(file, rating=None, feedback="explicit")
    with pytest.raises(OptionError, match="user and item are both column 'item'"):
        load_ratings(file, user="item", rating="stars")
    with pytest.raises(DataError, match="where there are none, say feedback"):
        load_ratings(file)
    assert load_ratings(file, feedback="implicit").feedback == "implicit"  # as a recipe says it, which has no None


def test_where_users_have_most_items_there_is_no_reading(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    rows = [f"{user},{item},{(user * item) % 5}" for user in range(1, 5) for item in range(1, 9) if item != user]
    path.write_text("\n".join(["user,item,rating", *rows]), "utf-8")
    with pytest.raises(DataError, match="ask for fewer `negatives`; with 0 there is no task `reading`"):
        Ratings(file=str(path)).load()
    made = Ratings(file=str(path), negatives=0).load()
    assert list(made.ids) == ["rating"]
    assert sum(len(made["rating"].data(split)) for split in ("train", "validation", "test")) == 28
    with pytest.raises(OptionError, match="`reading` alone, which needs negatives"):
        Ratings(file=str(path), negatives=0, feedback="implicit").load()
