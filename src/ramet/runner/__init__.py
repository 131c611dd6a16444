"""Runners: what computes a `ModelInput`. `ramet.runner.fake` needs no torch, so nothing is imported here."""
