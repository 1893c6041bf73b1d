"""Checks of publishers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crosstask.testing.kit import Call, CheckFailure, Kit, expect, refused
from crosstask_bundles.bundle import Bundle
from crosstask_bundles.contract import Publisher
from crosstask_bundles.errors import BundleError
from crosstask_bundles.testing import published, small_bundle


class PublisherKit(Kit):
    """What is published is there, whole, and stays as it is.

    The answer is a path or a URL that can be read. Give options under which it may write, such as a temporary folder. A
    `twin(bundle)` returns the answer.
    """

    point = "publisher"

    def inputs(self) -> dict[str, Any]:
        return {"bundle": small_bundle()}

    def exercise(self, component: Any, call: Call, inputs: dict[str, Any]) -> Any:
        return call("publish", **inputs)

    def sent(self, *bundles: Bundle) -> list[str]:
        """Where one publisher has put these bundles, in a run."""
        publisher: Publisher = self.make()
        with self.run(publisher):
            return [publisher.send(bundle) for bundle in bundles]

    def found(self, where: str) -> Bundle:
        """What is there."""
        try:
            return published(where)
        except (BundleError, OSError) as error:
            raise CheckFailure(f"{self.name}: {where} is no bundle that can be read: {error}") from error

    def check_arrives_whole(self) -> None:
        """What is at the answer is the bundle, byte for byte."""
        bundle = small_bundle()
        (where,) = self.sent(bundle)
        there = self.found(where)
        expect(there.path.read_bytes() == bundle.path.read_bytes(), f"{self.name}: {where} is not what was published")

    def check_twice_changes_nothing(self) -> None:
        """Publishing the same once more gives the same answer, and what is there stays as it was."""
        bundle = small_bundle("twice")
        publisher: Publisher = self.make()
        with self.run(publisher):
            first = publisher.send(bundle)
            before = self.found(first).digest
            again = publisher.send(bundle)
        expect(first == again, f"{self.name}: the same bundle is at {first}, and again at {again}")
        expect(self.found(again).digest == before, f"{self.name}: publishing {first} once more has changed it")

    def check_replaces_nothing(self) -> None:
        """Another bundle of the same name leaves the first where it is."""
        one, other = small_bundle("namesake", 0.3), small_bundle("namesake", 0.4)
        where = self.sent(one, other)
        expect(where[0] != where[1], f"{self.name}: two bundles of one name are both at {where[0]}")
        expect(
            self.found(where[0]).digest == one.digest, f"{self.name}: another bundle of its name replaced {where[0]}"
        )

    def check_names_lead_nowhere(self) -> None:
        """A bundle's name leads into no other folder: control characters, slashes and dots in it are no path."""
        plain, strange = self.sent(small_bundle(), small_bundle("../../up\\<b>\x1b[31m\n"))
        folders = [where.rpartition("/")[0] if "://" in where else str(Path(where).resolve().parent) for where in
                   (plain, strange)]  # fmt: skip
        expect(folders[0] == folders[1], f"{self.name}: a name has led it from {folders[0]} to {folders[1]}")

    def check_refuses_what_is_damaged(self) -> None:
        """A file that is no bundle is refused."""
        file = small_bundle().path.with_name("damaged.ctb")
        data = bytearray(small_bundle().path.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        publisher: Publisher = self.make()
        with self.run(publisher), refused(f"{self.name}.send of a damaged bundle", BundleError):
            publisher.send(file)

    def check_agrees_with_twin(self) -> None:
        """Its answer is the twin's."""
        assert self.subject.twin is not None
        bundle = small_bundle()
        (ours,), theirs = self.sent(bundle), self.subject.twin(bundle)
        expect(ours == theirs, f"{self.name} answers {ours}, its twin {theirs}")
