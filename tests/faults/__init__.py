"""Random histories on the real API server: what must hold, holds whatever happens, and all is as wanted in the end."""
