# SPDX-License-Identifier: MIT
"""Certificates to make report pages of, and a strict reader of these pages."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import numpy as np

from certcal_ext import Certificates

VOID = {"meta", "br", "link", "img", "hr", "input", "path", "use"}


class Page(HTMLParser):
    """Checks that elements nest, and collects ids, references and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words += data


def votes(size: int = 60, right: float = 0.85, **options: Any) -> Certificates:
    generator = np.random.default_rng(0)
    shares = np.clip(generator.beta(8, 1, size), 0, 1)
    first = generator.binomial(1000, shares)
    counts = np.stack([first, 1000 - first], axis=1)
    labels = np.where(generator.random(size) < right, 0, 1)
    return Certificates.from_counts(counts, labels, sigma=0.25, **options)


def intervals(**options: Any) -> Certificates:
    return Certificates.from_intervals(
        [True, True, False], [0.8, 0.7, 0.5], [0.9, 0.95, 0.6], **options
    )


def text_of(page: str) -> str:
    """The words of a page with single spaces; spaces that do not break stay."""
    return re.sub(r"[ \t\n]+", " ", Page(page).words)
