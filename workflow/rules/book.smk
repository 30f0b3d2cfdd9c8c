"""Put the executed notebooks among the book's sources and render them."""


rule book:
    message:
        "Building the book; to follow: tail -f {log}"
    input:
        sources=["_config.yml", "_toc.yml", *(str(p) for p in sorted(Path("book").rglob("*")) if p.is_file())],
        notebooks=EXECUTED,
    output:
        BOOK,
    params:
        # The list, not the contents, so that a removed page is noticed.
        profile=PROFILE,
        library=LIBRARY_DIGEST,
        shown=SHOWN_DIGEST,
    log:
        "build/book.log",
    shell:
        "{PYTHON:q} {SCRIPTS:q}/book.py {OUT}/notebooks build/book > {log} 2>&1"
