"""Learning samples of earlier tasks again."""

from typing import TYPE_CHECKING

from crosstask.lazy import lazily

if TYPE_CHECKING:
    from crosstask_replay.agem import AGEM
    from crosstask_replay.der import DERPlusPlus
    from crosstask_replay.gem import GEM
    from crosstask_replay.replay import Replay

__all__ = ["AGEM", "GEM", "DERPlusPlus", "Replay"]

__getattr__ = lazily(__name__, {"AGEM": "agem", "DERPlusPlus": "der", "GEM": "gem", "Replay": "replay"})
