"""Photos -> a teacher's labels: python -m training.labelling."""
