"""Thompson sampling draws as often as it believes."""

from statistics import NormalDist

import numpy as np
import pytest

from crosstask.errors import PluginError
from crosstask_thompson import LinearThompson


def test_it_chooses_a_tool_as_often_as_that_is_believed_to_be_the_best() -> None:
    """Two tools whose beliefs are normal numbers: P(b > a) in closed form."""
    router, x = LinearThompson(spread=0.5), np.ones(1)
    for tool, reward, count in (("a", 0.6, 4), ("b", 0.4, 2)):
        for _ in range(count):
            router.update(x, tool, reward)
    means = np.array([4 * 0.6 / 5, 2 * 0.4 / 3])
    deviation = 0.5 * np.sqrt(1 / 5 + 1 / 3)
    wanted = NormalDist().cdf((means[1] - means[0]) / deviation)
    decisions = [router.choose(x, ("a", "b")) for _ in range(3000)]
    assert np.allclose(decisions[0].estimates, means)
    assert np.mean([d.tool == "b" for d in decisions]) == pytest.approx(wanted, abs=0.03)
    assert decisions[0].exploration == pytest.approx(wanted, abs=0.08)  # from 256 draws


def test_random_numbers_of_another_kind_are_refused() -> None:
    state = LinearThompson().state_dict()
    with pytest.raises(PluginError, match="not the state of its random numbers"):
        LinearThompson().load_state_dict({**state, "rng": {"bit_generator": "MT19937"}})
