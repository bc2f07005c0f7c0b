"""The work: a run of the study -> its record.

execution.py  one run     sweep.py  many, over processes     progress.py  lines in the terminal
"""
