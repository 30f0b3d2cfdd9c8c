"""One module a page of the book: its Study, and the tables, figures and sentences of its own."""
