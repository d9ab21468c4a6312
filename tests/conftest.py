"""For all tests: these machines are noisy, so nothing fails for having been slow."""

from hypothesis import HealthCheck, settings

settings.register_profile("noisy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("noisy")
