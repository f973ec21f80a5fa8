"""From a finished or broken run to what of its claims holds."""
