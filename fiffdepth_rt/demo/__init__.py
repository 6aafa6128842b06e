"""A page to play with, in a browser on this machine: `fiffdepth demo`. START HERE: page.py.

    page.py      what a visitor sees, and what each click calls
    work.py      a photo, its depth map, its metres: all that the page shows, without a page
    engines.py   the models that a visitor may choose, one open at a time
    limits.py    how much of everything
    server.py    who may send what, and what becomes of it: limits, cleaning, no way out

The page is made with Gradio (the extra [demo]). Only page.py and server.py import it.
"""
