"""Networks: torch modules without any training code."""
