"""Small renderers of data with known truth: made on the fly, seeded, downloading nothing."""
