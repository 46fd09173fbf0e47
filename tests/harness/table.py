"""Figures as lines of text."""


def table(columns, rows):
    """Lines with the first column to the left and the others to the right."""
    cells = [columns, *([str(row[c]) for c in columns] for row in rows)]
    cells[0] = [c.replace("_", " ") for c in columns]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return ["  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(zip(line, widths)))
            for line in cells]
