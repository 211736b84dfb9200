"""Matrix products with packed weights, in every precision."""
