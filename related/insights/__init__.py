"""Knowledge distillation between networks that are trained already, each on a share of the images
(Alballa & Canini, 2024).
"""
