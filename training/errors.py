"""What may go wrong in training. Every message says what happened, why, and what to do.

RuntimeError
└── TrainingError      a run cannot start or go on
ValueError
├── ConfigError        the configuration cannot be used                            config.py
├── DataError          a dataset, or a store of labels, cannot be used             data/samples.py
├── SampleError        one sample cannot be used: it is skipped, or counted        data/samples.py
│   └── LabelError     the label of one photo is missing or damaged                data/labels.py
└── TeacherError       a teacher cannot be used                                    labelling/teachers.py

Files that cannot be written are the runtime's OutputError (fiffdepth_rt/errors.py), weights that cannot be
read the CheckpointError of weights/errors.py.
"""

from __future__ import annotations


class TrainingError(RuntimeError):
    """A run cannot start or go on; the message says where it stopped and what to do."""
