"""SWEP, learning to perturb word embeddings (Lee, Kang, Lee & Hwang, ACL 2021, arXiv 2105.02692),
on the first feature map of an image network.
"""
