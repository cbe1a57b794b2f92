"""The operations that a faster twin may replace, each as a plain function.

Where hf_genai is installed, `hf_genai.kernels` puts its twins into `TWINS` under the names of these functions. A model
that was loaded from the Hub without hf_genai has a copy of this file of its own, whose table stays empty.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

# name of an operation -> a function of the plain operation and then the operation's own arguments
TWINS: dict[str, Callable[..., Any]] = {}


def replaceable(plain: Function) -> Function:
    """Let the twin called `plain.__name__`, where there is one, run in place of `plain`.

    A twin gets `plain` as its first argument, and calls it where the twin would be wrong or no faster.
    """
    name = plain.__name__

    @wraps(plain)
    def operation(*args, **kwargs):
        twin = TWINS.get(name)
        return plain(*args, **kwargs) if twin is None else twin(plain, *args, **kwargs)

    return operation  # type: ignore[return-value]
