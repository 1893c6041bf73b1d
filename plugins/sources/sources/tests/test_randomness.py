"""Each purpose has random numbers of its own, which are the same in every process."""

import numpy as np

from crosstask_sources import rng_for


def test_the_same_purpose_draws_the_same() -> None:
    assert rng_for(3, "labels", "parity").random(5).tolist() == rng_for(3, "labels", "parity").random(5).tolist()
    assert rng_for(0, "split").permutation(6).tolist() == np.random.default_rng([0, *b"split"]).permutation(6).tolist()


def test_seeds_and_purposes_differ() -> None:
    streams = [rng_for(0, "labels"), rng_for(1, "labels"), rng_for(0, "split"), rng_for(0, "labels", "parity")]
    assert len({stream.random() for stream in streams}) == 4
