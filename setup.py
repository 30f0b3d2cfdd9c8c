"""What pyproject.toml cannot say: the wheel carries what the pages read, so that they work in an empty folder."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

CARRIED = ("config/**/*", "notebooks/*.md", "results/**/*", "data/paper/*")


class WithPages(build_py):
    def run(self):
        super().run()
        if self.editable_mode:  # reads them where they are
            return
        for path in (path for pattern in CARRIED for path in sorted(Path().glob(pattern)) if path.is_file()):
            target = Path(self.build_lib, "lmcompress", "carried", path)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


setup(cmdclass={"build_py": WithPages})
