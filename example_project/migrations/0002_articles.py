"""A hundred articles to look at."""

from typing import Any

from django.db import migrations

SUBJECTS = ("Locks", "Leases", "Counters", "Clocks", "Queues", "Quorums", "Caches", "Streams", "Graphs", "Proofs")
PLACES = ("Berlin", "Delft", "Graz", "Kyoto", "Lima", "Oslo", "Porto", "Quito", "Turin", "Wien")


def write(apps: Any, schema_editor: Any) -> None:
    article = apps.get_model("example_project", "Article")
    titles = [f"{subject} in {place}" for subject in SUBJECTS for place in PLACES]
    article.objects.using(schema_editor.connection.alias).bulk_create([article(title=title) for title in titles])


class Migration(migrations.Migration):
    dependencies = [("example_project", "0001_initial")]
    operations = [migrations.RunPython(write, migrations.RunPython.noop)]
