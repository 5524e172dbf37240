"""Config and summary: nested dicts of single values, plus their original JSON as a file.

In Neptune a path can neither be removed nor change its type. So the cursor holds the types of all paths written so far.
If the source changes later, a value whose type changed goes to a new path, and a value that is gone is noted as kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from migrator.naming import Paths, Renamed, source_key
from migrator.parts.base import BatchLedger, Context, Cursor, leaves_of, non_finite, scratch_file, single_value
from migrator.records import Assign, AssignFile, Batch, Document, Kind, Scalar
from migrator.sources.base import SourceRun


def _is_wandb_object(value: Mapping[str, Any]) -> bool:
    return isinstance(value.get("_type"), str)


def _is_config_private(key: str) -> bool:
    return key == "_wandb"


def _is_summary_private(key: str) -> bool:
    return key.startswith("_")


def config_batches(run: SourceRun, cursor: Cursor, context: Context) -> Iterator[Batch]:
    """Copy to `config/` in one batch: the source has one JSON document, and assigning values twice is harmless."""
    yield _batch("config", run.config(), cursor, context, is_private=_is_config_private, is_object=lambda value: False)


def summary_batches(run: SourceRun, cursor: Cursor, context: Context) -> Iterator[Batch]:
    """Copy to `summary/`, without W&B objects: those are in the history and in the raw file."""
    yield _batch("summary", run.summary(), cursor, context, is_private=_is_summary_private, is_object=_is_wandb_object)


def _batch(
    namespace: str,
    document: Document,
    cursor: Cursor,
    context: Context,
    *,
    is_private: Callable[[str], bool],
    is_object: Callable[[Mapping[str, Any]], bool],
) -> Batch:
    convert = partial(single_value, stringify=context.options.stringify)
    ledger, paths = BatchLedger(), Paths()
    values: dict[str, Scalar | frozenset[str]] = {}
    types: dict[str, str] = dict(cursor.get("types", {}))
    read = 0
    shown = {k: v for k, v in document.values.items() if context.options.include_private or not is_private(k)}
    for keys, value in leaves_of(shown, is_object):
        read += 1
        name = "/".join([namespace, *keys])
        if isinstance(value, Mapping) and value:
            ledger.add(Kind.SKIPPED, name, "wandb_object")
            continue
        if context.withholds(str(value)):
            ledger.add(Kind.SKIPPED, name, "contains_key")
            continue
        single = convert(non_finite(value))
        kind = type(single.value).__name__
        place = paths.take(source_key(keys), name)
        if types.setdefault(place.name, kind) != kind:
            beside = paths.take(source_key(keys), f"{place.name}/{kind}")
            place = Renamed(beside.name, "an earlier copy has another type there")
            types[place.name] = kind
        ledger.renamed(name, place)
        ledger.note(place.name, single.note)
        values[place.name] = single.value
    for path in sorted(types.keys() - values.keys()):
        ledger.add(Kind.KEPT, path, "the source no longer has this value")
    batch = Batch(
        cursor={"types": types},
        records=[Assign(values)],
        read=read + 1,
        written=len(values),
        done=True,
        fresh=True,
    )
    if context.withholds(document.raw.decode(errors="replace")):
        ledger.add(Kind.SKIPPED, f"wandb/raw/{namespace}.json", "contains_key")
    else:
        raw = scratch_file(context, f"raw-{namespace}.json", document.raw)
        batch.records.append(AssignFile(f"wandb/raw/{namespace}.json", raw))
        batch.written += 1
        batch.size_bytes = raw.size_bytes
    batch.ledger = ledger.take()
    return batch
