"""The work: a run of the study -> its record.

execution.py  one run                     kinds.py     what each kind of run computes
sweep.py      many runs, over processes   progress.py  lines in the terminal
"""
