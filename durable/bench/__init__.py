"""The benchmarks of ``durable bench``: workloads, what they cost, and the floor below them.

Rule of this package: it uses the hub as any program does, on stores of its own making, and takes away what it made.
Each run of a workload has a process to itself (``child``); ``suite`` starts those and puts the figures together.
docs/performance.md says what the workloads are and what is measured.
"""
