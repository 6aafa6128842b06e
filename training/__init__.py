"""data -> checkpoint. START HERE: train.py, the paper's method; nano/__main__.py trains the bundled model."""
