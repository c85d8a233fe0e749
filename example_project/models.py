"""What lies in the database; what is shared and live lies in the refs of its rows."""

from __future__ import annotations

from django.db import models

from dref_django.fields import DRefCounterField, DRefManager


class Article(models.Model):
    title = models.CharField(max_length=200)
    views = DRefCounterField(name="demo.article.{pk}.views")
    score = DRefCounterField(name="demo.article.{pk}.score", mirror=True)

    objects = DRefManager()

    def __str__(self) -> str:
        return self.title
