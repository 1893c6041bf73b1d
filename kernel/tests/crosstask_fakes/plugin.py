"""The fakes' manifest."""

from crosstask.manifest import Extension, Plugin, Point

PLUGIN = Plugin(
    name="fakes",
    api=(2, 0),
    points=[
        Point(
            "chooser",
            "crosstask_fakes.contracts:Chooser",
            kit="crosstask_fakes.kit:ChooserKit",
            template="crosstask_fakes:template",
            summary="Chooses among tasks",
            version=(1, 2),
        ),
    ],
    extensions=[
        Extension("source", "fake", "crosstask_fakes.components:FakeSource", summary="Blobs", default=True),
        Extension("discovery", "fake", "crosstask_fakes.components:FakeDiscoverer", summary="One figure", default=1),
        Extension("curriculum", "fake", "crosstask_fakes.components:FakePlanner", summary="A to Z", default=True),
        Extension("transfer", "fake", "crosstask_fakes.components:FakeTransfer", summary="Goes on", default=True),
        Extension("synthesis", "fake", "crosstask_fakes.components:FakeSynthesizer", summary="Says 0", default=True),
        Extension("balancer", "fake", "crosstask_fakes.components:FakeBalancer", summary="The mean", default=True),
        Extension("observer", "fake", "crosstask_fakes.components:FakeObserver", summary="Listens"),
        Extension("distillation", "fake", "crosstask_fakes.components:FakeDistiller", summary="Means", default=True),
        Extension("wrapper", "fake", "crosstask_fakes.components:FakeWrapper", summary="Turns around"),
        Extension("chooser", "first", "crosstask_fakes.choosers:First", summary="The first ones", default=True),
        Extension("chooser", "last", "crosstask_fakes.choosers:Last", summary="The last ones", aliases=["hindmost"]),
        Extension("stage", "look", "crosstask_fakes.stages:FakeLook", summary="Discovers"),
        Extension("stage", "prepare", "crosstask_fakes.stages:FakePrepare", summary="Makes a model and more"),
        Extension("stage", "measure", "crosstask_fakes.stages:FakeMeasure", summary="Measures a model"),
        Extension("stage", "wild", "crosstask_fakes.stages:FakeWild", summary="Makes what cannot be made again"),
        Extension("recipe", "fakes", "crosstask_fakes:recipes/fakes.toml", summary="All of it", default=True),
        Extension("command", "greet", "crosstask_fakes.cli:command", summary="Say hello."),
    ],
)
