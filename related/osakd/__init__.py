"""Online self-acquired knowledge distillation (Tzelepi & Tefas, 2021): no teacher."""
