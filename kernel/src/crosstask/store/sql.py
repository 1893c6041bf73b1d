"""The built-in store: any database of SQLAlchemy's (SQLite and PostgreSQL are tested), weights as safetensors."""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import json
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from crosstask.components import Remembered
from crosstask.errors import StoreError
from crosstask.logs import logger
from crosstask.options import component
from crosstask.points.store import Holder, Row, Store, StoreOpener, check_kind, is_kind
from crosstask.store.processes import has_ended
from crosstask.store.urls import shown, without_secrets
from crosstask.writing import unwritten

if TYPE_CHECKING:
    import torch

SCHEMA_VERSION = 2
"""2: every row has a digest, and runs claim what they are going to measure."""

BUSY_SECONDS = 60
"""How long SQLite is asked again where another process is writing."""

_MEMORY = (None, "", ":memory:")
_FILE = re.compile(r"[0-9a-f]{40}\.safetensors")
_LOCK = 0x63726F7373  # "cross": the number of PostgreSQL's advisory lock around claims

_metadata = sa.MetaData()
_about = sa.Table("crosstask", _metadata, sa.Column("version", sa.Integer, primary_key=True))
_PREFIX = "crosstask_"  # of a kind's table; a kind does not begin with an underscore, so these three are no kind's:
_holders = sa.Table(
    "crosstask__holders",
    _metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("run_id", sa.String(64), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("born", sa.String(40), nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
)
_claims = sa.Table(
    "crosstask__claims",
    _metadata,
    sa.Column("kind", sa.String(40), primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True),
    sa.Column("holder", sa.String(64), nullable=False, index=True),
)
_waits = sa.Table(
    "crosstask__waits",
    _metadata,
    sa.Column("holder", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(40), primary_key=True),
    sa.Column("key", sa.String(64), primary_key=True),
)


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
        sa.Column("digest", sa.String(64)),  # null: the row was written before there were any
    )


@component
class SqlStoreOpener(StoreOpener):
    """Opens any SQLAlchemy URL, or a path (SQLite)."""

    def open(self, url: str, weights: Path | None) -> Store:
        return SqlStore(url, weights)


class SqlStore(Store):
    """See `Store`. Weight files are named by the digest of their content and written under a temporary name first; a
    row carries a digest of its own, so that a change of either is noticed.
    """

    def __init__(self, url: str, weights: Path | None = None) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._known: set[str] = set()
        self._damaged: set[tuple[str, str]] = set()
        self._file: tuple[Path, int, int] | None = None
        self._enrolled: dict[str, Holder] = {}
        self._given = url
        try:
            parsed = sa.make_url(url if "://" in url else f"sqlite:///{url}")
            self.url = shown(parsed.render_as_string(hide_password=True))
            self._engine = sa.create_engine(parsed, **_engine_options(parsed))
            if parsed.get_backend_name() == "sqlite":
                sa.event.listen(self._engine, "connect", _on_connect)
                if parsed.database not in _MEMORY:
                    Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
            self.weights = weights or self._default_weights()
            self._prepare()
        except (sa.exc.ArgumentError, ValueError):  # such as a port that is no number
            raise StoreError(
                f"not a store: {shown(url)!r} (expected a path or a URL such as postgresql+psycopg://…)"
            ) from None
        except (sa.exc.SQLAlchemyError, ImportError, OSError) as error:
            # Not chained: a driver may quote the URL, password and all
            raise StoreError(f"cannot open the store {shown(url)!r}: {self._cause(error)}") from None

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
        for table in _metadata.sorted_tables:
            self._create(table)
        newest = sa.select(sa.func.max(_about.c.version))
        with self._engine.connect() as connection:
            version = connection.execute(newest).scalar_one() or 0
        if version < SCHEMA_VERSION:
            with self._engine.begin() as connection:
                connection.execute(self._insert(_about).values(version=SCHEMA_VERSION).on_conflict_do_nothing())
        if version > SCHEMA_VERSION:
            raise StoreError(
                f"the store {self.url} was written by a newer crosstask (version {version}; this one reads up to "
                f"{SCHEMA_VERSION}); upgrade crosstask or use another store"
            )
        url = self._engine.url
        if url.get_backend_name() == "sqlite" and url.database not in _MEMORY:
            path = Path(str(url.database)).resolve()
            with contextlib.suppress(OSError):  # such as a URI of SQLite's own
                told = path.stat()
                self._file = (path, told.st_dev, told.st_ino)

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

    def _add_digest(self, table: sa.Table) -> None:
        """The column that tables of version 1 lack."""

        def lacks() -> bool:
            return all(column["name"] != "digest" for column in sa.inspect(self._engine).get_columns(table.name))

        if lacks():
            try:
                with self._engine.begin() as connection:
                    connection.execute(sa.text(f"ALTER TABLE {table.name} ADD COLUMN digest VARCHAR(64)"))
            except sa.exc.DBAPIError:
                if lacks():
                    raise

    def _table(self, kind: str) -> sa.Table:
        table = _table_of(kind)
        if kind not in self._known:
            with self._asked("make a table in"):
                self._create(table)
                self._add_digest(table)
            self._known.add(kind)
        return table

    @contextlib.contextmanager
    def _asked(self, doing: str) -> Iterator[None]:
        """Errors of the database as StoreError, and of what SQLite lets pass: it goes on writing to a deleted file."""
        self._check_there()
        try:
            yield
        except sa.exc.SQLAlchemyError as error:
            self._check_there()
            raise StoreError(f"cannot {doing} the store {self.url}: {self._cause(error)}") from None

    def _check_there(self) -> None:
        if self._file is None:
            return
        path, device, inode = self._file
        try:
            told = path.stat()
        except OSError:
            raise StoreError(
                f"the store {path} was deleted or moved away while it was in use: what was measured is lost unless the "
                "file comes back; start the run again"
            ) from None
        if (told.st_dev, told.st_ino) != (device, inode):
            raise StoreError(f"the store {path} was replaced by another file while it was in use; start the run again")

    @contextlib.contextmanager
    def _connection(self, doing: str) -> Iterator[sa.Connection]:
        with self._asked(doing), self._engine.begin() as connection:
            yield connection

    def _cause(self, error: BaseException) -> str:
        lines = str(getattr(error, "orig", None) or error).strip().splitlines() or [type(error).__name__]
        return without_secrets(lines[0], self._given)

    # Entries

    def kinds(self) -> list[str]:
        """Every kind of which the store has a table."""
        with self._asked("read"):
            names = sa.inspect(self._engine).get_table_names()
        return sorted(filter(is_kind, (name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))))

    def get(self, kind: str, key: str) -> Remembered | None:
        table = self._table(kind)
        with self._connection("read") as connection:
            row = connection.execute(_select(table).where(table.c.key == key)).first()
        if row is None:
            return None
        read = _row(kind, row)
        try:
            if read.damage is not None:
                raise _DamageError(read.damage)
            found = Remembered(read.payload, self._read(read.weights) if read.weights else {})
        except _DamageError as error:
            self._tell(kind, key, str(error))
            return None
        self._damaged.discard((kind, key))
        return found

    def _tell(self, kind: str, key: str, damage: str) -> None:
        """One warning for each damaged entry, which the next `put` replaces."""
        if (kind, key) not in self._damaged:
            self._damaged.add((kind, key))
            logger().warning("damaged entry: it is made again", store=self.url, kind=kind, key=key, damage=damage)

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
        try:
            text = json.dumps(payload, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise StoreError(f"{kind} {key!r} cannot be kept: its payload is no plain JSON ({error})") from None
        name = self._write(tensors) if tensors else None
        values = {
            "key": key,
            "run_id": run_id,
            "created": datetime.datetime.now(datetime.UTC),
            "payload": text,
            "weights": name,
            "digest": _digest(kind, key, text, name),
        }
        statement = self._insert(table).values(values)
        if replace or (kind, key) in self._damaged:
            statement = statement.on_conflict_do_update(index_elements=["key"], set_=values)
        else:
            statement = statement.on_conflict_do_nothing(index_elements=["key"])
        with self._connection("write to") as connection:
            connection.execute(statement)
        self._damaged.discard((kind, key))

    def entries(self, kind: str) -> Iterator[tuple[str, Any]]:
        for row in self.rows(kind):
            if row.damage is None:
                yield row.key, row.payload
            else:
                self._tell(kind, row.key, row.damage)

    def rows(self, kind: str) -> Iterator[Row]:
        """See `Store.rows`; weights files are not read (see `damage_of`)."""
        table = self._table(kind)
        with self._connection("read") as connection:
            for row in connection.execute(_select(table).order_by(table.c.number)):
                yield _row(kind, row)

    def damage_of(self, row: Row) -> str | None:
        """Why an entry cannot be used, its weights file included."""
        if row.damage is not None or row.weights is None:
            return row.damage
        try:
            self._read(row.weights)
        except _DamageError as error:
            return str(error)
        return None

    def close(self) -> None:
        if not self.closed:
            for holder in list(self._enrolled.values()):  # of runs that were not closed
                with contextlib.suppress(StoreError):
                    self.leave(holder)
            self.closed = True
        self._engine.dispose()
        if self._temporary is not None:
            self._temporary.cleanup()

    def _write(self, tensors: Mapping[str, torch.Tensor]) -> str:
        from safetensors.torch import save

        # Cloned: safetensors refuses tensors that share memory, and a tied weight is then simply written twice.
        data = save({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()})
        name = f"{hashlib.sha256(data).hexdigest()[:40]}.safetensors"
        self.write_weights(name, data)
        return name

    def write_weights(self, name: str, data: bytes) -> None:
        """Put a weights file in its place, unless it is there and whole. Who may read it is the umask's to say."""
        path = self.weights / name
        temporary = self.weights / f"{uuid.uuid4().hex}.part"
        try:
            with contextlib.suppress(FileNotFoundError, PermissionError):
                if path.read_bytes() == data:
                    os.utime(path)  # it is used: `gc`, which leaves young files alone, may be at work
                    return
            self.weights.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise StoreError(unwritten(error, self.weights, "weights to", len(data))) from error

    def _read(self, name: str) -> dict[str, torch.Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return dict(load(self.read_weights(name)))
        except SafetensorError as error:
            raise _DamageError(f"weights file {self.weights / name} cannot be read: {error}") from None

    def read_weights(self, name: str) -> bytes:
        """The content of a weights file, which must be what its name says."""
        path = self.weights / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise _DamageError(f"weights file {path} cannot be read: {error.strerror or error}") from None
        if hashlib.sha256(data).hexdigest()[:40] != path.stem:
            raise _DamageError(f"weights file {path} is damaged: its content does not match its name")
        return data

    def delete(self, kind: str, key: str) -> bool:
        """See `Store.delete`. Only a file with a name of the store's own form is ever removed."""
        table = self._table(kind)
        tables = [self._table(other) for other in self.kinds()]
        with self._connection("write to") as connection:
            name = connection.execute(sa.select(table.c.weights).where(table.c.key == key)).scalar()
            gone = connection.execute(sa.delete(table).where(table.c.key == key)).rowcount > 0
            used = name is not None and any(
                connection.execute(sa.select(t.c.key).where(t.c.weights == name).limit(1)).first() for t in tables
            )
        if isinstance(name, str) and _FILE.fullmatch(name) and not used:
            with contextlib.suppress(OSError):
                (self.weights / name).unlink(missing_ok=True)
        self._damaged.discard((kind, key))
        return gone

    def weights_files(self) -> list[Path]:
        """The files in the weights folder that the store has written, unfinished ones included."""
        if not self.weights.is_dir():
            return []
        own = re.compile(rf"{_FILE.pattern}|[0-9a-f]{{32}}\.part")
        return sorted(path for path in self.weights.iterdir() if own.fullmatch(path.name))

    def check_database(self) -> str | None:
        """What the database itself says of its file, if it is not well."""
        if self._engine.dialect.name != "sqlite":
            return None
        with self._connection("read") as connection:
            told = str(connection.execute(sa.text("PRAGMA integrity_check(1)")).scalar())
        return None if told == "ok" else told

    # Claims

    @property
    def _is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @property
    def _shared(self) -> bool:
        """Whether another process can see this store."""
        return not (self._is_sqlite and self._engine.url.database in _MEMORY)

    @property
    def _now(self) -> sa.ColumnElement[float]:
        """The database's clock, in seconds: those of two machines may differ."""
        if self._is_sqlite:
            return sa.literal_column("((julianday('now') - 2440587.5) * 86400.0)", sa.Float)
        return sa.literal_column("CAST(extract(epoch FROM clock_timestamp()) AS double precision)", sa.Float)

    @contextlib.contextmanager
    def _claiming(self) -> Iterator[sa.Connection]:
        """A transaction that no other one about claims overlaps. SQLite has one writer, and these write first."""
        with self._connection("write to") as connection:
            if not self._is_sqlite:
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_LOCK)))
            yield connection

    def claim(self, kind: str, key: str, holder: Holder) -> Holder | None:
        check_kind(kind)
        if not self._shared:
            return None
        while True:
            with self._claiming() as connection:
                self._enrol(connection, holder)
                living = sa.select(_holders.c.name).where(_holders.c.expires > self._now)
                wanted = self._insert(_claims).values(kind=kind, key=key, holder=holder.name)
                connection.execute(
                    wanted.on_conflict_do_update(
                        index_elements=["kind", "key"],
                        set_={"holder": holder.name},
                        where=_claims.c.holder.not_in(living),
                    )
                )
                owner = self._owner(connection, kind, key)
            if owner is None:  # its lease ran out a moment ago
                continue
            if owner.name == holder.name:
                return None
            if not has_ended(owner.host, owner.pid, owner.born):
                return owner
            self.leave(owner)

    def claimed_by(self, kind: str, key: str) -> Holder | None:
        if not self._shared:
            return None
        with self._connection("read") as connection:
            owner = self._owner(connection, check_kind(kind), key)
        return None if owner is None or has_ended(owner.host, owner.pid, owner.born) else owner

    def unclaim(self, holder: Holder, keys: Iterable[tuple[str, str]]) -> None:
        pairs = list(keys)
        if self._shared and pairs:
            with self._claiming() as connection:
                for kind, key in pairs:
                    own = (_claims.c.kind == kind) & (_claims.c.key == key) & (_claims.c.holder == holder.name)
                    connection.execute(sa.delete(_claims).where(own))

    def beat(self, holder: Holder) -> None:
        if self._shared:
            with self._connection("write to") as connection:
                self._enrol(connection, holder)

    def wait_for(self, holder: Holder, kind: str, key: str) -> bool:
        if not self._shared:
            return True
        wait = {"holder": holder.name, "kind": kind, "key": key}
        with self._claiming() as connection:
            connection.execute(self._insert(_waits).values(wait).on_conflict_do_nothing())
            seen, asked = set(), [(kind, key)]
            while asked:
                owner = self._owner(connection, *asked.pop())
                if owner is None or owner.name in seen:
                    continue
                if owner.name == holder.name:  # whoever closes the circle goes on: each circle is closed by one wait
                    connection.execute(sa.delete(_waits).filter_by(**wait))
                    return False
                seen.add(owner.name)
                waits = sa.select(_waits.c.kind, _waits.c.key).where(_waits.c.holder == owner.name)
                asked += [(row.kind, row.key) for row in connection.execute(waits)]
        return True

    def stop_waiting(self, holder: Holder, kind: str, key: str) -> None:
        if self._shared:
            with self._claiming() as connection:
                connection.execute(sa.delete(_waits).filter_by(holder=holder.name, kind=kind, key=key))

    def leave(self, holder: Holder) -> None:
        if self._shared:
            with self._claiming() as connection:
                for table in (_claims, _waits):
                    connection.execute(sa.delete(table).where(table.c.holder == holder.name))
                connection.execute(sa.delete(_holders).where(_holders.c.name == holder.name))
            self._enrolled.pop(holder.name, None)

    def holders(self) -> list[Holder]:
        with self._connection("read") as connection:
            rows = connection.execute(sa.select(_holders).where(_holders.c.expires > self._now)).all()
        found = [_holder(row) for row in rows]
        return [each for each in found if not has_ended(each.host, each.pid, each.born)]

    def dead_claims(self) -> int:
        """How many claims are those of runs that have ended without a word."""
        living = [each.name for each in self.holders()]
        dead = sa.select(sa.func.count()).select_from(_claims).where(_claims.c.holder.not_in(living))
        with self._connection("read") as connection:
            return int(connection.execute(dead).scalar_one())

    def forget_dead(self) -> None:
        """Drop the claims and waits of runs that have ended without a word."""
        with self._claiming() as connection:
            connection.execute(sa.delete(_holders).where(_holders.c.expires <= self._now))
            for each in map(_holder, connection.execute(sa.select(_holders)).all()):
                if has_ended(each.host, each.pid, each.born):
                    connection.execute(sa.delete(_holders).where(_holders.c.name == each.name))
            for table in (_claims, _waits):
                connection.execute(sa.delete(table).where(table.c.holder.not_in(sa.select(_holders.c.name))))

    def _enrol(self, connection: sa.Connection, holder: Holder) -> None:
        self._enrolled[holder.name] = holder
        told = {
            "name": holder.name,
            "run_id": holder.run_id,
            "host": holder.host,
            "pid": holder.pid,
            "born": holder.born,
        }
        until = self._now + self.lease
        statement = self._insert(_holders).values(**told, expires=until)
        connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"expires": until}))

    def _owner(self, connection: sa.Connection, kind: str, key: str) -> Holder | None:
        """Whose claim it is, if its lease has not run out."""
        row = connection.execute(
            sa.select(_holders)
            .join(_claims, _claims.c.holder == _holders.c.name)
            .where(_claims.c.kind == kind, _claims.c.key == key, _holders.c.expires > self._now)
        ).first()
        return None if row is None else _holder(row)


