"""What only an NVIDIA GPU can show, as one command: `make gpu`. START HERE: __main__.py.

__main__.py      the command: steps, one after the other -> a report, an exit status
steps.py         which steps there are, in which order, and how long each may take
process.py       a step in a process of its own: task -> findings; what becomes of one that dies or hangs
card.py, gpu_tests.py, nano.py, full_size.py, speed.py       the steps
writing.py       what the steps found -> the report and its picture
rehearsal.py     what a rehearsal has in place of a GPU and of a large model
"""
