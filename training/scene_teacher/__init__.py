"""scenes and a pretrained backbone -> a teacher for photos of rooms. START HERE: __main__.py."""
