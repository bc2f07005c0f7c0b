"""What determines a run, and which runs exist. No torch here.

config.py    frozen dataclasses -> key     profiles.py  sizes of the set-ups
plan.py      table -> its runs             store.py     one JSON record a run, atomic, locked
"""
