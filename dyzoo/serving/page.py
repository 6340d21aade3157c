"""The page at `/`: what this server is, and a form to try it. It loads nothing from anywhere."""

from __future__ import annotations

from html import escape

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{model}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }}
pre {{ background: #f4f4f4; padding: .8rem; overflow-x: auto; }}
form {{ margin: 1.5rem 0; }}
label {{ display: block; margin: .6rem 0; }}
</style>
</head>
<body>
<h1>{model}</h1>
<p>dyzoo {version}, {count} classes: {labels}</p>
<form action="predict" method="post" enctype="multipart/form-data">
<label>Pictures <input type="file" name="images" accept="image/*" multiple required></label>
<label>Least score <input type="number" name="threshold" value="{threshold}" min="0" max="1" step="0.01"></label>
<button>Detect</button>
</form>
<pre>curl -F images=@a.jpg {address}predict</pre>
<p><a href="model">model</a>, <a href="openapi.json">OpenAPI</a>, <a href="healthz">health</a>,
<a href="metrics">metrics</a></p>
</body>
</html>
"""
_SHOWN = 100


def render_page(model: str, version: str, labels: tuple[str, ...], threshold: float, address: str) -> str:
    """The page, as HTML."""
    some = ", ".join(labels[:_SHOWN]) + (", ..." if len(labels) > _SHOWN else "")
    return _PAGE.format(
        model=escape(model), version=escape(version), count=len(labels), labels=escape(some), threshold=threshold,
        address=escape(address),
    )  # fmt: skip
