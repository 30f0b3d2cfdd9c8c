"""Fetch the assets, write and check the parameters of each notebook, execute the notebooks."""


rule assets:
    message:
        "Fetching and verifying the embedded models and texts"
    input:
        LIBRARY / "assets.toml",
    output:
        # Beside what it vouches for: who deletes the cache deletes the stamp.
        "data/cache/fetched.txt",
    log:
        "build/assets.log",
    shell:
        """
        {PYTHON:q} -m lmcompress assets fetch > {output} 2> {log} || {{ echo "Failed: $(tail -n 1 {log})" >> {log}; exit 1; }}
        """


rule parameters:
    message:
        "Checking the parameters of {wildcards.name}"
    # All are checked before the first notebook starts: a mistake shows in seconds, not after the first hour.
    priority: 1
    output:
        f"{OUT}/parameters/{{name}}.yaml",
    params:
        section=lambda wildcards: SECTIONS.get(wildcards.name) or {},
        config=f"config/{PROFILE}.yaml",
    log:
        f"{OUT}/logs/{{name}}.parameters.log",
    shell:
        "{PYTHON:q} {SCRIPTS:q}/parameters.py {params.config} {wildcards.name} {output} 2> {log}"


rule notebook:
    message:
        "Executing {wildcards.name}"
    input:
        source="notebooks/{name}.md",
        parameters=f"{OUT}/parameters/{{name}}.yaml",
        assets="data/cache/fetched.txt",
    output:
        f"{OUT}/notebooks/{{name}}.ipynb",
    params:
        library=LIBRARY_DIGEST,
        shown=SHOWN_DIGEST,
    log:
        f"{OUT}/logs/{{name}}.log",
    benchmark:
        f"{OUT}/seconds/{{name}}.tsv"
    # Notebooks side by side use the cores better than one notebook with all of them.
    threads: max(1, (os.cpu_count() or 1) // max(1, len(NOTEBOOKS)))
    resources:
        mem_mb=6000 if PROFILE == "quick" else 64000,
        gpu=0 if PROFILE == "quick" else 1,
        runtime="1h" if PROFILE == "quick" else "12h",
    shell:
        "{PYTHON:q} {SCRIPTS:q}/execute.py {input.source} {input.parameters} {output} 2> {log}"
