"""Photo files of every kind -> uint8 pixels. START HERE: loading.py."""
