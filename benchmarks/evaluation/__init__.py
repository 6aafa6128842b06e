"""What the commands that score depth share. START HERE: task.py.

sets/ ── frames ──► task.py ── method ──► prediction ── protocol ──► aligned depth ── training/metrics.py
                      ▲                                                                       │
                  spread.py: several processes, or a Ray cluster                  tables.py ◄─┘
"""
