"""Models with ref fields, of every kind that Django has."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from django.db import models

from dref_django.fields import DRefCounterField, DRefField, DRefFlagField, DRefManager


@dataclass(frozen=True)
class Mood:
    happy: int = 0
    note: str = ""


class Author(models.Model):
    name = models.CharField(max_length=40)

    def __str__(self) -> str:
        return self.name


class Article(models.Model):
    title = models.CharField(max_length=200)
    author = models.ForeignKey(Author, models.CASCADE, null=True)
    views = DRefCounterField()
    stock = DRefCounterField(default=10)
    featured = DRefFlagField(default=False)
    reactions = DRefField[dict[str, int]](default=dict)
    mood = DRefField(default=Mood())
    label = DRefField(default="")
    score = DRefCounterField(mirror=True, default=1)
    hot = DRefFlagField(mirror=True)

    objects = DRefManager()

    def __str__(self) -> str:
        return self.title


class Pinned(Article):
    """The same rows."""

    class Meta:
        proxy = True


class Review(Article):
    """Another table; the refs of an article are the article's."""

    stars = DRefCounterField(default=3)


class Tracked(models.Model):
    hits = DRefCounterField(group="{model}.{pk}")
    last = DRefField[str](type=str, group="{model}.{pk}")

    class Meta:
        abstract = True


class Page(Tracked):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)

    def __str__(self) -> str:
        return str(self.pk)


class Topic(Tracked):
    slug = models.CharField(max_length=100, primary_key=True)
    followers = DRefCounterField(name="follow:{pk}")

    def __str__(self) -> str:
        return self.slug


class Seat(models.Model):
    pk = models.CompositePrimaryKey("hall", "number")
    hall = models.CharField(max_length=20)
    number = models.IntegerField()
    bookings = DRefCounterField()
    free = DRefFlagField(default=True)

    def __str__(self) -> str:
        return f"{self.hall} {self.number}"
