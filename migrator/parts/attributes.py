"""Identity and metadata of a run: W&B attributes, notes, tags, group, sweep, provenance."""

from __future__ import annotations

from collections.abc import Iterator

from migrator.limits import STRING_MAX_BYTES
from migrator.naming import MAPPING_VERSION, Paths, clean_text
from migrator.parts.base import BatchLedger, Context, Cursor, single_value
from migrator.records import AddTags, Assign, Batch, Kind, Scalar
from migrator.sources.base import SourceRun


def batches(run: SourceRun, cursor: Cursor, context: Context) -> Iterator[Batch]:
    """Copy in one batch: there are never many attributes, and writing them again (a refresh) is harmless.

    The cursor holds the tags, so that tags removed from the source can be removed from the copy.
    """
    attributes = run.attributes()
    ledger = BatchLedger()
    paths = Paths()
    values: dict[str, Scalar | frozenset[str]] = {}

    withheld = 0

    def assign(name: str, wanted: str, value: Scalar) -> None:
        nonlocal withheld
        if context.withholds(str(value)):
            ledger.add(Kind.SKIPPED, name, "contains_key")
            withheld += 1
            return
        place, single = paths.take(name, wanted), single_value(value)
        ledger.renamed(name, place)
        ledger.note(place.name, single.note)
        values[place.name] = single.value

    if attributes.notes:
        assign("notes", "sys/description", attributes.notes)
    for name, value in attributes.wandb.items():
        if context.options.include_private or not name.startswith("_"):
            assign(name, f"wandb/{name}", value)
    if sweep := attributes.sweep:
        for field, text in (("id", sweep.id), ("name", sweep.name), ("method", sweep.method), ("config", sweep.config)):
            if text is not None:
                assign(f"sweep.{field}", f"wandb/sweep/{field}", text)
        if sweep.note:
            ledger.add(Kind.CONVERTED, "wandb/sweep/config", sweep.note)

    tags = [tag for tag in attributes.tags if tag]
    groups = [attributes.group] if attributes.group else []
    read = len(values) + withheld + len(tags) + len(groups)
    for found in run.findings():
        ledger.add(found.kind, found.path, found.reason, found.count)
        read += found.count if found.kind is Kind.SKIPPED else 0
    batch = Batch(cursor={}, done=True, fresh=True, read=read, written=len(values))
    for words, name, is_group in ((tags, "tags", False), (groups, "group_tags", True)):
        clean = frozenset(map(clean_text, words))
        gone = frozenset(cursor.get(name, ())) - clean
        if any(map(context.withholds, clean)):
            ledger.add(Kind.SKIPPED, name, "contains_key", len(words))
        elif sum(len(word.encode()) for word in clean) > STRING_MAX_BYTES:
            ledger.add(Kind.SKIPPED, name, "string_set_too_large", len(words))
        elif clean or gone:
            batch.records.append(AddTags(clean, is_group, gone))
            batch.cursor[name] = sorted(clean)
            batch.written += len(words)
            if changed := len(set(words) - clean):
                ledger.add(Kind.CONVERTED, name, "not valid unicode", changed)

    provenance: dict[str, Scalar | frozenset[str]] = {
        "migration/source_url": clean_text(attributes.url),
        "migration/tool_version": context.tool_version,
        "migration/mapping_version": MAPPING_VERSION,
    }
    batch.records.insert(0, Assign({**values, **provenance}))
    batch.ledger = ledger.take()
    yield batch
