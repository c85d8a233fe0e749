"""The frame of the admin's pages: their addresses, who may see them, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import URLPattern, path, reverse

from dref_django import conf
from dref_django.exceptions import DRefError
from dref_django.models import Ref

from . import health, locks, presence, refs, rights
from .frame import Frame

View = Callable[..., HttpResponse]

if TYPE_CHECKING:
    Base = admin.ModelAdmin[Ref]
else:
    Base = admin.ModelAdmin


class RefAdmin(Base):
    """Pages over what the back ends hold. The model has no table; none of its own pages are used."""

    def get_urls(self) -> list[URLPattern]:
        def page(route: str, view: View, name: str) -> URLPattern:
            return path(route, self.admin_site.admin_view(self._framed(view)), name=f"dref_django_ref_{name}")

        return [
            page("", refs.listing, "changelist"),
            page("locks/", locks.listing, "locks"),
            page("locks/break/", locks.breaking, "break"),
            page("elections/", locks.elections, "elections"),
            page("presence/", presence.presence, "presence"),
            page("health/", health.health, "health"),
            page("<path:object_id>/change/", refs.one, "change"),
        ]

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return rights.may(request, rights.CHANGE)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether any page is there for the user; each page asks for itself."""
        return rights.may_see_locks(request)

    def _framed(self, view: View) -> View:
        def framed(request: HttpRequest, **kwargs: Any) -> HttpResponse:
            if view is refs.listing and rights.may_see_locks(request) and not rights.may_see_refs(request):
                return HttpResponseRedirect(reverse("admin:dref_django_ref_locks", current_app=self.admin_site.name))
            frame = Frame(self, request, _alias(request))
            try:
                return view(frame, request, **kwargs)
            except DRefError as error:
                return frame.trouble(error)

        return framed


def _alias(request: HttpRequest) -> str:
    try:
        aliases = conf.aliases()
    except ImproperlyConfigured as error:
        raise Http404(str(error)) from error
    alias = request.GET.get("using", conf.DEFAULT_ALIAS)
    if alias not in aliases:
        raise Http404(f"DREF_BACKENDS has no alias {alias!r}")
    return alias
