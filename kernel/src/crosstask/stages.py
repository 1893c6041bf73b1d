"""Runs one stage: binds what it refers to, takes a finished one from the store, keeps what it provides."""

from __future__ import annotations

import contextlib
import copy
import datetime
import enum
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import torch
from torch import Tensor, nn

from crosstask.components import Context
from crosstask.errors import CrosstaskError, OptionError, PluginError, RecipeError, nearest
from crosstask.learning.modules import copy_of
from crosstask.learning.transferring import key_of, source_digest, weights_digest
from crosstask.options import structure, unstructure
from crosstask.points.stage import Engine, Outcome, Stage
from crosstask.run import Run

KIND = "stages"
"""Where finished stages are kept in a store."""


@attrs.define
class Finished:
    """What the stages of a run, or of an engine, have come to so far, by name."""

    outcomes: dict[str, Outcome] = attrs.field(factory=dict)
    keys: dict[str, str] = attrs.field(factory=dict)

    def take(self, stage: str, name: str) -> Any:
        """What a stage provides. PluginError if it did not, in spite of what its class says."""
        if stage not in self.outcomes:
            raise PluginError(f"stage {stage!r} has not run{nearest(stage, self.outcomes)}")
        artifacts = self.outcomes[stage].artifacts
        if name not in artifacts:
            raise PluginError(f"stage {stage!r} gave no {name!r} in this run{nearest(name, artifacts)}")
        return artifacts[name]


def run_stage(engine: Engine, stage: Stage, name: str, finished: Finished) -> Outcome:
    """Run a stage of a run, or take it from the store where it has finished before with all that determines it."""
    stage.bind(engine.run)  # its parts are the run's, before `identity` asks what they are
    whence = {}
    for option, (ref, kind) in stage.references().items():
        value = _copied(finished.take(ref.stage, ref.take))  # a copy: who trains it must not change what others take
        try:
            value = structure(value, kind, f"{ref.take!r} of stage {ref.stage!r}")
        except CrosstaskError as error:
            raise PluginError(f"{name}: {option}: {error}") from None
        stage._referred = {**(stage._referred or {}), option: value}
        whence[option] = finished.keys[ref.stage]
    key = key_of("stage", stage.identity(), list(finished.keys.values()), whence, engine.fingerprint(), _given(stage))
    outcome = _recalled(engine, stage, key) if stage.keeps else None
    if outcome is None:
        if stage.needs_models:
            engine.train()
        before = _state(engine) if stage.keeps else {}
        with _noting(engine.run) as used:
            outcome = engine.run.call(stage, "work", engine=engine)
        try:
            _check(stage, outcome)
        except PluginError as error:
            if wrappers := ", ".join(repr(each["name"]) for each in engine.run.wrapping()):
                error.add_note(f"wrappers of the run may have changed its answer: {wrappers}")
            raise
        if stage.keeps and before.items() - _state(engine).items():
            told = f"{stage.origin}: work changed the engine (its tasks, their models or the graph)"
            warnings.warn(f"{told}: it is not kept; its class must say keeps = False", RuntimeWarning, stacklevel=2)
        elif stage.keeps:
            _keep(engine, stage, key, outcome, used)
        engine.run.forgo(KIND, key)  # if it could not be kept: another run that wants it need not wait for more
    copied = {at: _copied(value) for at, value in outcome.artifacts.items()}  # as they are now, whatever comes later
    finished.outcomes[name], finished.keys[name] = Outcome(outcome.record, copied), key
    return outcome


def _noting(context: Context) -> contextlib.AbstractContextManager[set[str]]:
    """Who takes part; outside of a run nobody keeps a record of it."""
    return context.noting() if isinstance(context, Run) else contextlib.nullcontext(set())


def _state(engine: Engine) -> dict[str, str]:
    """What a stage that is kept must leave as it is; training models that were not trained yet is no change."""
    models = {f"model {t.task_id}": weights_digest(t.model) for t in engine.portfolio if t.model is not None}
    return {"all": key_of(engine.fingerprint()), **models}


