import pytest
from tiny_families import HEAD


@pytest.fixture(params=list(HEAD))
def family(request):
    return request.param


@pytest.fixture(params=["modern", "classic"])
def layout(request):
    return request.param
