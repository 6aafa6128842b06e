"""TensorRT: building plans (START HERE: build.py) and running them (backend.py)."""
