"""The test project with django-unfold, which has to stand before Django's admin."""

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as _APPS

INSTALLED_APPS = ["unfold", *_APPS]
