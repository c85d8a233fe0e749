"""What saving and deleting rows does to their refs: staged values are written, and the refs of deleted rows go.

Both happen when the database transaction commits. What follows one another in a transaction is one batch, so that a
thousand rows that are deleted together cost a few round trips. Within `join_transaction()` (postgres) it is part of the
transaction itself.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from django.db import connections, models, transaction
from django.db.models import signals

from dref_django import backends, workspace
from dref_django.backends.base import Backend
from dref_django.binding import UNSET
from dref_django.exceptions import Conflict, DRefError
from dref_django.flows import refuse_running_loop
from dref_django.op_ids import new_op_id
from dref_django.protocol import Delete, Reply, Write
from dref_django.streams import get_hub

from . import declared, notes
from .notes import Loaded, Staged

logger = logging.getLogger("dref_django")

BATCH: Final = 200
"""Commands that are sent in one atomic step."""


def connect(model: type[models.Model]) -> None:
    """Listening to deletions also keeps Django from deleting the rows of this model without looking at them."""
    signals.post_save.connect(_saved, sender=model, dispatch_uid="dref_django.fields")
    signals.pre_save.connect(_saving, sender=model, dispatch_uid="dref_django.fields")
    signals.post_delete.connect(_deleted, sender=model, dispatch_uid="dref_django.fields")
    signals.class_prepared.connect(_prepared, sender=model, dispatch_uid="dref_django.fields")


def _prepared(sender: type[models.Model], **_: object) -> None:
    """`objects` has `with_refs` unless the model has a manager of its own."""
    from .querysets import DRefManager

    managers = sender._meta.local_managers
    if [manager.auto_created for manager in managers] == [True]:
        managers.clear()
        manager: Any = DRefManager()
        manager.auto_created = True
        sender.add_to_class("objects", manager)


def _saving(sender: type[models.Model], instance: models.Model, raw: bool, using: str, **_: object) -> None:
    if raw and instance.pk is not None:
        for field in declared.ref_fields(sender):
            if field.columns is not None:
                field.columns.keep(instance, using)


def _saved(
    sender: type[models.Model],
    instance: models.Model,
    using: str,
    update_fields: Iterable[str] | None,
    **_: object,
) -> None:
    if update_fields is None:  # else only what it names is saved, and a field without column is never among it
        _compare_edited(instance)
        write_staged(instance, using)


def _compare_edited(row: models.Model) -> None:
    """At once, so that a conflict rolls the row's transaction back as well."""
    for name, (shown, value) in notes.edited(row):
        field = declared.ref_field(type(row), name)
        ref = getattr(row, name)
        absent = shown is None and field.ref_default is UNSET
        if not (ref.set_if_absent(value) if absent else ref.compare_and_set(shown, value)):
            raise Conflict(
                f"{ref.name!r} was changed by somebody else while it was edited in a form; it was not written"
            )
        notes.drop(row, name)


def write_staged(row: models.Model, using: str) -> None:
    """Writes what is staged when the transaction of the database `using` commits."""
    for name, staged in notes.staged(row):
        field = declared.ref_field(type(row), name)
        ref = field.pattern.name(row.pk, field.database_of(row))
        command = Write(ref, field.check_value(staged.value), op=new_op_id())
        _at_commit(using, _Task(field.ref_using, command, row, name, staged))


def _deleted(sender: type[models.Model], instance: models.Model, using: str, **_: object) -> None:
    for field in declared.ref_fields(sender):
        if field.owner is sender._meta.concrete_model:  # else the row of the parent, which goes by itself, or stays
            ref = field.pattern.name(instance.pk, using)
            _at_commit(using, _Task(field.ref_using, Delete(ref, op=new_op_id())))


class _Task(NamedTuple):
    using: str
    """The alias in DREF_BACKENDS."""
    command: Write | Delete
    row: models.Model | None = None
    field: str = ""
    staged: Staged | None = None


def _at_commit(using: str, task: _Task) -> None:
    backend = backends.get_backend(task.using)
    if backend.supports_join and backend.is_joined():
        _Batch([task])()
        return
    connection = connections[using]
    if connection.in_atomic_block and connection.run_on_commit:
        last_hook: tuple[Any, ...] = connection.run_on_commit[-1]
        savepoints, last = last_hook[:2]
        if isinstance(last, _Batch) and savepoints == set(connection.savepoint_ids):
            last.add(task)
            return
    transaction.on_commit(_Batch([task]), using=using)


class _Batch:
    """Tasks in the order in which they came; the last one for a name counts."""

    __qualname__ = "dref_django.fields"  # Django names a hook that raises by it

    def __init__(self, tasks: Iterable[_Task]) -> None:
        self._tasks: dict[tuple[str, str], _Task] = {}
        for task in tasks:
            self.add(task)

    def add(self, task: _Task) -> None:
        self._tasks[task.using, task.command.name] = task

    def __call__(self) -> None:
        with workspace.outside():  # the database has committed, whatever becomes of a transaction() of refs
            self._delete([task for task in self._tasks.values() if task.staged is None])
            self._write([task for task in self._tasks.values() if task.staged is not None])

    def _delete(self, tasks: list[_Task]) -> None:
        try:
            apply(tasks)
        except DRefError as error:  # the rows are gone, whoever deleted them can do nothing about it
            logger.warning("dref: refs of deleted rows stay until `manage.py dref prune` removes them: %s", error)

    def _write(self, tasks: list[_Task]) -> None:
        """What is raised is raised by the commit; the values stay staged, so that another `save()` writes them."""
        for task, reply in apply(tasks):
            if task.row is not None and notes.note_of(task.row, task.field) is task.staged:
                data = task.command.data if isinstance(task.command, Write) else None
                if isinstance(data, int | bytes):
                    notes.put(task.row, task.field, Loaded(notes.key_of(task.row), reply.version, data))


def apply(tasks: Iterable[_Task]) -> list[tuple[_Task, Reply]]:
    """Runs the commands, many in one round trip; each batch is atomic, all of them together are not."""
    refuse_running_loop()
    done: list[tuple[_Task, Reply]] = []
    slots: dict[tuple[str, object], list[_Task]] = {}
    for task in tasks:
        backend = backends.get_backend(task.using)
        slots.setdefault((task.using, backend.slot(task.command.name)), []).append(task)
    for (using, _), listed in slots.items():
        for start in range(0, len(listed), BATCH):
            part = listed[start : start + BATCH]
            done += zip(part, _execute(backends.get_backend(using), [task.command for task in part]), strict=True)
    return done


def _execute(backend: Backend, commands: list[Write | Delete]) -> list[Reply]:
    replies = backend.execute(commands)
    if not (backend.supports_join and backend.is_joined()):
        hub = get_hub(backend)
        for command, reply in zip(commands, replies, strict=True):
            data = command.data if isinstance(command, Write) else None
            hub.note(command.name, reply.version, data if isinstance(data, int | bytes) else None, reply.left)
    return replies
