"""What a Dockerfile and a .dockerignore say, as far as the ones here go."""

import json
import re
import shlex
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "components" / "images"
DOCKERFILE = IMAGES / "Dockerfile"
IGNORE = ROOT / ".dockerignore"


@dataclass
class Stage:
    base: str
    name: str | None
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, keyword):
        return [rest for word, rest in self.steps if word == keyword]

    @property
    def copied(self):
        """Files and folders of the build context that the stage reads, and where they go."""
        pairs = []
        for step in self.all("COPY"):
            *sources, target = [word for word in step.split() if not word.startswith("--")]
            if "--from=" not in step:
                pairs += [(source, target) for source in sources]
        for step in self.all("RUN"):
            for mount in re.findall(r"--mount=(\S+)", step):
                options = dict(pair.partition("=")[::2] for pair in mount.split(","))
                if options["type"] == "bind" and "from" not in options:
                    pairs.append((options["source"], options["target"]))
        return pairs

    @property
    def labels(self):
        return dict(word.split("=", 1) for step in self.all("LABEL") for word in shlex.split(step))

    @property
    def debian_packages(self):
        found = []
        for step in self.all("RUN"):
            for command in re.split(r"&&|;|\|\|", step):
                words = command.split()
                if {"apt-get", "install"} <= set(words):
                    found += [w for w in words[words.index("install") + 1 :] if w[0] != "-"]
        return found

    @property
    def user(self):
        return next(reversed(self.all("USER")), "root")

    @property
    def command(self):
        return json.loads(self.all("CMD")[-1])


def parse(text):
    """The stages of a Dockerfile, and the ARGs before the first."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    before, stages = {}, []
    for line in filter(None, map(str.strip, joined.splitlines())):
        keyword, rest = line.split(maxsplit=1)
        if keyword == "FROM":
            words = rest.split()
            stages.append(Stage(words[0], words[2] if len(words) == 3 else None))
        elif stages:
            stages[-1].steps.append((keyword, re.sub(r" +", " ", rest)))
        else:
            name, _, value = rest.partition("=")
            before[name] = value
    return before, stages


def bases(text):
    """The images that a Dockerfile starts from, its own stages left out."""
    arguments, stages = parse(text)
    names = {stage.name for stage in stages}
    found = [re.sub(r"\$\{(\w+)\}", lambda m: arguments[m[1]], stage.base) for stage in stages]
    return [base for base in found if base not in names and base != "scratch"]


def is_sent(path, ignore):
    """Whether Docker sends a file to the build: the last pattern that matches decides."""
    sent = True
    for line in ignore.splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        rest = pattern.removeprefix("!")
        at_any_depth = rest.startswith("**/")
        regex = re.compile(translate(rest.removeprefix("**/").strip("/")).replace(".*", "[^/]*"))
        file = PurePosixPath(path)
        for part in [file, *file.parents][:-1]:
            names = str(part).split("/")
            tails = range(len(names)) if at_any_depth else [0]
            if any(regex.match("/".join(names[start:])) for start in tails):
                sent = pattern.startswith("!")
    return sent