def _copied(value: Any) -> Any:
    """A copy of an artifact; itself where it cannot be copied, which cannot be kept either."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    try:
        return copy_of(value) if isinstance(value, nn.Module) else copy.deepcopy(value)
    except Exception:  # foreign objects
        return value


def check_stage(stage: Stage, engine: Engine, name: str) -> None:
    """Whether a stage's options fit the tasks. RecipeError begins with the stage's name."""
    kind = getattr(stage, "Result", None)
    if not (isinstance(kind, type) and attrs.has(kind)):
        raise PluginError(f"{stage.origin}: its class must say which record it gives (Result), got {kind!r}")
    stage.bind(engine.run)  # its parts are those of the run
    try:
        stage.check(engine.portfolio)
    except CrosstaskError as error:
        raise RecipeError(f"{name}: {str(error).removeprefix(f'{name}: ')}") from None
    except SystemExit as error:
        raise PluginError(f"{stage.origin}: check called sys.exit({error.code})") from error
    except Exception as error:
        error.add_note(f"in {stage.origin}: check")
        raise


def summary_of(stage: Stage, result: Any) -> dict[str, Any]:
    """Rows of a stage's summary. One that fails is a row that says so: what was found must not go with it."""
    try:
        return {str(name): unstructure(value) for name, value in stage.summary(result).items()}
    except (Exception, SystemExit) as error:  # foreign code
        return {f"{stage.name} summary": f"failed: {type(error).__name__}: {error}"}


def _given(stage: Stage) -> dict[str, Any]:
    """Modules and tensors that were given as options in Python: their values, since options say only their type."""
    fields = attrs.fields(cast(Any, type(stage))) if attrs.has(type(stage)) else ()
    found = {f.name: getattr(stage, f.name) for f in fields if f.init}
    tensors = {name: weights_digest(own) for name, value in found.items() if (own := _tensors_of(value))}
    modules = {f"{name}: module": source_digest(value) for name, value in found.items() if isinstance(value, nn.Module)}
    specs = {f"{name}: code": value.__key__() for name, value in found.items() if hasattr(value, "__key__")}
    return tensors | modules | specs


def _check(stage: Stage, outcome: Outcome) -> None:
    """PluginError in the stage's name if it did not give what it says it provides."""
    if not isinstance(outcome.record, stage.Result):
        got = type(outcome.record).__name__
        raise PluginError(f"{stage.origin}: work must return a {stage.Result.__name__} as its record, got {got}")
    if strange := _strange(outcome.record):
        raise PluginError(f"{stage.origin}: its record holds a {strange}, which cannot be written as JSON")
    if not isinstance(outcome.artifacts, Mapping):
        raise PluginError(f"{stage.origin}: its artifacts must be a mapping, got a {type(outcome.artifacts).__name__}")
    for name in outcome.artifacts:
        if name not in stage.provides:
            raise PluginError(
                f"{stage.origin}: gave {name!r}, which it does not provide{nearest(name, stage.provides)}"
            )
    try:
        structure(unstructure(outcome.record), stage.Result, "record")
    except CrosstaskError as error:
        raise PluginError(f"{stage.origin}: its record does not survive being written: {error}") from None


def _strange(value: Any) -> str:
    """The type of something in a record of which JSON would keep the type's name only; nothing if all is plain."""
    plain = bool | int | float | str | None | enum.Enum | datetime.datetime | Path
    if isinstance(value, plain) or hasattr(value, "__unstructure__") or hasattr(value, "tolist"):
        return ""
    if attrs.has(type(value)):
        inside: Any = [getattr(value, f.name) for f in attrs.fields(type(value)) if f.init]
    elif isinstance(value, Mapping):
        inside = value.values()
    elif isinstance(value, Sequence | set | frozenset):
        inside = value
    else:
        return type(value).__name__
    return next(filter(None, map(_strange, inside)), "")


def _tensors_of(value: Any) -> dict[str, Tensor]:
    if isinstance(value, nn.Module):
        return dict(value.state_dict())
    if isinstance(value, Tensor):
        return {"": value}
    if isinstance(value, Mapping) and value and all(isinstance(item, Tensor) for item in value.values()):
        return dict(value)
    return {}


