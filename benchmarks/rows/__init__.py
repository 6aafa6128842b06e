"""One row of the latency table: what it is, how it is measured, in a process of its own."""