class _DamageError(Exception):
    """An entry that cannot be used, and why."""


def _holder(row: Any) -> Holder:
    return Holder(name=row.name, run_id=row.run_id, host=row.host, pid=row.pid, born=row.born)


def _select(table: sa.Table) -> sa.Select[Any]:
    """A kind's rows. Dates as they are written: SQLAlchemy would raise for the whole answer if one is damaged."""
    return sa.select(*(sa.type_coerce(c, sa.String).label(c.name) if c.name == "created" else c for c in table.c))


def _date(value: Any) -> datetime.datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime.datetime):
        return None
    return value if value.tzinfo else value.replace(tzinfo=datetime.UTC)  # SQLite keeps no zone


def _row(kind: str, row: Any) -> Row:
    """A row of a kind's table as it can be used, or with what is wrong with it."""
    payload, damage = None, None
    try:
        if row.weights is not None and not (isinstance(row.weights, str) and _FILE.fullmatch(row.weights)):
            raise _DamageError(f"{row.weights!r} is not the name of a weights file of the store")
        if not isinstance(row.payload, str):
            raise _DamageError("its payload is no text")
        row.payload.encode("utf-8")
        if row.digest is not None and row.digest != _digest(kind, row.key, row.payload, row.weights):
            raise _DamageError("the row was changed: it does not match its digest")
        payload = json.loads(row.payload, parse_constant=_refuse)
    except _DamageError as error:
        damage = str(error)
    except (TypeError, ValueError, RecursionError) as error:
        damage = f"its payload is no JSON: {error}"
    return Row(
        kind=kind,
        key=row.key,
        run_id=row.run_id,
        created=_date(row.created),
        payload=payload,
        weights=row.weights if damage is None else None,
        damage=damage,
    )


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON")


def _digest(kind: str, key: str, payload: str, weights: str | None) -> str:
    text = "\x1f".join((kind, key, payload, weights or ""))
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _engine_options(url: sa.URL) -> dict[str, Any]:
    if url.get_backend_name() != "sqlite":
        return {"pool_pre_ping": True}
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY_SECONDS}}
    if url.database in _MEMORY:
        options["poolclass"] = sa.pool.StaticPool  # every connection must see the same memory
        options["connect_args"]["check_same_thread"] = False
    return options


def _on_connect(connection: Any, _: Any) -> None:
    """SQLite: a write-ahead log lets readers and one writer work at once; NORMAL still survives a killed process. Text
    that is not UTF-8 is damage of its row, not of every answer that the row is part of.
    """
    cursor = connection.cursor()
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
            break
        except connection.OperationalError as error:  # two that open a new file at once: SQLite lets one fail at once
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.01)
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
    connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
