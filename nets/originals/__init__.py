"""Reading what the originals wrote: configurations, checkpoints."""
