"""Owns fine-tuning: pairs are checked and parted, trained on, and judged on queries that were held out."""
