"""The filter grammar that ``index census``, ``index h5ad`` and ``index select`` share.

::

    filter      = conjunction { "or" conjunction }
    conjunction = negation { "and" negation }
    negation    = "not" negation | "(" filter ")" | comparison
    comparison  = column op value | value op column | value op column op value
                | column [ "not" ] "in" "[" value { "," value } "]"
    op          = "==" | "!=" | "<" | "<=" | ">" | ">="
    column      = name | "`" any name "`"
    value       = 'text' | "text" | number | True | False

A filter is parsed into a small tree and never evaluated as code. ``not`` is moved onto the comparisons while parsing
(``not a > 1`` is ``a <= 1``), which is also what SOMA does with it. So one rule covers every missing value, here and
there: **a null matches no comparison**, negated or not; a NaN matches ``!=`` and ``not in`` alone.
"""

from ingest.grammar.filters import Filter, parse_filter
from ingest.grammar.suggest import close_matches, did_you_mean, unknown_column

__all__ = ["Filter", "close_matches", "did_you_mean", "parse_filter", "unknown_column"]
