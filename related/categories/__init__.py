"""Categories of knowledge distillation (Yang, Yu, An & Xu, 2023, arXiv 2306.10687), and what the
survey's table of methods lacked here: losses of this decade, and a ranker of data sets.

The two losses, DIST and logit standardisation, are in `paperlib.losses`, as every loss is.
"""
