"""The executor surface: hierarchies and their runs. Bodies by POST, `{"success": true, "data": …}` back."""
