"""Rows that refuse a holder whose lock went to another: `FencedModel`, its manager and its field.

    class Order(FencedModel): ...

    with lock("orders") as held, fence(held):
        Order.objects.filter(state="new").update(state="billed")     # LockLost when the token is old

A change under a fence is one transaction: first all rows that it is about are *claimed*, which stamps them with the
token unless theirs is newer and locks them; if one is newer, everything is rolled back; then the change itself touches
rows with this very token only. Without a fence a model behaves as any other, and no save ever lowers a row's token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from django.core import checks
from django.db import models, router, transaction

from .fencing import current_token, too_old

M = TypeVar("M", bound=models.Model)
R = TypeVar("R")


class FenceTokenField(models.BigIntegerField):  # type: ignore[type-arg]
    """The highest fencing token under which the row was changed; 0 for none."""

    def pre_save(self, model_instance: models.Model, add: bool) -> Any:
        token = current_token()
        if token is not None:
            setattr(model_instance, self.attname, token)
            return token
        return super().pre_save(model_instance, add) if add else models.F(self.attname)

    def deconstruct(self) -> Any:
        name, _, args, kwargs = super().deconstruct()
        return name, "django.db.models.BigIntegerField", args, kwargs


class FencedQuerySet(models.QuerySet[M]):
    """`update`, `delete` and `bulk_update` obey the fence. Raw SQL and the rows that a delete cascades to do not."""

    def update(self, **kwargs: Any) -> int:
        return self._fenced(lambda rows: super(FencedQuerySet, rows).update(**kwargs))  # noqa: UP008

    def delete(self) -> tuple[int, dict[str, int]]:
        return self._fenced(lambda rows: super(FencedQuerySet, rows).delete())  # noqa: UP008

    def bulk_update(self, objs: Iterable[M], fields: Iterable[str], batch_size: int | None = None) -> int:
        self._for_write = True
        with transaction.atomic(using=self.db):
            return super().bulk_update(objs, fields, batch_size)  # by update()

    def bulk_create(self, objs: Iterable[M], *args: Any, **kwargs: Any) -> list[M]:
        if current_token() is not None and (kwargs.get("update_conflicts") or len(args) > 2):
            raise ValueError("bulk_create(update_conflicts=...) cannot be fenced: it does not ask for the rows' tokens")
        return super().bulk_create(objs, *args, **kwargs)

    update.alters_data = delete.alters_data = bulk_update.alters_data = bulk_create.alters_data = True  # type: ignore[attr-defined]
    delete.queryset_only = True  # type: ignore[attr-defined]

    def _fenced(self, change: Callable[[FencedQuerySet[M]], R]) -> R:
        token = current_token()
        if token is None:
            return change(self)
        self._for_write = True
        with transaction.atomic(using=self.db):
            rows = self.using(self.db)
            claim(rows, token)
            return change(rows.filter(fence_token=token))


FencedManager = models.Manager.from_queryset(FencedQuerySet)


class FencedModel(models.Model):
    """A model whose rows remember the highest fencing token that changed them. Abstract; see `fence`.

    A manager of one's own is made of `FencedQuerySet` (`FencedManager` is it).
    """

    fence_token = FenceTokenField(default=0, editable=False)

    objects = FencedManager()

    class Meta:
        abstract = True

    def save_base(
        self,
        raw: bool = False,
        force_insert: Any = False,
        force_update: bool = False,
        using: str | None = None,
        update_fields: Iterable[str] | None = None,
    ) -> None:
        def save() -> None:
            super(FencedModel, self).save_base(raw, force_insert, force_update, using, update_fields)

        self._fenced(using, save)

    def delete(self, using: str | None = None, keep_parents: bool = False) -> tuple[int, dict[str, int]]:
        return self._fenced(using, lambda: super(FencedModel, self).delete(using, keep_parents))

    delete.alters_data = True  # type: ignore[attr-defined]

    def _fenced(self, using: str | None, change: Callable[[], R]) -> R:
        token = current_token()
        if token is None:
            return change()
        alias, before = using or router.db_for_write(type(self), instance=self), self.fence_token
        try:
            with transaction.atomic(using=alias):
                claim(type(self)._base_manager.using(alias).filter(pk=self.pk), token)
                return change()
        except BaseException:
            self.fence_token = before
            raise

    def _do_update(self, base_qs: Any, *args: Any, **kwargs: Any) -> Any:
        """Only the row that was claimed: not one that a newer holder has made since, where there was none."""
        token = current_token()
        if token is not None and base_qs.model._meta.concrete_model is _table_of(type(self)):
            base_qs = base_qs.filter(fence_token=token)
        return super()._do_update(base_qs, *args, **kwargs)

    @classmethod
    def check(cls, **kwargs: Any) -> list[checks.CheckMessage]:
        found: list[checks.CheckMessage] = super().check(**kwargs)
        if not isinstance(cls._default_manager.all(), FencedQuerySet):
            found.append(
                checks.Error(
                    f"The default manager of {cls.__name__} is not made of FencedQuerySet, so that a fence does not "
                    "hold what it updates or deletes.",
                    hint="Make it with models.Manager.from_queryset(FencedQuerySet), or derive it from FencedManager.",
                    obj=cls,
                    id="dref.E050",
                )
            )
        return found


def claim(rows: models.QuerySet[Any], token: int) -> None:
    """Stamps the rows with the token and locks them until the transaction ends. `LockLost` when one has a newer one."""
    rows = rows.order_by()
    table = _table_of(rows.model)
    mine = rows
    if rows.model._meta.concrete_model is not table:  # the column is a parent's: its table must be asked itself
        mine = table._base_manager.using(rows.db).filter(pk__in=rows.values("pk"))
    models.QuerySet.update(mine.filter(fence_token__lte=token), fence_token=token)
    if rows.filter(fence_token__gt=token).exists():
        raise too_old(token, f"A row of {rows.model._meta.label}")


def _table_of(model: type[models.Model]) -> type[models.Model]:
    return cast("type[models.Model]", model._meta.get_field("fence_token").model._meta.concrete_model)
