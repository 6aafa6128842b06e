"""Depth maps over HTTP: `fiffdepth serve`. START HERE: app.py.

    request ──► app.py ──► a replica (work.py) ──► reply

    app.py        what is asked, how much is taken, who waits: an ASGI application that needs no Ray
    upload.py     a request's body -> the photo's bytes: lengths, forms, slow senders
    forms.py      in which form a depth map is wanted, and made
    work.py       a photo's bytes -> reply, with an opened Depth
    replies.py    replies and refusals, as values
    limits.py     how much of everything
    metrics.py    what Prometheus reads
    listening.py  a server that no slow client can hold
    replicas.py   the same work on Ray Serve: one Depth per replica, photos in batches

Only replicas.py imports Ray. The extra is [serve].
"""
