"""photo -> log depth: a pretrained backbone and a decoder. START HERE: network.py."""
