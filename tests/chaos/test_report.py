"""What a chaos run prints, and its exit status."""

from __future__ import annotations

from collections import Counter

from tests.chaos.report import Report, exit_status, summary


def test_the_report_says_what_was_done_and_found() -> None:
    report = Report("sqlite", 7, stormy=10.4, seconds=12.6, deaths=Counter({"frozen": 1, "at work": 2}))
    report.confirmed["start"] = 5
    report.findings.append("job-1: is stuck")
    lines = dict(line.split(":", 1) for line in str(report).splitlines())
    assert lines["seed"].strip() == "7"
    assert lines["workers killed"].strip() == "3 (2 at work, 1 frozen)"
    assert lines["operations confirmed"].strip() == "5 (5 start)"
    assert lines["operations in doubt"].strip() == "0"
    assert summary([report]).endswith("FINDING job-1: is stuck\n")


def test_a_finding_is_the_exit_status() -> None:
    good, bad = Report("sqlite", 7), Report("mongodb", 7, findings=["job-1: is stuck"])
    assert exit_status([good, good]) == 0
    assert exit_status([good, bad]) == 1
