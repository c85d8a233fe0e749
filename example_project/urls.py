"""The dashboard and its buttons, the articles, the admin, and what monitoring asks for."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from dref_django.health import HealthView

from . import articles, views
from .settings import DREF_METRICS

urlpatterns = [
    path("admin/", admin.site.urls),
    path("health/", HealthView.as_view()),
    path("", views.dashboard, name="dashboard"),
    path("articles/", articles.articles, name="articles"),
    path("articles/<int:pk>/read/", articles.read, name="read"),
    path("articles/<int:pk>/like/", articles.like, name="like"),
    path("click/", views.click, name="click"),
    path("maintenance/", views.switch_maintenance, name="maintenance"),
    path("moods/<str:mood>/", views.vote, name="vote"),
    path("say/", views.say, name="say"),
    path("report/", views.start_report, name="report"),
    path("make-room/", views.make_room, name="make-room"),
]

if DREF_METRICS:
    from dref_django import metrics

    urlpatterns.append(path("metrics/", metrics.scrape))
