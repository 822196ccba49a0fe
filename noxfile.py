"""Tests on each Python that is installed: ``nox`` (all of them), ``nox -s tests-3.12`` (one)."""

import nox

EXTRAS = "viewer,training,search,cohort,explain,encoders,hub,dev"
PYTHONS = ["3.11", "3.12", "3.13"]  # 3.14 has not been tried

nox.options.error_on_missing_interpreters = False
nox.options.default_venv_backend = "venv"


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Install the package with every extra and run the tests."""
    session.install("-c", "constraints.txt", f".[{EXTRAS}]")
    session.run("pytest", "-q", *session.posargs)
