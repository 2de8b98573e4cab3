"""Datasets from photos and videos: people for VUNet, heads for avatars, clips for landmarks."""
