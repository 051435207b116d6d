# SPDX-License-Identifier: MIT
"""How every page is rendered: the templates of this folder, with whatever comes from data escaped and made visible."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from certcal_ext._files import replacing
from certcal_ext.report.words import visible

if TYPE_CHECKING:
    from markupsafe import Markup


def render(template: str, figures: dict[str, str], **values: Any) -> str:
    """A page.

    Args:
        template: name of a file in this folder.
        figures: SVG drawings by name, which enter as they are.
        values: everything else; text is escaped, and what hides or reorders it is written out.

    Returns:
        The page.

    Raises:
        ImportError: jinja2 is missing.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError as error:
        raise ImportError('reports need jinja2: pip install "certcal_ext[report]"') from error

    def shown(value: Any) -> str | Markup:
        return value if isinstance(value, Markup) else visible(str(value))

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_resource),
        # Before escaping: a name is read as it is, wherever data end up on the page.
        finalize=shown,
    )
    drawings = {name: Markup(svg) for name, svg in figures.items()}
    return environment.get_template(template).render(figures=drawings, **values)


def write(path: str | Path, page: str) -> Path:
    """Writes a page; aside first, then renamed, so that no half page is ever left.

    Raises:
        OSError: the file cannot be written.
        ValueError: its folder does not exist.
    """
    target = Path(path)
    with replacing(target) as file:
        file.write(page.encode("utf-8"))
    return target


def _resource(name: str) -> str:
    return (resources.files("certcal_ext.report") / name).read_text(encoding="utf-8")
