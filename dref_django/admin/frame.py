"""What every page shows around its own content."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlencode

from django.contrib.admin import ModelAdmin
from django.contrib.admin.utils import quote
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.urls import reverse

from dref_django import conf
from dref_django.exceptions import DRefError

from . import rights


class Frame:
    """One request: the site it came through, and the back end it is about."""

    def __init__(self, model_admin: ModelAdmin[Any], request: HttpRequest, using: str) -> None:
        self.using = using
        self._admin = model_admin
        self._request = request
        request.current_app = model_admin.admin_site.name

    def url(self, page: str, *, object_id: str | None = None, **query: object) -> str:
        """The address of a page of this site, about the same back end."""
        args = [] if object_id is None else [quote(object_id)]
        address = reverse(f"admin:dref_django_ref_{page}", args=args, current_app=self._admin.admin_site.name)
        if self.using != conf.DEFAULT_ALIAS:
            query["using"] = self.using
        shown = {key: value for key, value in query.items() if value != ""}
        return f"{address}?{urlencode(shown)}" if shown else address

    def render(self, template: str, context: Mapping[str, Any], status: int = HTTPStatus.OK) -> TemplateResponse:
        request = self._request
        own = {
            "opts": self._admin.opts,
            "tabs": self._tabs(),
            "using": self.using,
            "aliases": conf.aliases(),
            "default_alias": conf.DEFAULT_ALIAS,
            "is_live": find_spec("channels") is not None,
            "may_change": rights.may(request, rights.CHANGE),
            "may_break": rights.may(request, rights.BREAK),
        }
        everything = {**self._admin.admin_site.each_context(request), **own, **context}
        return TemplateResponse(request, f"admin/dref_django/{template}", everything, status=status)

    def trouble(self, error: DRefError) -> TemplateResponse:
        """Instead of the page: why it cannot be shown."""
        status = HTTPStatus.SERVICE_UNAVAILABLE
        return self.render("trouble.html", {"title": "Not available", "trouble": str(error)}, status)

    def _tabs(self) -> list[tuple[str, str, bool]]:
        """(title, address, whether it is this page)."""
        here = self._request.path
        names = {"changelist": "Refs", "locks": "Locks", "elections": "Elections"}
        names |= {"presence": "Presence", "health": "Health"}
        if not rights.may_see_refs(self._request):
            names = {page: title for page, title in names.items() if page in ("locks", "elections")}
        return [(title, self.url(page), here == self.url(page).partition("?")[0]) for page, title in names.items()]