def _keep(engine: Engine, stage: Stage, key: str, outcome: Outcome, used: Collection[str]) -> None:
    plain: dict[str, Any] = {}
    tensors: dict[str, Tensor] = {}
    for name, value in outcome.artifacts.items():
        own = _tensors_of(value)
        if not all(map(_writable, own.values())):
            return  # as below
        tensors |= {f"{name}/{inside}": tensor.detach().cpu() for inside, tensor in own.items()}
        kind = "module" if isinstance(value, nn.Module) else "tensor" if isinstance(value, Tensor) else "tensors"
        plain[name] = {"kind": kind} if own or isinstance(value, nn.Module) else {"plain": unstructure(value)}
        if kind == "module":
            plain[name]["frozen"] = [at for at, weight in value.named_parameters() if not weight.requires_grad]
            plain[name]["resting"] = [at for at, inside in value.named_modules() if not inside.training]
        if kind == "tensors" and own:
            plain[name]["names"] = list(own)  # in their order, which a file of tensors does not keep
        if "plain" in plain[name] and not _survives(value, plain[name]["plain"], stage.provides[name]):
            return  # something that JSON and tensors cannot hold: the stage works again in a resumed run
    offered = sorted({r.distribution for r in engine.registry.plugins() if r.origin in used})
    made = {"record": unstructure(outcome.record), "artifacts": plain, "used": offered}
    engine.run.remember(KIND, key, made, tensors)


def _writable(tensor: Tensor) -> bool:
    """Whether safetensors can hold it."""
    strange = tensor.is_quantized or tensor.is_meta or tensor.dtype in (torch.complex32, torch.complex128)
    return tensor.layout is torch.strided and not strange


def _survives(value: Any, plain: Any, kind: Any) -> bool:
    """Whether an artifact that is plain data is the same when it is read back."""
    try:
        return bool(structure(plain, kind) == structure(value, kind))
    except Exception:  # it cannot be read back, or (an array, say) not be compared
        return False


def _recalled(engine: Engine, stage: Stage, key: str) -> Outcome | None:
    """A finished stage from the store. None: there is none, or none that this release of its plugin can read."""
    known = engine.run.recall(KIND, key)
    if known is None:
        return None
    artifacts: dict[str, Any] = {}
    try:
        record = structure(known.payload["record"], stage.Result, "stored stage")
        used = structure(known.payload.get("used", []), tuple[str, ...], "used")  # kept before they were noted: nobody
        for name, told in known.payload["artifacts"].items():
            own = {at.partition("/")[2]: t for at, t in known.tensors.items() if at.startswith(f"{name}/")}
            if "plain" in told:
                artifacts[name] = structure(told["plain"], stage.provides[name], name)
            elif told["kind"] == "module":
                module = stage.rebuild(engine, name, record)
                if module is None or not _fits(module, own):
                    return None
                module.load_state_dict(own)
                for at, weight in module.named_parameters():
                    weight.requires_grad_(at not in told["frozen"])
                for at, inside in module.named_modules():
                    inside.training = at not in told["resting"]
                artifacts[name] = module.to(engine.run.device)
            else:
                artifacts[name] = own[""] if told["kind"] == "tensor" else {at: own[at] for at in told["names"]}
    except (OptionError, KeyError):  # its record, or what it provides, was another
        return None
    except Exception as error:  # foreign code: the stage can still do its work
        told = f"{stage.origin}: what it stored cannot be made again ({type(error).__name__}: {error}): it works again"
        warnings.warn(told, RuntimeWarning, stacklevel=3)
        return None
    if isinstance(engine.run, Run):
        engine.run.credit(used)
    return Outcome(record, artifacts)


def _fits(module: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    state = module.state_dict()
    return state.keys() == weights.keys() and all(
        (state[at].shape, state[at].dtype) == (tensor.shape, tensor.dtype) for at, tensor in weights.items()
    )
