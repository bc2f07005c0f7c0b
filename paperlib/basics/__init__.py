"""What every layer may use, and what uses none of them; no torch here.

recipe.py      how weights are trained        statistics.py  rank correlations with exact p-values,
               regret
confidence.py  what confidence does to the score   files.py   atomic writes
"""
