"""photos -> a teacher's labels. START HERE: command.py."""
