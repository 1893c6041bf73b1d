"""What this distribution offers."""

from crosstask.manifest import Extension, Plugin

PLUGIN = Plugin(
    name="composition",
    extensions=[
        Extension(
            "discovery",
            "chain",
            "crosstask_composition.discovery:Chain",
            summary="Discoverers in order, as one: each sees what the ones before it found",
        ),
        Extension(
            "discovery",
            "blend",
            "crosstask_composition.discovery:Blend",
            summary="The weighted mean of what several discoverers say of each pair",
        ),
        Extension(
            "discovery",
            "fallback",
            "crosstask_composition.discovery:Fallback",
            summary="The first discoverer; the next ones for the pairs of which it says nothing",
        ),
        Extension(
            "curriculum",
            "fallback",
            "crosstask_composition.curricula:Fallback",
            summary="The first planner that finds tasks worth learning",
        ),
        Extension(
            "curriculum",
            "interleave",
            "crosstask_composition.curricula:Interleave",
            summary="The rankings of several planners, merged in turn",
        ),
        Extension(
            "balancer",
            "sequence",
            "crosstask_composition.balancers:Sequence",
            summary="Balancers in order: each sees the gradients as the ones before it weighted them",
        ),
        Extension(
            "balancer",
            "blend",
            "crosstask_composition.balancers:Blend",
            summary="The weighted mean of the updates of several balancers",
        ),
        Extension(
            "balancer",
            "normalise",
            "crosstask_composition.balancers:Normalise",
            summary="Scales every task's gradient to the same norm; the first stage of a sequence",
        ),
        Extension(
            "sampler",
            "interleave",
            "crosstask_composition.samplers:Interleave",
            summary="Several samplers, each for its share of the steps",
        ),
        Extension(
            "wrapper",
            "cautious",
            "crosstask_composition.wrappers:Cautious",
            summary="Shrinks every coefficient that was not measured, whichever discoverer found it",
        ),
        Extension(
            "wrapper",
            "smooth",
            "crosstask_composition.wrappers:Smooth",
            summary="Smooths the task weights of any balancer over the steps",
        ),
        Extension(
            "recipe",
            "balanced-adapters",
            "crosstask_composition:recipes/balanced-adapters.toml",
            summary="Four digit tasks on one frozen trunk: PCGrad balances the LoRA on it",
        ),
        Extension(
            "recipe",
            "continual-adapters",
            "crosstask_composition:recipes/continual-adapters.toml",
            summary="Digits in five lessons: EWC and replay keep a LoRA from forgetting",
        ),
        Extension(
            "recipe",
            "searched-multitask",
            "crosstask_composition:recipes/searched-multitask.toml",
            summary="A network found for one task is the trunk of four",
        ),
        Extension(
            "recipe",
            "continual-curriculum",
            "crosstask_composition:recipes/continual-curriculum.toml",
            summary="Digit tasks in sequence, in the order of a curriculum",
        ),
        Extension(
            "recipe",
            "distilled-few-shot",
            "crosstask_composition:recipes/distilled-few-shot.toml",
            summary="Prototypes that start from a distilled encoder",
        ),
        Extension(
            "recipe",
            "adapted-maml",
            "crosstask_composition:recipes/adapted-maml.toml",
            summary="MAML that adapts a LoRA on a frozen encoder",
        ),
    ],
    api=(2, 0),
)
