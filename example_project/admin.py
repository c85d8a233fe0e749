"""The articles in Django's admin: counts that move by themselves, rows sorted by the mirrored score.

The pages of refs, locks and elections need no line here: they come with `dref_django` in INSTALLED_APPS.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from django.contrib import admin, messages
from django.contrib.admin.models import LogEntry
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from dref_django import DRefError
from dref_django.templatetags.dref import dref

from .models import Article
from .work import proofread

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    ArticleBase = admin.ModelAdmin[Article]
    EntryBase = admin.ModelAdmin[LogEntry]
else:
    ArticleBase = EntryBase = admin.ModelAdmin


@admin.register(Article)
class ArticleAdmin(ArticleBase):
    """A form edits views and score, too: what it saves replaces the value that it has shown, and no later one."""

    list_display = ("title", "live_views", "live_score")
    list_per_page = 100
    ordering = ("-score", "pk")
    search_fields = ("title",)
    actions = ("proofread",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Article]:
        """One query, and one round trip for the values of all rows of a page."""
        return Article.objects.with_refs("views", "score").order_by(*self.ordering)  # type: ignore[misc]

    @admin.display(description="Views")
    def live_views(self, article: Article) -> SafeString:
        return dref(article.views, format="number", empty="0")

    @admin.display(description="Score", ordering="score")
    def live_score(self, article: Article) -> SafeString:
        return dref(article.score, format="number", empty="0")

    @admin.action(description="Proofread, half a minute, one at a time", permissions=["change"])
    def proofread(self, request: HttpRequest, articles: QuerySet[Article]) -> None:
        """It outlives the request, and holds a lock: there is something to see, and to break, on the page of locks."""

        def run() -> None:
            try:
                proofread()
            except DRefError as error:
                logger.warning("demo: proofreading was given up: %s", error)

        threading.Thread(target=run, name="demo-proofread", daemon=True).start()
        messages.info(request, "Proofreading begins once nobody else proofreads. See the page of locks.")


@admin.register(LogEntry)
class LogEntryAdmin(EntryBase):
    """Who did what in the admin, breaking locks and changing refs included; nothing here can be changed."""

    list_display = ("action_time", "user", "content_type", "object_repr", "change_message")
    list_filter = ("content_type",)
    list_select_related = ("user", "content_type")
    list_display_links = None

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
