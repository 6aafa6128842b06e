"""CUDA, and arrays that stay on a GPU."""
