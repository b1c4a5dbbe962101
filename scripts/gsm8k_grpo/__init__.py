"""The library behind the stages: pure functions; JAX is imported only by the modules that compute with it."""
