"""Counts the core's lines of code: no blank lines, comments or docstrings; no command line, dashboard or test kit."""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

LEFT_OUT = ("cli", "dashboard", "testing")
NOT_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)


def code_lines(source: str) -> int:
    """How many lines of ``source`` hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def main(root: Path, most: int) -> int:
    counts: Counter[str] = Counter()
    for path in sorted(root.rglob("*.py")):
        part = path.relative_to(root).parts[0]
        if part not in LEFT_OUT:
            counts[part.removesuffix(".py")] += code_lines(path.read_text())
    total = sum(counts.values())
    print("core:", ", ".join(f"{part} {count}" for part, count in counts.most_common()))
    print(f"core: {total} lines of code, at most {most}")
    return total > most


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2])))
