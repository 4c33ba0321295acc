"""Where judged spans lie in the cleaned text, told by the text that they quote.

A span's offsets may be those of a text as it was handed over: cleaning takes out carriage returns, entities and damage,
and what follows moves. The quoted text, cleaned in the same way, says where the span is now; white space in it matches
any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from revector.documents.text import clean
from revector.errors import DocumentError, LabelError
from revector.labels.model import Labels, Span

Texts: TypeAlias = Callable[[Sequence[str]], Mapping[str, str]]
"""Document ids to the cleaned texts of those that exist."""


def placed_span(span: Span, text: str) -> Span | str:
    """Return the span of its quote in ``text``, or what is wrong with it.

    The quote is at the span's start, or stands once in the text; more than once elsewhere says nothing.
    """
    if not span.quote:
        return span
    try:
        quote = clean(span.quote)
    except DocumentError:
        quote = span.quote
    words = quote.split()
    if not words:
        return "its quoted text is empty"
    pattern = re.compile(r"\s+".join(map(re.escape, words)))
    found = pattern.match(text, span.start)
    if found is None:
        all_found = list(pattern.finditer(text))
        if len(all_found) != 1:
            often = f"stands {len(all_found)} times" if all_found else "does not stand"
            return f"its quoted text {quote[:40]!r} {often} in the document, and not at {span.start:,}"
        found = all_found[0]
    return Span(span.doc_id, found.start(), found.end(), span.quote)


def placed(labels: Labels, texts: Texts) -> Labels:
    """Return the labels with each span that has a quote where the quote lies; documents that are gone are left alone.

    Raises ``LabelError`` naming the spans whose quote is not in their document, or there more than once.
    """
    quoting = {span.doc_id for spans in labels.spans.values() for span in spans if span.quote}
    if not quoting:
        return labels
    there, wrong, moved = texts(sorted(quoting)), list[str](), dict[str, dict[Span, int]]()
    for query, spans in labels.spans.items():
        of_query = moved.setdefault(query, {})
        for span, score in spans.items():
            found = placed_span(span, there[span.doc_id]) if span.doc_id in there else span
            if isinstance(found, str):
                wrong.append(f"({query!r}, {span.doc_id!r}, {span.start}-{span.end}): {found}")
            else:
                of_query[found] = max(score, of_query.get(found, score))
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise LabelError(
            f"labels {labels.name}: {'; '.join(wrong[:3])}{more}. Nothing was measured; quote more of the text, or "
            "correct the rows (`revector labels check` names them)."
        )
    return replace(labels, spans=moved)
