"""Renders charts with Helm's own engine and holds manifests against Kubernetes' schemas.

Reads one request as JSON and answers in JSON, so that a test needs one start for all its cases:

    {"renders": [{"chart": DIR, "values": {…}, "release": NAME}], "texts": [YAML, …],
     "lint": [{"chart": DIR, "values": {…}}], "judge": whether manifests are held against the schemas}
"""

import functools
import json
import sys

import helm_python
import yaml
from kubernetes_validate import utils
from packaging.version import Version

# They are megabytes, and the same for each object.
utils.schema_contents = functools.lru_cache(maxsize=None)(utils.schema_contents)

NEWEST = sorted(set(utils.all_versions()), key=Version)[-3:]


def problems(thing):
    """What each of the newest minor versions has against it; a kind without a schema is one problem."""
    found = []
    for version in NEWEST:
        try:
            utils.validate(thing, version, strict=True)
        except utils.SchemaNotFoundError:
            return [f"no schema for {thing['apiVersion']} {thing['kind']}"]
        except utils.ValidationError as error:
            path = ".".join(str(step) for step in error.path)
            found.append(f"{version}: {path}: {error.message}")
    return found


def objects(text):
    things = [thing for thing in yaml.load_all(text, Loader=yaml.CSafeLoader) if thing is not None]
    return [
        {"object": thing, "problems": problems(thing) if is_manifest(thing) else None} for thing in things
    ]


def is_manifest(thing):
    return request["judge"] and isinstance(thing, dict) and "apiVersion" in thing and "kind" in thing


load = functools.lru_cache(maxsize=None)(helm_python.Chart.load)


def render(case):
    try:
        files = load(case["chart"]).render(case["values"], name=case["release"], namespace="apps")
    except helm_python.HelmError as error:
        return {"error": str(error), "files": {}, "objects": []}
    manifests = {path: text for path, text in files.items() if not path.endswith(".txt")}
    return {
        "error": None,
        "files": files,
        "objects": [thing for path in sorted(manifests) for thing in objects(manifests[path])],
    }


def parse(text):
    try:
        return {"error": None, "objects": objects(text)}
    except yaml.YAMLError as error:
        return {"error": str(error), "objects": []}


request = json.load(sys.stdin)
answer = {
    "versions": NEWEST,
    "renders": [render(case) for case in request.get("renders", [])],
    "texts": [parse(text) for text in request.get("texts", [])],
    "lint": [helm_python.lint(case["chart"], case["values"], strict=True) for case in request.get("lint", [])],
}
json.dump(answer, sys.stdout)
