"""The dashboard and its buttons."""

from __future__ import annotations

from django.urls import path

from . import articles, views

urlpatterns = [
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
