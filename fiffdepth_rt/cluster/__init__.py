"""Work on many photos, here or on every machine of a Ray cluster: what labelling, scoring and batches share.

    connecting.py   a cluster's address -> this process is connected, and the workers have our packages
    sharing.py      what each actor asks for, so that a share is left to those who read
    actors.py       indices ──► read (tasks, any core) ──► actors, each with an opened model ──► rows
    photo_rows.py   a photo on its way between two processes
    names.py        millions of names in little memory
    progress.py     how far, how fast, how long still
    tally.py        what was made, what was there, what was skipped and why

A worker may die at any moment: Ray runs its task again elsewhere. Results are written whole or not at all,
and the same photo gives the same result, so nothing is lost or there twice.

Only connecting.py and actors.py import Ray, which is an extra: pip install 'fiffdepth-rt[cluster]'.
"""
