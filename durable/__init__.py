"""Durable orchestrations for asyncio services."""
