from crosstask import Store, component, open_store
from crosstask.components import Remembered
from crosstask.manifest import Extension, Plugin
from crosstask.points.store import StoreOpener
from crosstask.registry import Registry


class Memory(Store):
    """Everything in a dictionary; gone when the process ends."""

    def __init__(self):
        self.kept = {}

    def get(self, kind, key):
        return self.kept.get((kind, key))

    def put(self, kind, key, payload, *, tensors=None, run_id="", replace=False):
        if replace or (kind, key) not in self.kept:
            self.kept[kind, key] = Remembered(payload, dict(tensors or {}))

    def entries(self, kind):
        return ((key, kept.payload) for (of, key), kept in self.kept.items() if of == kind)

    def close(self):
        self.kept.clear()


@component
class OpensMemory(StoreOpener):
    """For URLs that begin with memory://"""

    def open(self, url, weights):
        return Memory()


registry = Registry()
registry.register(Plugin("memory", [Extension("store", "memory", f"{__name__}:OpensMemory")], api=(2, 0)))
store = open_store("memory://", registry=registry)
store.put("models", "key", {"score": 0.9})
assert store.get("models", "key").payload == {"score": 0.9}
