"""What the pages are made of: figures, tables, sentences, verdicts. No torch."""
