"""The chaos rig: the whole service as processes, a carrier that goes wrong by seeded dice, and kills at random.

`python -m benchmarks.reliability --help`, or `make chaos`. What it proves is in docs/reliability.md.
"""
