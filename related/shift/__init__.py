"""ShiftKD (arXiv 2312.16242): students and their teacher where the test images are not like the
training images.
"""
