"""Videos of scikit-learn's digits, and a small model of them with everything that the objectives read."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

_PUBLIC = {
    "MovingDigits": "videos",
    "VideoModel": "model",
    "aggregation_demo": "demo",
    "flow_demo": "demo",
    "moving_digits": "videos",
    "video_model": "model",
}

__all__ = list(_PUBLIC)

__getattr__ = lazily(__name__, _PUBLIC)

if TYPE_CHECKING:
    from crosstask_moving_digits.demo import aggregation_demo, flow_demo
    from crosstask_moving_digits.model import VideoModel, video_model
    from crosstask_moving_digits.videos import MovingDigits, moving_digits
