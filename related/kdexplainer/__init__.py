"""KDExplainer, a tree of experts that shows what distillation does, and its virtual attention
blocks (Xue, Song, Wang, Chen, Wang & Song, IJCAI 2021, arXiv 2105.04181).
"""
