"""Features are computed once, wherever a sample stands, within bounds of memory and disk."""

import copy
import pickle

import pytest
import torch

from crosstask.descriptors import MultiInput
from crosstask.errors import DataError, StoreError
from crosstask.store import open_store
from crosstask_zoo import FeatureCache
from crosstask_zoo.cache import KIND, digests

X = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))


class Counting:
    def __init__(self):
        self.seen = []

    def __call__(self, inputs):
        self.seen.append(len(inputs))
        values = inputs if isinstance(inputs, torch.Tensor) else inputs.parts["a"]
        return values * 2 + 1


def test_a_sample_is_computed_once_whatever_its_place_and_batch():
    cache, make = FeatureCache(), Counting()
    assert torch.equal(cache.features("w", X[:20], make), X[:20] * 2 + 1)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert torch.equal(cache.features("w", X[order], make), X[order] * 2 + 1)
    assert torch.equal(cache.features("w", X[[3, 3, 49]], make), X[[3, 3, 49]] * 2 + 1)
    assert make.seen == [20, 30]
    assert (cache.computed, cache.reused) == (50, 23)
    cache.features("other weights", X[:5], make)
    assert make.seen == [20, 30, 5]


def test_a_digest_is_of_values_type_shape_and_name():
    one = digests(X[:2])
    assert one == digests(X[:2].clone())
    assert one[0] != one[1]
    others = [X[:2].double(), X[:2].reshape(2, 3, 1), MultiInput({"a": X[:2]}), MultiInput({"b": X[:2]})]
    assert len({one[0], *(digests(each)[0] for each in others)}) == 5
    two = MultiInput({"a": X[:2], "b": torch.zeros(2, 0)})
    assert digests(two)[0] != digests(MultiInput({"a": X[:2]}))[0]


def test_several_inputs_and_equal_samples_of_one_batch():
    cache, make = FeatureCache(), Counting()
    twice = MultiInput({"a": X[[0, 0, 1]], "b": X[[0, 0, 1]]})
    assert torch.equal(cache.features("w", twice, make), X[[0, 0, 1]] * 2 + 1)
    assert torch.equal(cache.features("w", twice, make), X[[0, 0, 1]] * 2 + 1)
    assert make.seen == [2]
    assert (cache.computed, cache.reused) == (2, 4)


def test_memory_is_bounded_and_what_was_used_last_stays():
    each = 10 * 3 * 4 + 10 * 32
    cache, make = FeatureCache(memory=2 * each), Counting()
    for start in (0, 10):
        cache.features("w", X[start : start + 10], make)
    cache.features("w", X[:10], make)  # used again
    cache.features("w", X[20:30], make)
    assert cache.held <= 2 * each
    cache.features("w", X[:10], make)
    assert make.seen == [10, 10, 10]
    cache.features("w", X[10:20], make)
    assert make.seen == [10, 10, 10, 10]


def test_without_memory_nothing_is_held_and_everything_right():
    cache, make = FeatureCache(memory=0), Counting()
    for _ in range(2):
        assert torch.equal(cache.features("w", X, make), X * 2 + 1)
    assert cache.held == 0


def test_a_store_keeps_them_for_later_runs(tmp_path):
    store, make = open_store(str(tmp_path / "f.db")), Counting()
    FeatureCache(store).features("w", X[:20], make)
    FeatureCache(store).features("w", X[20:40], make)
    later = FeatureCache(store, memory=1)  # nothing stays in memory: it is read again
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        assert torch.equal(later.features("w", X[order], make), X[order] * 2 + 1)
    assert torch.equal(FeatureCache(store).features("w", X[20:40], make), X[20:40] * 2 + 1)  # of one entry
    assert make.seen == [20, 20]
    assert later.computed == 0
    assert torch.equal(later.features("w", X, make), X * 2 + 1)
    assert make.seen == [20, 20, 10]
    store.close()


def test_disk_is_bounded_and_what_was_first_goes(tmp_path):
    each = 10 * 3 * 4 + 10 * 32
    store, make = open_store(str(tmp_path / "f.db")), Counting()
    cache = FeatureCache(store, memory=0, disk=2 * each + 1)
    for start in (0, 10, 20):
        cache.features("w", X[start : start + 10], make)
    assert len(list(store.entries(KIND))) == 2
    cache.features("w", X[10:30], make)
    assert make.seen == [10, 10, 10]
    cache.features("w", X, make)  # larger than all that may be kept
    assert sum(told["bytes"] for _, told in store.entries(KIND)) <= 2 * each
    store.close()


def test_what_others_put_there_or_took_away_does_no_harm(tmp_path):
    store, make = open_store(str(tmp_path / "f.db")), Counting()
    FeatureCache(store).features("w", X[:10], make)
    store.put(KIND, "strange", {"weights": "w", "bytes": 5}, tensors={"rows": torch.zeros(3, 2)})
    store.put(KIND, "stranger", ["no mapping"])
    cache = FeatureCache(store, memory=0)
    cache.features("w", X[:10], make)
    for key, _ in list(store.entries(KIND)):
        store.delete(KIND, key)
    assert torch.equal(cache.features("w", X[:10], make), X[:10] * 2 + 1)
    assert make.seen == [10, 10]
    store.close()


def test_a_store_that_cannot_delete_is_given_no_more_than_it_may_hold(tmp_path, monkeypatch):
    each = 10 * 3 * 4 + 10 * 32
    store, make = open_store(str(tmp_path / "f.db")), Counting()

    def refuse(kind, key):
        raise StoreError("cannot delete")

    monkeypatch.setattr(store, "delete", refuse)
    cache = FeatureCache(store, memory=0, disk=each)
    for start in (0, 10):
        cache.features("w", X[start : start + 10], make)
    assert len(list(store.entries(KIND))) == 1
    store.close()


def test_copies_share_it_and_other_processes_begin_anew():
    cache = FeatureCache(memory=1000)
    cache.features("w", X[:5], Counting())
    assert copy.deepcopy(cache) is cache
    sent = pickle.loads(pickle.dumps(cache))
    assert (sent.memory, sent.held, sent.store) == (1000, 0, None)


def test_what_is_no_row_for_each_sample_is_refused():
    with pytest.raises(DataError, match=r"features of shape \(3, 50\) for 50 samples"):
        FeatureCache().features("w", X, lambda inputs: inputs.T)
    with pytest.raises(DataError, match="memory of a feature cache is a number of bytes, got -1"):
        FeatureCache(memory=-1)


def test_a_sample_that_comes_twice_in_a_batch_is_computed_once_and_found_in_the_store(tmp_path):
    store, make, twice = open_store(str(tmp_path / "s.db")), Counting(), X[[0, 1, 1, 0, 2]]
    for _ in range(2):
        cache = FeatureCache(store)
        assert torch.equal(cache.features("w", twice, make), twice * 2 + 1)
        assert torch.equal(cache.features("w", X[:0], make), X[:0])
    assert [count for count in make.seen if count] == [3]
    assert (cache.computed, cache.reused) == (0, 5)
