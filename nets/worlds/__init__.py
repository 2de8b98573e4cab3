"""The demo worlds: small seeded renderers of data with known ground truth."""
