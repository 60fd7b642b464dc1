"""MongoDB for durable: :class:`MongoBackend`, found through the entry-point group ``durable.backends``."""

try:
    from durable_mongodb._backend import MongoBackend
except ModuleNotFoundError as missing:
    if missing.name not in ("pymongo", "bson"):
        raise
    raise ModuleNotFoundError(
        "the MongoDB backend needs a driver; install it with: pip install 'durable-orchestrations[mongodb]'",
        name=missing.name,
    ) from missing

__all__ = ["MongoBackend"]
