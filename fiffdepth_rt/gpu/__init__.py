"""CUDA (cuda.py), and arrays that stay on a GPU (arrays.py, dlpack.py)."""
