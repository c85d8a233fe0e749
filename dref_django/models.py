"""No table of ours is a model. `Ref` only carries the permissions that the live pages and the admin ask for."""

from __future__ import annotations

from django.db import models


class Ref(models.Model):
    """Distributed refs and locks as a whole, for Django's permissions; nothing is stored in it."""

    class Meta:
        managed = False
        default_permissions = ()
        permissions = (
            ("view_ref", "Can watch refs and locks"),
            ("change_ref", "Can change refs"),
            ("break_lock", "Can break locks"),
        )
        verbose_name = "distributed ref"

    def __str__(self) -> str:
        return "distributed refs"
