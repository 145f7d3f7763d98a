"""Rates of hstreamlite beside its rivals and beside what the machine allows, in one run.

    python -m benchmarks [--workload NAME] [--repeats N] [--quick] [--dir PATH] [--json FILE]
    python -m benchmarks table [--quick] [--goal N] [--rounds N] [--dir PATH] [--json FILE]

The second shows the goals of the engine, each a ratio of the same rounds, and which are met.

A workload is one module here; its run is written once, over the `Log` interface, and every
contender goes through it. A round gives each contender and each physical limit one turn in a new
directory, and the order rotates from round to round, so that a drift of the machine meets all
alike. A comparison holds one guarantee constant: what "memory", "os" and "sync" mean for a rival is
told in `benchmarks.rivals`. A run that does not find every record it wrote fails.

Figures count only when nothing else runs on the machine.
"""
