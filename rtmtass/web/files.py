"""Stand-in."""

from aiohttp import web


def add_routes(app: web.Application, *, model: str, precision: str, max_upload_bytes: int) -> None:
    """Add nothing yet."""
