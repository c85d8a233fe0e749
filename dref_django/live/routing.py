"""Where the websocket is found. In the project's asgi.py, behind Django's sessions:

application = ProtocolTypeRouter({
    "http": get_asgi_application(),
    "websocket": AuthMiddlewareStack(URLRouter(websocket_urlpatterns)),
})
"""

from __future__ import annotations

from django.urls import path

from . import limits
from .consumers import DRefConsumer

websocket_urlpatterns = [path(limits.configured().url.removeprefix("/"), DRefConsumer.as_asgi())]
