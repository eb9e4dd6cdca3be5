"""What the numbers mean: the parts of a record, findings, comparisons."""
