"""What `import hstreamlite` costs, as a ratio to starting Python at all.

The two commands alternate, so that a change of the machine's speed meets both, and the best of
each counts: everything else only adds. The goal is a ratio of at most 2.

    python benchmarks/import_time.py [repeats]
"""

import platform
import statistics
import subprocess
import sys
import time

COMMANDS = {"start": "pass", "import": "import hstreamlite"}


def seconds(code: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begin


def main(repeats: int) -> None:
    for code in COMMANDS.values():
        seconds(code)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        for name, code in COMMANDS.items():
            times[name].append(seconds(code))
    print(f"Python {platform.python_version()}, {platform.platform()}, {repeats} repeats")
    for name, values in times.items():
        low, middle, high = min(values), statistics.median(values), max(values)
        print(f"{name:7} {low * 1e3:7.1f} ms min {middle * 1e3:7.1f} median {high * 1e3:7.1f} max")
    print(f"ratio   {min(times['import']) / min(times['start']):7.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
