"""Model fields whose values are refs: shared by all processes, changed atomically, pushed live.

    class Article(models.Model):
        views = DRefCounterField()
        featured = DRefFlagField(default=False)

`article.views` is a ref of that row with the whole API; there is no column. In reading order:

- `names.py`: from model, primary key and field to the name of the ref, and back;
- `notes.py`: what an instance remembers of its refs: values that are staged, values that were loaded;
- `rows.py`: the ref of one row, and `Article.views`, which makes it without the row;
- `declared.py`: the fields themselves, as Django sees them;
- `lifecycle.py`: saving and deleting rows;  `querysets.py`: `with_refs`;
- `columns.py`, `flusher.py`: mirrored columns, and who brings them up to date;
- `forms.py`, `admin.py`, `serializers/`: Django's edges;  `orphans.py`: refs whose row is gone.
"""

from __future__ import annotations

from .declared import DRefCounterField, DRefField, DRefFlagField
from .flusher import start_mirrors, stop_mirrors
from .notes import UnsavedRow
from .querysets import DRefManager, DRefQuerySet, aprefetch_refs, prefetch_refs

__all__ = [
    "DRefCounterField",
    "DRefField",
    "DRefFlagField",
    "DRefManager",
    "DRefQuerySet",
    "UnsavedRow",
    "aprefetch_refs",
    "prefetch_refs",
    "start_mirrors",
    "stop_mirrors",
]
