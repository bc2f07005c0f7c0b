"""Configurations of runs, and which runs exist. No torch here.

config.py    frozen dataclasses -> key       profiles.py  sizes of the set-ups
gains.py     picks and what they bring       plan.py      table -> its runs
store.py     one JSON record a run, atomic, locked
"""
