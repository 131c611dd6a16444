"""Decisions about tokens: who runs, what a step computes, when a request ends. No text, no tensors."""
