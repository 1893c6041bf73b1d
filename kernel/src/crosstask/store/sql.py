"""The built-in store: any database of SQLAlchemy's (SQLite and PostgreSQL are tested), weights as safetensors."""

from __future__ import annotations

import datetime
import functools
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from crosstask.components import Remembered
from crosstask.errors import StoreError
from crosstask.options import component
from crosstask.points.store import Store, StoreOpener, check_kind

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 1
_MEMORY = (None, "", ":memory:")

_metadata = sa.MetaData()
_about = sa.Table("crosstask", _metadata, sa.Column("version", sa.Integer, primary_key=True))
_PREFIX = "crosstask_"


@functools.cache
def _table_of(kind: str) -> sa.Table:
    """The table of a kind: it is made when something of that kind is first asked for."""
    return sa.Table(
        _PREFIX + check_kind(kind),
        sa.MetaData(),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("key", sa.String(64), unique=True, nullable=False),
        sa.Column("run_id", sa.String(64), nullable=False, index=True),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("weights", sa.String(80)),
    )


@component
class SqlStoreOpener(StoreOpener):
    """Opens any SQLAlchemy URL, or a path (SQLite)."""

    def open(self, url: str, weights: Path | None) -> Store:
        return SqlStore(url, weights)


class SqlStore(Store):
    """See `Store`. Weight files are named by the digest of their content and written under a temporary name first."""

    def __init__(self, url: str, weights: Path | None = None) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._known: set[str] = set()
        try:
            parsed = sa.make_url(url if "://" in url else f"sqlite:///{url}")
            self._engine = sa.create_engine(parsed, **_engine_options(parsed))
            if parsed.get_backend_name() == "sqlite" and parsed.database not in _MEMORY:
                Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
            self.weights = weights or self._default_weights()
            self.url = parsed.render_as_string(hide_password=True)
            self._prepare()
        except sa.exc.ArgumentError:
            raise StoreError(
                f"not a store: {url!r} (expected a path or a URL such as postgresql+psycopg://…)"
            ) from None
        except (sa.exc.SQLAlchemyError, ImportError, OSError) as error:
            raise StoreError(f"cannot open the store {url!r}: {_cause(error)}") from error

    def _default_weights(self) -> Path:
        """A folder beside an SQLite file, in the current folder for a server, for a while if all is in memory."""
        url = self._engine.url
        if url.get_backend_name() != "sqlite":
            return Path("crosstask.weights")
        if url.database in _MEMORY:
            self._temporary = tempfile.TemporaryDirectory(prefix="crosstask-")
            return Path(self._temporary.name)
        return Path(str(url.database)).with_suffix(".weights")

    def _prepare(self) -> None:
        self._create(_about)
        with self._engine.begin() as connection:
            connection.execute(self._insert(_about).values(version=SCHEMA_VERSION).on_conflict_do_nothing())
            version = connection.execute(sa.select(sa.func.max(_about.c.version))).scalar_one()
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"the store {self.url} was written by a newer crosstask (version {version}; this one reads up to "
                f"{SCHEMA_VERSION}); upgrade crosstask or use another store"
            )

    def _insert(self, table: sa.Table) -> Any:
        dialect = postgresql if self._engine.dialect.name == "postgresql" else sqlite
        return dialect.insert(table)

    def _create(self, table: sa.Table) -> None:
        """Two processes may make a table at once: the loser of the race finds it there afterwards."""
        try:
            with self._engine.begin() as connection:
                table.create(connection, checkfirst=True)
        except sa.exc.DBAPIError:
            if not sa.inspect(self._engine).has_table(table.name):
                raise

    def _table(self, kind: str) -> sa.Table:
        table = _table_of(kind)
        if kind not in self._known:
            try:
                self._create(table)
            except sa.exc.SQLAlchemyError as error:
                raise StoreError(f"cannot make a table in the store {self.url}: {_cause(error)}") from error
            self._known.add(kind)
        return table

    def kinds(self) -> list[str]:
        """Every kind of which the store has a table."""
        names = sa.inspect(self._engine).get_table_names()
        return sorted(name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))

    def get(self, kind: str, key: str) -> Remembered | None:
        table = self._table(kind)
        with self._engine.connect() as connection:
            row = connection.execute(sa.select(table.c.payload, table.c.weights).where(table.c.key == key)).first()
        if row is None:
            return None
        return Remembered(json.loads(row.payload), self._read(row.weights, kind, key) if row.weights else {})

    def put(
        self,
        kind: str,
        key: str,
        payload: Any,
        *,
        tensors: Mapping[str, torch.Tensor] | None = None,
        run_id: str = "",
        replace: bool = False,
    ) -> None:
        table = self._table(kind)
        values = {
            "key": key,
            "run_id": run_id,
            "created": datetime.datetime.now(datetime.UTC),
            "payload": json.dumps(payload, allow_nan=False),
            "weights": self._write(tensors) if tensors else None,
        }
        statement = self._insert(table).values(values)
        if replace:
            statement = statement.on_conflict_do_update(index_elements=["key"], set_=values)
        else:
            statement = statement.on_conflict_do_nothing(index_elements=["key"])
        try:
            with self._engine.begin() as connection:
                connection.execute(statement)
        except sa.exc.SQLAlchemyError as error:
            raise StoreError(f"cannot write to the store {self.url}: {_cause(error)}") from error

    def entries(self, kind: str) -> Iterator[tuple[str, Any]]:
        table = self._table(kind)
        with self._engine.connect() as connection:
            for row in connection.execute(sa.select(table.c.key, table.c.payload).order_by(table.c.number)):
                yield row.key, json.loads(row.payload)

    def close(self) -> None:
        self._engine.dispose()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _write(self, tensors: Mapping[str, torch.Tensor]) -> str:
        from safetensors.torch import save

        # Cloned: safetensors refuses tensors that share memory, and a tied weight is then simply written twice.
        data = save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()})
        name = f"{hashlib.sha256(data).hexdigest()[:40]}.safetensors"
        path = self.weights / name
        if not path.exists():
            try:
                self.weights.mkdir(parents=True, exist_ok=True)
                handle, temporary = tempfile.mkstemp(dir=self.weights, suffix=".part")
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(temporary).replace(path)
            except OSError as error:
                raise StoreError(f"cannot write weights to {self.weights}: {error.strerror or error}") from error
        return name

    def _read(self, name: str, kind: str, key: str) -> dict[str, torch.Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load

        path = self.weights / name
        remedy = f"delete the entry with `Store.delete({kind!r}, {key!r})` to have it made again"
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest()[:40] != path.stem:
                raise StoreError(f"weights file {path} is damaged (its content does not match its name); {remedy}")
            return dict(load(data))
        except OSError as error:
            raise StoreError(f"weights file {path} cannot be read: {error.strerror or error}; {remedy}") from None
        except SafetensorError as error:
            raise StoreError(f"weights file {path} is damaged: {error}; {remedy}") from None

    def delete(self, kind: str, key: str) -> None:
        """Forget one entry; its weights file goes too unless another entry of the kind uses it."""
        table = self._table(kind)
        with self._engine.begin() as connection:
            name = connection.execute(sa.select(table.c.weights).where(table.c.key == key)).scalar()
            connection.execute(sa.delete(table).where(table.c.key == key))
            others = map(_table_of, self.kinds())
            used = name and any(
                connection.execute(sa.select(t.c.key).where(t.c.weights == name).limit(1)).first() for t in others
            )
        if name and not used:
            (self.weights / name).unlink(missing_ok=True)


def _engine_options(url: sa.URL) -> dict[str, Any]:
    if url.get_backend_name() != "sqlite":
        return {"pool_pre_ping": True}
    options: dict[str, Any] = {"connect_args": {"timeout": 60}}  # another process may be writing
    if url.database in _MEMORY:
        options["poolclass"] = sa.pool.StaticPool  # every connection must see the same memory
        options["connect_args"]["check_same_thread"] = False
    return options


@sa.event.listens_for(sa.Engine, "connect")
def _on_connect(connection: Any, _: Any) -> None:
    """SQLite: a write-ahead log lets readers and one writer work at once; NORMAL still survives a killed process."""
    if type(connection).__module__.startswith("sqlite3"):
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=NORMAL")
        cursor.close()


def _cause(error: BaseException) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]
