"""Durable HTTP calls: one exchange is an activity, the waiting between polls is a durable timer."""
