#!/usr/bin/env python3
"""What deploy/test asks about ctest: which targets the chosen tests need, and what a report adds up to."""

import argparse
import json
import os
import re
import sys
import xml.etree.ElementTree

# As CMake writes it: add_test(NAME COMMAND...), the name in bracket or plain quotes where it needs any.
ADD_TEST = re.compile(r'add_test\((?:\[=*\[|")?(?P<name>.*?)(?:\]=*\]|")? +(?P<command>".*)\)\s*$')


def targets(build_folder):
    """Prints the executables at the top of the build folder that the tests of `ctest --show-only=json-v1` (stdin)
    name in their commands. ctest leaves out the command of a test that is not built yet, so the commands are read from
    the files that it reads itself."""
    build_folder = os.path.realpath(build_folder)
    chosen = {test["name"] for test in json.load(sys.stdin).get("tests", [])}
    names = set()
    for folder, _, files in os.walk(build_folder):
        if "CTestTestfile.cmake" not in files:
            continue
        with open(os.path.join(folder, "CTestTestfile.cmake"), encoding="utf-8") as lines:
            for line in lines:
                match = ADD_TEST.match(line)
                if match is None or match.group("name") not in chosen:
                    continue
                for argument in re.findall(r'"((?:[^"\\]|\\.)*)"', match.group("command")):
                    path = os.path.realpath(argument)
                    # The build tree keeps every executable at its top, named as its target.
                    if os.path.isabs(argument) and os.path.dirname(path) == build_folder:
                        names.add(os.path.basename(path))
    for name in sorted(names):
        print(name)


def counts(report):
    """Prints "passed failed skipped" of a JUnit report, naming on stderr what failed and what was skipped and why.
    No report, or one without tests, is a failure."""
    try:
        suite = xml.etree.ElementTree.parse(report).getroot()
    except (OSError, xml.etree.ElementTree.ParseError) as error:
        print(f"FAILED: the stage has no test report ({error})", file=sys.stderr)
        return 0, 1, 0
    passed = failed = skipped = 0
    for case in suite.iter("testcase"):
        name = case.get("name")
        if case.find("failure") is not None or case.get("status") == "fail":
            failed += 1
            print(f"FAILED: {name}", file=sys.stderr)
        elif case.find("skipped") is not None or case.get("status") in ("notrun", "disabled"):
            skipped += 1
            output = case.findtext("system-out") or ""
            reasons = [line for line in output.splitlines() if line.startswith("SKIPPED")]
            print(f"SKIPPED: {name}: {'; '.join(reasons) or 'no reason given'}", file=sys.stderr)
        else:
            passed += 1
    if passed + failed + skipped == 0:
        print("FAILED: the stage has no tests", file=sys.stderr)
        failed = 1
    return passed, failed, skipped


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("targets").add_argument("--build", required=True)
    commands.add_parser("counts").add_argument("--report", required=True)
    arguments = parser.parse_args()
    if arguments.command == "targets":
        targets(arguments.build)
    else:
        print(*counts(arguments.report))


if __name__ == "__main__":
    main()
