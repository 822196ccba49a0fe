"""Weights as training scripts save them: where they lie in a file, and under which names.

Scripts wrap networks (``torch.compile`` adds ``_orig_mod.``, ``DataParallel`` ``module.``,
Lightning the name of an attribute) and save them under keys of their own beside optimisers, losses
and settings. Here the weights of one network are found and given its own names. Nothing is guessed:
names are only taken off where all weights have them, or what lies beside is known to be no part of
a network.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from napari_2dmamba.errors import CheckpointError
from napari_2dmamba.inert.inert_values import Array, Record
from napari_2dmamba.inert.torch_pickle import module_tensors

_HOLDERS = (
    "state_dict", "model_state_dict", "model_state", "model_weights", "model", "network", "net",
    "params", "weights", "module", "teacher", "aggregator", "mil", "ema",
)  # fmt: skip
"""Keys under which weights are saved, the most telling first."""

_PLAIN = _HOLDERS[:7]
"""Those of the network itself: weights of the same names beside them are an average or a copy."""

_WRAPPERS = frozenset({*_HOLDERS, "_orig_mod", "_forward_module", "_fsdp_wrapped_module"})
_NO_PART = re.compile(
    r"(^|[._])(\w*loss\w*|criteri(on|a)|objective|metrics?|\w*(acc|accuracy|auc|auroc|f1|kappa))"
    r"([._]|$)|^(n_averaged|class_weights?|pos_weight)$",
    re.IGNORECASE,
)
_DEEPEST = 6


def is_no_part(name: str) -> bool:
    """Whether a tensor belongs to a loss or a metric, by its name, and not to a network."""
    return _NO_PART.search(name) is not None


def weights_in(content: Any) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Find the weights in what a script saved.

    Returns
    -------
    Tensors by name, and the names of what lies beside them.
    """
    beside: list[str] = []
    for _ in range(_DEEPEST):
        if isinstance(content, Record) and "_modules" in content.state:
            return module_tensors(content), tuple(beside)
        if isinstance(content, list | tuple):
            holding = [one for one in content if _may_hold(one)]
            content = holding[0] if len(holding) == 1 else None
        values = _mapping(content)
        if values is None:
            return {}, tuple(beside)
        tensors = _tensors(values)
        key = next((key for key in _HOLDERS if _may_hold(values.get(key))), None)
        if key is None and not any(one.is_floating_point() for one in tensors.values()):
            # one dict of weights under a name of the script's own, perhaps beside random states
            holding = [k for k, v in values.items() if _may_hold(v) and not _is_of_fitting(k)]
            named = [k for k in holding if _tensors(_mapping(values[k]) or {})] or holding
            key = named[0] if len(named) == 1 else None
        if key is None:
            for part, below in values.items():
                # DTFD-MIL's repository saves one dict of weights per part
                held = _tensors(_mapping(below) or {}) if isinstance(part, str) else {}
                tensors |= {f"{part}.{name}": value for name, value in held.items()}
            parts = {name.partition(".")[0] for name in tensors}
            beside += [str(k) for k in values if k not in tensors and str(k) not in parts]
            return tensors, tuple(beside)
        _refuse_rivals(values, key)
        beside += [str(other) for other in values if other != key]
        content = values[key]
    return {}, tuple(beside)


def _is_of_fitting(key: Any) -> bool:
    return isinstance(key, str) and any(part in key for part in ("optim", "sched", "scaler"))


def _refuse_rivals(values: Mapping[Any, Any], key: str) -> None:
    """Refuse to choose between the weights of one network under two names, none the plain one.

    Raises
    ------
    CheckpointError
        Naming them.
    """
    names = _tensors(_mapping(values[key]) or {}).keys()
    if key in _PLAIN or not names:
        return
    others = {k: _tensors(_mapping(v) or {}).keys() for k, v in values.items() if k != key}
    rivals = [str(k) for k, held in others.items() if held == names]
    if rivals:
        raise CheckpointError(
            f"the file holds weights of one network several times, as {key!r} and "
            f"{', '.join(map(repr, rivals))[:200]}; save those that are meant under 'model'"
        )


def unwrapped(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield the weights under their names in the file, then with one wrapper after another off."""
    now = dict(tensors)
    yield now
    if any("_orig_mod" in name.split(".") for name in now):
        plain = _distinct(
            now,
            {n: ".".join(p for p in n.split(".") if p != "_orig_mod") for n in now},
        )
        if plain is None:
            return
        now = plain
        yield now
    for _ in range(_DEEPEST):
        found = _without_outer(now) or _without_inner(now)
        if found is None:
            return
        now = found
        yield now


def _without_outer(tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Take off the first part of all names, where it is one and the same."""
    firsts = {name.partition(".")[0] for name in tensors if "." in name}
    own = {first for first in firsts if not is_no_part(first)}
    outer = [name for name in tensors if "." not in name and not is_no_part(name)]
    if len(own) != 1 or outer:
        return None
    (first,) = own
    if first not in _WRAPPERS and len(firsts) > 1:
        return None  # a network of one part with a loss beside it, not a wrapper
    return _distinct(tensors, {name: name.removeprefix(f"{first}.") for name in tensors})


def _without_inner(tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
    """Take off the outermost ``module`` that is all a part holds, as ``DataParallel`` in it is."""
    split = {name: name.split(".") for name in tensors}
    depth = max((len(parts) for parts in split.values()), default=0)
    for at in range(1, depth):
        below: dict[tuple[str, ...], set[str]] = {}
        for parts in split.values():
            if len(parts) > at:
                below.setdefault(tuple(parts[:at]), set()).add(parts[at])
        wrapped = {path for path, names in below.items() if names == {"module"}}
        if wrapped:
            return _distinct(
                tensors,
                {
                    name: ".".join(p[:at] + p[at + 1 :] if tuple(p[:at]) in wrapped else p)
                    for name, p in split.items()
                },
            )
    return None


def _distinct(tensors: Mapping[str, Tensor], names: dict[str, str]) -> dict[str, Tensor] | None:
    """Return tensors under new names; None where two would get the same."""
    if len(set(names.values())) < len(names):
        return None
    return {names[name]: value for name, value in tensors.items()}


def _mapping(value: Any) -> dict[Any, Any] | None:
    if isinstance(value, Record):
        return value.items or None
    return value if isinstance(value, dict) else None


def _may_hold(value: Any, depth: int = 0) -> bool:
    """Whether tensors lie in a value: a config under the key ``model`` holds none."""
    if isinstance(value, Record) and "_modules" in value.state:
        return True
    values = _mapping(value)
    if values is None:
        return False
    return bool(_tensors(values)) or (
        depth < _DEEPEST and any(_may_hold(below, depth + 1) for below in values.values())
    )


def _tensors(values: Mapping[Any, Any]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, value in values.items():
        tensor = value.value if isinstance(value, Array) else value
        if isinstance(name, str) and isinstance(tensor, Tensor):
            found[name] = tensor
    return found
