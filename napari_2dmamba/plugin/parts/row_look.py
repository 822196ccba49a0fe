"""How rows of tables are told apart, in light and in dark themes."""

ROW_LOOK = """
QAbstractItemView { alternate-background-color: rgba(127, 127, 127, 28); }
QTableView::item { padding: 0 6px; }
QHeaderView::section { padding: 2px 6px; }
"""
"""Style sheet: Qt's own second colour is white on white in a dark theme."""
