"""Parts of wandb that are private, each with the reason. All were seen in wandb 0.31.0."""


def is_logged_in() -> bool:
    """Whether wandb knows a key, from the environment, its settings or ~/.netrc.

    The public way to ask, `wandb.login()`, prompts at a terminal when there is none.
    """
    import wandb
    from wandb.sdk.lib import wbauth

    settings = wandb.setup().settings
    return bool(settings.api_key or wbauth.read_netrc_auth(host=settings.base_url))
