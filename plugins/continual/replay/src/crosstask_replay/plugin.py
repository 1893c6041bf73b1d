"""The manifest."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="replay",
    extensions=[
        Extension(
            "continual",
            "replay",
            "crosstask_replay.replay:Replay",
            summary="Learns kept samples of earlier tasks beside the new ones",
            source="Chaudhry et al. (2019), On Tiny Episodic Memories in Continual Learning",
        ),
        Extension(
            "continual",
            "der++",
            "crosstask_replay.der:DERPlusPlus",
            summary="Replays samples with their labels and the outputs they once had",
            source="Buzzega et al. (2020), Dark Experience for General Continual Learning",
        ),
        Extension(
            "continual",
            "agem",
            "crosstask_replay.agem:AGEM",
            summary="Projects gradients that would raise the loss of kept samples",
            source="Chaudhry et al. (2019), Efficient Lifelong Learning with A-GEM",
        ),
        Extension(
            "continual",
            "gem",
            "crosstask_replay.gem:GEM",
            summary="Projects gradients that would raise the loss of any earlier task's kept samples",
            source="Lopez-Paz and Ranzato (2017), Gradient Episodic Memory for Continual Learning",
        ),
    ],
    api=(2, 0),
)
