"""Verdict on a report of the public suite: every test passed, or is excluded by name."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Number of tests in @durable-streams/server-conformance-tests 0.3.6, subscriptions included.
# Another number means that the run was not that of the suite in package.json.
SUITE_SIZE = 338


@dataclass(frozen=True)
class Verdict:
    """Result of one run of the suite.

    ``excluded`` counts the excluded tests by group of excluded.json; ``faults`` has a sentence for
    each failed test or broken rule. A run without faults is good.
    """

    passed: int
    excluded: Mapping[str, int]
    faults: tuple[str, ...]


def judge(report: Mapping[str, Any], groups: Mapping[str, str]) -> Verdict:
    """Return the verdict on a report in vitest's JSON form.

    ``groups`` maps prefixes of full test names to the reason why these tests are excluded.
    """
    passed = 0
    excluded = Counter(dict.fromkeys(groups, 0))
    faults: list[str] = []
    for suite in report["testResults"]:
        if not suite["assertionResults"]:
            faults.append(f"no tests in {suite['name']}: {suite.get('message', '')}".rstrip(": "))
        for test in suite["assertionResults"]:
            name = " ".join([*test["ancestorTitles"], test["title"]])
            group = next((begin for begin in groups if name.startswith(begin)), None)
            match test["status"]:
                case "passed" if group is None:
                    passed += 1
                case "passed":
                    faults.append(f"ran although it is excluded: {name}")
                case "failed":
                    faults.append(f"failed: {name}")
                case _ if group is not None:
                    excluded[group] += 1
                case other:
                    faults.append(f"{other}, but not named in excluded.json: {name}")
    faults += [
        f"excluded.json names {name!r}, but no test" for name, n in excluded.items() if not n
    ]
    size = report["numTotalTests"]
    if size != SUITE_SIZE:
        faults.append(f"the suite has {size} tests, {SUITE_SIZE} were expected")
    return Verdict(passed, excluded, tuple(faults))


def pattern(groups: Mapping[str, str]) -> str:
    """Return a JavaScript regular expression for the full names of the tests to run."""
    if not groups:
        return "^"
    return "^(?!" + "|".join(_literal(name) for name in groups) + ")"


def _literal(text: str) -> str:
    return "".join(f"\\{c}" if c in r"\^$.*+?()[]{}|/" else c for c in text)
