"""For the admin: lists that read their refs in one round trip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.db import models
from django.http import HttpRequest

from .declared import ref_fields
from .querysets import prefetch_refs

if TYPE_CHECKING:
    from django.contrib.admin.views.main import ChangeList

    _Admin = admin.ModelAdmin[Any]
else:
    _Admin = object


class DRefAdminMixin(_Admin):
    """`class ArticleAdmin(DRefAdminMixin, admin.ModelAdmin)`: ref fields in `list_display` cost one round trip a page.

    Those without a column offer no sorting. Forms need no mixin.
    """

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        changes = super().get_changelist_instance(request)
        shown = [field.name for field in ref_fields(self.model) if field.name in changes.list_display]
        if shown:
            rows: models.QuerySet[Any] | list[Any] = changes.result_list
            prefetch_refs(rows, *shown)
        return changes

    def get_sortable_by(self, request: HttpRequest) -> Any:
        without_column = {field.name for field in ref_fields(self.model) if field.columns is None}
        return [name for name in super().get_sortable_by(request) if name not in without_column]
