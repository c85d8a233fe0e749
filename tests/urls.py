"""URLs of the test project: the admin; tests that need more use ``override_settings(ROOT_URLCONF=...)``."""

from django.contrib import admin
from django.urls import path

urlpatterns = [path("admin/", admin.site.urls)]
