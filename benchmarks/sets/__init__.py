"""What benchmarks score on, a file per set: its `frames` gives every photo with its truth, with progress."""
