"""What this package offers does what the contracts say."""

import atexit
import shutil
import tempfile

from crosstask.testing import conformance, reference_registry
from crosstask_bundles import Bundles, Folder, Http, Imported, Index
from crosstask_bundles.carried import MeasuredDigits
from crosstask_bundles.testing import REFERENCE, serving

_made = tempfile.mkdtemp(prefix="crosstask-publishers-")
_server = serving()
atexit.register(shutil.rmtree, _made, ignore_errors=True)
_url = _server.__enter__().url
atexit.register(_server.__exit__, None, None, None)  # before threads are stopped, which it waits for
registry = reference_registry(REFERENCE)

test_folder = conformance(Folder, options={"folder": f"{_made}/folder"}, registry=registry)
test_index = conformance(Index, options={"folder": f"{_made}/index"}, registry=registry)
test_http = conformance(Http, options={"url": _url}, registry=registry)
test_carried = conformance(MeasuredDigits, registry=registry)
test_imported = conformance(Imported, options={"bundles": [str(MeasuredDigits().file())]}, registry=registry)
test_stage = conformance(Bundles, options={"bundles": [str(MeasuredDigits().file())]}, registry=registry)
