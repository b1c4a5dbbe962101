"""Plays Kaggle's module of secrets: the notebook has those whose names begin with PLAYED_ in the environment."""

import os


class UserSecretsClient:
    def get_secret(self, label: str) -> str:
        if f"PLAYED_{label}" not in os.environ:
            raise RuntimeError(f"No user secrets exist for label {label}.")
        return os.environ[f"PLAYED_{label}"]
