"""The trace of what was done in the admin: Django's own log entries, and the log."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, cast

from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.contenttypes.models import ContentType
from django.db import router, transaction
from django.http import HttpRequest

from dref_django.models import Ref

logger = logging.getLogger("dref_django")

LONGEST: Final = 500
"""Characters of a value that an entry keeps."""


class Trace:
    """`forget()`: nothing was done after all."""

    def __init__(self) -> None:
        self.kept = True

    def forget(self) -> None:
        self.kept = False


@contextmanager
def traced(request: HttpRequest, what: str, message: str, *, object_id: str = "") -> Iterator[Trace]:
    """Writes the entry, does what the block does, and keeps the entry only if the block says so and does not raise.

    In this order, so that nothing is done that could not be written down. `object_id` names a ref's page.
    """
    trace = Trace()
    database = router.db_for_write(LogEntry)
    with transaction.atomic(using=database):
        LogEntry.objects.using(database).create(
            user_id=cast("int", request.user.pk),  # only who is logged in gets here
            content_type=ContentType.objects.db_manager(database).get_for_model(Ref),
            object_id=object_id or None,
            object_repr=what[:200],
            action_flag=CHANGE,
            change_message=message,
        )
        yield trace
        if not trace.kept:
            transaction.set_rollback(True, using=database)
    if trace.kept:
        extra = {"dref_event": "changed_in_admin", "dref_name": what, "dref_actor": str(request.user)}
        logger.warning("dref: %s: %s, by %s in the admin", what, message, request.user, extra=extra)


def shortened(text: str) -> str:
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "\N{HORIZONTAL ELLIPSIS}"
