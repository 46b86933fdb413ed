"""Tuning the decoder to a job while tracking, and what it shares with training: clips, their memory and their loss."""
