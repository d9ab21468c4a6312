"""`make demo`: a job is applied, watched until it has ended, and explained. Standard library only."""
