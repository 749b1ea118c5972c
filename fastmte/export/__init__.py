"""Trained ensembles in the forms that other programs read."""
