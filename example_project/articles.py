"""The articles: 100 rows with live view counts, sorted by a score that the database mirrors."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_GET, require_POST

from .models import Article
from .refs import articles_shown

POINTS = 10


@require_GET
def articles(request: HttpRequest) -> HttpResponse:
    """One query, and one round trip for all values."""
    shown = max(articles_shown.peek(), 1)
    rows = Article.objects.with_refs("views", "score").order_by("-score", "pk")[:shown]  # type: ignore[misc]
    return render(request, "example_project/articles.html", {"articles": rows, "port": request.get_port()})


@require_POST
def read(request: HttpRequest, pk: int) -> HttpResponse:
    """Counts a view, without loading the row."""
    Article.views.at(pk).increment()
    return _done(request)


@require_POST
def like(request: HttpRequest, pk: int) -> HttpResponse:
    get_object_or_404(Article, pk=pk).score.increment(POINTS)
    return _done(request)


def _done(request: HttpRequest) -> HttpResponse:
    if request.headers.get("X-Requested-With") == "fetch":
        return HttpResponse(status=204)
    return redirect("articles")
