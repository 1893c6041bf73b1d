"""The family's own tests: conformance, and the calibration error by hand."""

import pytest
import torch
from crosstask.testing import conformance
from crosstask_calibration.error import calibration_error
from crosstask_calibration.stage import Calibration
from crosstask_calibration.temperature import Temperature
from crosstask_calibration.vector import Vector

test_temperature = conformance(Temperature)
test_vector = conformance(Vector)
test_stage = conformance(Calibration, options={"calibrator": Temperature()})


def test_the_error_of_four_answers():
    # confidences .731 (two, one right) and .881 (two, both right): |.731 - .5| / 2 + |.881 - 1| / 2
    logits = torch.tensor([[1.0, 0.0], [1.0, 0.0], [2.0, 0.0], [2.0, 0.0]])
    labels = torch.tensor([0, 1, 0, 0])
    assert calibration_error(logits, labels) == pytest.approx((0.7310586 - 0.5) / 2 + (1 - 0.8807971) / 2, abs=1e-6)
