"""Knowledge distillation for quantization-aware training of transformer encoders (Kim et al.,
EMNLP 2022, arXiv 2211.11014), on a small vision transformer.
"""
