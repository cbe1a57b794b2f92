"""How many cases the tests of this folder try: some 2,000 in all, 100,000 with `-m slow`, shared out evenly.

A test is a function under `@given` without settings of its own. Each run tries the same cases, and no case has a time
limit: a fast machine and a slow one agree.
"""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

CASES, MANY_CASES = 2_000, 100_000

settings.register_profile(
    "fuzz",
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("fuzz")


# first: before pytest leaves out the tests that are not asked for
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give each test its share of the cases; with `-m slow`, of the many."""
    here = Path(__file__).parent
    fuzz = [item for item in items if here in item.path.parents and hasattr(item.obj, "hypothesis")]
    asked_for = config.option.markexpr
    many = "slow" in asked_for and "not slow" not in asked_for
    functions = {item.obj for item in fuzz}
    share = settings(max_examples=max(1, (MANY_CASES if many else CASES) // max(1, len(fuzz))))
    for function in functions:
        share(function)
    if many:
        for item in fuzz:
            item.add_marker("slow")
