"""The permissions of refs and locks. No table is made."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("dref_django", "0001_initial"),
    ]

    operations = [
        migrations.CreateModel(
            name="Ref",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
            ],
            options={
                "verbose_name": "distributed ref",
                "permissions": (
                    ("view_ref", "Can watch refs and locks"),
                    ("change_ref", "Can change refs"),
                    ("break_lock", "Can break locks"),
                ),
                "managed": False,
                "default_permissions": (),
            },
        ),
    ]
