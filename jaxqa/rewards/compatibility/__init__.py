"""What published repositories do besides what their papers say, one module per repository.

Composed from the same pieces as the rewards themselves. Nothing else imports these modules: they
are for comparing numbers with the published code.
"""
