"""Offloaded values in the collection ``payloads``: one document each, or several where one document cannot hold it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

from durable_mongodb import _driver
from durable_mongodb._driver import Document
from durable_mongodb._history import MAX_DOCUMENT
from durable_mongodb._indexes import PAYLOADS_KEY


async def put(payloads: _driver.Collection, instance_id: str, values: Mapping[str, bytes]) -> None:
    """See :meth:`durable.backend.Backend.put_payloads`."""
    await payloads.insert([piece for key, value in values.items() for piece in pieces(instance_id, key, value)])


async def get(payloads: _driver.Collection, instance_id: str, keys: Collection[str]) -> dict[str, bytes]:
    """See :meth:`durable.backend.Backend.get_payloads`. A value of which a piece is missing is not there yet."""
    pieces: defaultdict[str, list[Document]] = defaultdict(list)
    where = {"instance_id": {"$eq": instance_id}, "key": {"$in": list(keys)}}
    for document in await payloads.find(where, sort=[("key", 1), ("piece", 1)], index=PAYLOADS_KEY):
        pieces[document["key"]].append(document)
    return {
        key: b"".join(document["data"] for document in found)
        for key, found in pieces.items()
        if len(found) == found[0]["of"]
    }


def pieces(instance_id: str, key: str, value: bytes) -> Iterator[Document]:
    """The documents of one value."""
    starts = range(0, len(value), MAX_DOCUMENT) or range(1)
    for number, start in enumerate(starts):
        yield {
            "_id": f"{instance_id}/{key}/{number:04d}",
            "instance_id": instance_id,
            "key": key,
            "piece": number,
            "of": len(starts),
            "data": value[start : start + MAX_DOCUMENT],
        }
