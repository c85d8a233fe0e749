"""Refs, locks, elections and the health of back ends in Django's admin.

Registered with the default site; `register(site)` adds the same pages to a site of your own. Django's admin imports
this package when it is installed, nothing else does.

`pages.py` the addresses and who may see what, `frame.py` what is around every page, `refs.py`, `locks.py`,
`presence.py` and `health.py` the pages themselves, `sparkline.py` a line on one of them, `audit.py` the trace that
every change leaves.
"""

from __future__ import annotations

from django.contrib import admin
from django.contrib.admin import AdminSite

from dref_django.models import Ref

from .pages import RefAdmin

__all__ = ["RefAdmin", "register"]


def register(site: AdminSite) -> None:
    """Adds the pages to `site`."""
    site.register(Ref, RefAdmin)


register(admin.site)
