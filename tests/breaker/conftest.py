from __future__ import annotations

import pytest
from hypothesis import settings

from support.reused import reused_database

settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.load_profile("patient")


@pytest.fixture
async def database_url(admin_url: str, template: str) -> str:
    return await reused_database(admin_url, template, "breaker")
