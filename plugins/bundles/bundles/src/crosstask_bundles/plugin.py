"""The manifest."""

from crosstask.manifest import Extension, Plugin, Point

PLUGIN = Plugin(
    "bundles",
    api=(2, 0),
    points=[
        Point(
            "publisher",
            "crosstask_bundles.contract:Publisher",
            kit="crosstask_bundles.kit_publisher:PublisherKit",
            template="crosstask_bundles:template_publisher",
            summary="Where bundles of transfer knowledge go",
        ),
        Point(
            "bundle",
            "crosstask_bundles.contract:Carried",
            kit="crosstask_bundles.kit_bundle:BundleKit",
            template="crosstask_bundles:template_bundle",
            summary="A bundle of transfer knowledge that a package carries",
        ),
    ],
    extensions=[
        Extension(
            "publisher",
            "folder",
            "crosstask_bundles.publishers:Folder",
            summary="Files in a folder, none of which replaces another",
            default=True,
        ),
        Extension(
            "publisher",
            "index",
            "crosstask_bundles.publishers:Index",
            summary="A folder with an index of its bundles and their digests",
        ),
        Extension(
            "publisher",
            "http",
            "crosstask_bundles.publishers:Http",
            summary="An HTTP PUT to a server that you name",
            source="RFC 9110 (HTTP Semantics), RFC 9530 (Digest Fields)",
        ),
        Extension(
            "bundle",
            "measured_digits",
            "crosstask_bundles.carried:MeasuredDigits",
            summary="Transfer between five digit tasks, measured with five seeds",
        ),
        Extension(
            "discovery",
            "imported",
            "crosstask_bundles.imported:Imported",
            summary="What others have measured of these tasks, from verified bundles",
        ),
        Extension(
            "stage",
            "bundles",
            "crosstask_bundles.stage:Bundles",
            summary="What others have measured, with its origin and licence",
        ),
        Extension(
            "command",
            "bundle",
            "crosstask_bundles.cli:command",
            summary="Export, verify, import and publish what was learned of transfer.",
        ),
        Extension(
            "recipe",
            "bundles",
            "crosstask_bundles:recipes/bundles.toml",
            summary="Digit tasks of which somebody else has measured most",
        ),
    ],
)
