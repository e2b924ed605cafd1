"""Evaluation: how well predictions agree with references, per label and case, with undefined values stated as such."""
