"""`crosstask bundle`: what one environment has learned of transfer, for another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crosstask.cli.common import emit_json, emit_table, json_option, say

if TYPE_CHECKING:
    from crosstask_bundles.bundle import Bundle

_FILE = click.Path(path_type=Path, dir_okay=False)
_signers = click.option("--signers", type=_FILE, help="Allowed signers (see ssh-keygen): it must be signed by one.")


@click.group()
def command() -> None:
    """Export, verify, import and publish what was learned of transfer."""


@command.command("export")
@click.argument("source")
@click.argument("file", type=_FILE)
@click.option("--name", help="What the bundle is called.  [default: as the run is]")
@click.option("--licence", "--license", default="", help="SPDX expression, such as CC-BY-4.0.")
@click.option("--licence-file", "--license-file", type=_FILE, help="Its text.")
@click.option("--weights", is_flag=True, help="With the tasks' own models.")
@click.option("--measured", is_flag=True, help="Only what was measured, nothing estimated or predicted.")
@click.option("--sign", "key", type=_FILE, help="A private key of SSH's, with which ssh-keygen signs it.")
@click.option("--text", is_flag=True, help="Written as lines of text, for mail and version control.")
@json_option
def export_(
    source: str,
    file: Path,
    name: str | None,
    licence: str,
    licence_file: Path | None,
    weights: bool,
    measured: bool,
    key: Path | None,
    text: bool,
    as_json: bool,
) -> None:
    """Write a bundle of SOURCE: the folder of a run or of a saved engine, a store (path or URL), or a graph's file."""
    from crosstask_bundles.bundle import write_bundle
    from crosstask_bundles.errors import BundleError
    from crosstask_bundles.exporting import export

    words = ""
    if licence_file is not None:
        try:
            words = licence_file.read_text("utf-8")
        except (OSError, ValueError) as error:
            raise BundleError(f"{licence_file} cannot be read: {error}") from None
    manifest = export(source, weights=weights, guesses=not measured, name=name, licence=licence, licence_text=words)
    _tell(write_bundle(manifest, file, sign=key, text=text), as_json, "wrote")
    if not licence and not as_json:
        say("no licence is stated: without one nobody may pass it on (--licence)", err=True)


@command.command()
@click.argument("file", type=_FILE)
@_signers
@json_option
def verify(file: Path, signers: Path | None, as_json: bool) -> None:
    """Verify a bundle: its structure, the digest of every member, its signature, its manifest. Exit status 2 if it is
    not what it says.
    """
    from crosstask_bundles.bundle import open_bundle

    _tell(open_bundle(file, signers=signers), as_json, "verified")


@command.command("import")
@click.argument("file", type=_FILE)
@click.option("--store", "url", help="Store (a path or URL) whose runs know it from now on.")
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), help="Folder to unpack it into.")
@_signers
@json_option
def import_(file: Path, url: str | None, into: Path | None, signers: Path | None, as_json: bool) -> None:
    """Verify a bundle and take it over: into a store, whose runs then find it by the discoverer `imported` or the table
    [bundles], or into a folder. Nothing is overwritten, nothing in it is run.
    """
    from crosstask.registry import Registry
    from crosstask.store import open_store
    from crosstask_bundles.bundle import open_bundle
    from crosstask_bundles.keeping import keep

    if url is None and into is None:
        raise click.UsageError("say where it goes: --store URL, --into FOLDER, or both")
    bundle = open_bundle(file, signers=signers)
    done: dict[str, Any] = {}
    if into is not None:
        done["files"] = [str(path) for path in bundle.extract(into)]
    if url is not None:
        store = open_store(url, registry=Registry.installed())
        try:
            done["new"] = keep(bundle, store)
        finally:
            store.close()
    if as_json:
        emit_json({**_told(bundle), **done})
        return
    _tell(bundle, False, "verified")
    if "files" in done:
        say(f"{len(done['files'])} files in {into}")
    if "new" in done:
        how = "runs with this store know it: by the discoverer `imported`, or the table [bundles] of a recipe"
        say(how if done["new"] else "the store knew it already")


@command.command()
@click.argument("file", type=_FILE)
@click.option("--to", "name", help="Publisher.  [default: folder]")
@click.option("--set", "options", multiple=True, metavar="KEY=VALUE", help="An option of the publisher.")
@json_option
def publish(file: Path, name: str | None, options: tuple[str, ...], as_json: bool) -> None:
    """Verify a bundle and put it where others find it, such as `--to http --set url=https://…`."""
    from typing import cast

    from crosstask.context import LocalContext
    from crosstask.manifest import DEFAULT
    from crosstask.parts import Choice
    from crosstask.registry import Registry
    from crosstask_bundles.bundle import open_bundle
    from crosstask_bundles.contract import Publisher

    given: dict[str, Any] = {}
    for each in options:
        key, sign, value = each.partition("=")
        if not sign:
            raise click.UsageError(f"--set wants KEY=VALUE, got {each!r}")
        given[key] = _value(value)
    context = LocalContext(registry=Registry.installed())
    publisher = cast(Publisher, context.resolve("publisher", Choice(use=name or DEFAULT, options=given)))
    bundle = open_bundle(file)
    where = publisher.send(bundle)
    if as_json:
        emit_json({**_told(bundle), "where": where})
        return
    say(f"published {bundle.short}: {where}")


def _value(text: str) -> Any:
    """A value as TOML would have it; a bare word is text."""
    import tomllib

    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _told(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "file": str(bundle.path),
        "name": manifest.name,
        "digest": bundle.digest,
        "licence": manifest.licence,
        "created": manifest.created,
        "run": manifest.origin.run_id,
        "made_by": manifest.origin.made_by,
        "signature": bundle.signature,
        "signed_by": bundle.signed_by,
        "tasks": len(manifest.tasks),
        "recognisable_tasks": sum(task.content is not None or task.fingerprint is not None for task in manifest.tasks),
        "evidence": manifest.evidence(),
        "knowledge": len(manifest.knowledge),
        "curricula": len(manifest.curricula),
        "weights": len(manifest.weights),
        "adapters": len(manifest.adapters),
    }


def _tell(bundle: Bundle, as_json: bool, done: str) -> None:
    told = _told(bundle)
    if as_json:
        emit_json(told)
        return
    from rich.table import Table

    signed = bundle.signed_by or ("there, not asked for (--signers)" if bundle.signature else "none")
    told |= {"signature": signed, "evidence": ", ".join(f"{n} {kind}" for kind, n in told["evidence"].items())}
    table = Table("", "", title=f"{done} {bundle.short}", show_header=False)
    for name, value in told.items():
        if name not in ("signed_by", "name"):
            table.add_row(name.replace("_", " "), str(value) or "none stated")
    emit_table(table)
