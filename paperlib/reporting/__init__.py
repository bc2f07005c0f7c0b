"""The reading: records -> tables, figures, claims, one page. No torch here."""
