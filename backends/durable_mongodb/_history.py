"""Checkpoints in the collection ``history``: one document each, and how an oversized one is cut.

A document holds at most 16 MB. A checkpoint above 12 MB keeps its events in *parts*, documents of
their own that are written first; its own document then names them and is, as always, what
commits it. A part's ``_id`` holds a hash of what is in the checkpoint, so that parts of two writers, or of
a writer that died, are never mixed. Parts have no ``seq``: reading by ``seq`` does not meet them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from durable.backend import Checkpoint
from durable.core.codec import FORMAT
from durable.core.errors import UnsupportedHistoryError
from durable.core.ids import checkpoint_id
from durable_mongodb._documents import event_from_document, event_to_document
from durable_mongodb._driver import Collection, DeleteMany, Document, EncodedDocument, decode, encode
from durable_mongodb._indexes import BY_ID, HISTORY_ORDER

MAX_DOCUMENT = 12_000_000
"""Bytes; below the server's limit of 16 MiB by what else a document holds, and then some."""


async def insert_checkpoints(history: Collection, checkpoints: Sequence[Checkpoint]) -> list[int]:
    """Insert checkpoints, the parts of large ones before; return the positions of those whose key was taken."""
    parts: list[Document] = []
    documents: list[EncodedDocument] = []
    for checkpoint in checkpoints:
        document = _to_document(checkpoint)
        encoded = encode(document)
        if len(encoded.raw) > MAX_DOCUMENT:
            cut = list(_cut(document, sha256(encoded.raw).hexdigest()))
            parts += cut
            encoded = encode(document | {"events": [], "parts": [part["_id"] for part in cut]})
        documents.append(encoded)
    await history.insert(parts)
    return await history.insert(documents)


async def read_checkpoints(
    history: Collection, instance_id: str, execution_id: str, from_seq: int, limit: int
) -> list[Checkpoint]:
    """The checkpoints of an execution from ``from_seq`` on, without gaps; sees only what cannot be taken back."""
    documents = await history.find(
        {
            "instance_id": {"$eq": instance_id},
            "execution_id": {"$eq": execution_id},
            "seq": {"$gte": from_seq, "$lt": from_seq + limit},
        },
        sort=[("seq", 1)],
        index=HISTORY_ORDER,
        majority=True,
    )
    whole = [document for number, document in enumerate(documents, from_seq) if document["seq"] == number]
    return [await _from_document(history, document) for document in whole]


async def stored_tokens(history: Collection, checkpoint_ids: Sequence[str]) -> dict[str, str]:
    """Who wrote these checkpoints: the token by id, for those that are there."""
    if not checkpoint_ids:
        return {}
    found = await history.find({"_id": {"$in": list(checkpoint_ids)}}, fields=["token"], index=BY_ID)
    return {document["_id"]: document["token"] for document in found}


async def delete_executions(history: Collection, executions: Mapping[str, Iterable[str]]) -> None:
    """Delete the named executions of each instance, with the parts of their checkpoints."""
    deletes = [
        DeleteMany(
            {"instance_id": {"$eq": instance_id}, "execution_id": {"$in": sorted(execution_ids)}}, hint=HISTORY_ORDER
        )
        for instance_id, execution_ids in executions.items()
    ]
    await history.write_each(deletes)


def _to_document(checkpoint: Checkpoint) -> Document:
    return {
        "_id": checkpoint_id(checkpoint.instance_id, checkpoint.execution_id, checkpoint.seq),
        "instance_id": checkpoint.instance_id,
        "execution_id": checkpoint.execution_id,
        "seq": checkpoint.seq,
        "rev": checkpoint.rev,
        "token": checkpoint.token,
        "recoveries": checkpoint.recoveries,
        "format": FORMAT,
        "events": [event_to_document(event) for event in checkpoint.events],
    }


async def _from_document(history: Collection, document: Mapping[str, Any]) -> Checkpoint:
    if document["format"] > FORMAT:
        raise UnsupportedHistoryError(
            f"checkpoint {document['_id']} has format {document['format']}, this version of durable "
            f"reads up to {FORMAT}; upgrade this worker"
        )
    events = document["events"]
    if "parts" in document:
        parts = await history.find({"_id": {"$in": document["parts"]}}, sort=[("_id", 1)], index=BY_ID, majority=True)
        events = list(_joined(parts))
    return Checkpoint(
        document["instance_id"],
        document["execution_id"],
        int(document["seq"]),
        int(document["rev"]),
        document["token"],
        tuple(event_from_document(event) for event in events),
        recoveries=int(document["recoveries"]),
    )


# --- parts -----------------------------------------------------------------------------


def _cut(document: Mapping[str, Any], digest: str) -> Iterator[Document]:
    for number, content in enumerate(_contents(document["events"]), 1):
        yield {
            "_id": f"{document['_id']}/{digest}/p{number:04d}",
            "instance_id": document["instance_id"],
            "execution_id": document["execution_id"],
            "part_of": document["_id"],
        } | content


def _contents(events: Iterable[Document]) -> Iterator[Document]:
    """Runs of events that fit in a document; an event that is too large alone is cut into slices of its bytes."""
    run: list[Document] = []
    size = 0
    for event in events:
        raw = encode(event).raw
        if run and size + len(raw) > MAX_DOCUMENT:
            yield {"events": run}
            run, size = [], 0
        if len(raw) > MAX_DOCUMENT:
            for start in range(0, len(raw), MAX_DOCUMENT):
                end = start + MAX_DOCUMENT
                yield {"slice": raw[start:end], "last": end >= len(raw)}
        else:
            run.append(event)
            size += len(raw) + 16  # an array's element costs a few bytes besides
    if run:
        yield {"events": run}


def _joined(parts: Iterable[Mapping[str, Any]]) -> Iterator[Document]:
    slices = bytearray()
    for part in parts:
        if "events" in part:
            yield from part["events"]
            continue
        slices += part["slice"]
        if part["last"]:
            yield decode(bytes(slices))
            slices.clear()
