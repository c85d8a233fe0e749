"""Settings of the processes that these tests start; each test tells them where its locks are."""

from tests.settings import *  # noqa: F403
