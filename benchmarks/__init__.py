"""Every claim as a command. START HERE: latency.py (speed) and accuracy.py (depth).

Each command starts from the repository's root as a module, and from any folder as a file:

    python -m benchmarks.latency
    python /path/to/the/clone/benchmarks/latency.py

Python puts the folder of a file that it starts at the front of sys.path: benchmarks/, where
`import benchmarks` finds nothing, and where report.py or sets/ could hide a library of that name. Each
command therefore begins with two lines that put the repository's root there instead.
"""

from fiffdepth_rt import telemetry

telemetry.switch_off()
