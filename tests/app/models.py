from __future__ import annotations

from django.db import models

from dref_django import FencedModel


class Order(FencedModel):
    name = models.CharField(max_length=40, unique=True)
    state = models.CharField(max_length=40, default="new")

    def __str__(self) -> str:
        return self.name


class Rush(Order):
    """The token's column stands in the parent's table."""

    courier = models.CharField(max_length=40, default="")
