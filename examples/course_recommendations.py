"""Typed values: several parameters, by position and by keyword; dataclasses, enums and pydantic models in and out.

python examples/course_recommendations.py

Arguments and results are kept as JSON and read back as the annotations say. Calls are typed as the functions are, so a
type checker sees a wrong one; what it cannot see is refused before anything is stored.

What survives a crash: all of it, and as values of these types. What a later version of this program reads is what
an earlier one wrote, so give a new field a default.
"""

import asyncio
import os
import sys
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import BaseModel, Field

from durable import OrchestrationContext, PayloadError, TaskHub

hub = TaskHub(os.environ.get("DURABLE_URL", "sqlite:///course_recommendations.db"))


class Level(StrEnum):
    BEGINNER = "beginner"
    ADVANCED = "advanced"


@dataclass
class Student:
    name: str
    level: Level
    passed: set[str] = field(default_factory=set)


class Course(BaseModel):
    code: str
    level: Level
    topic: str
    hours: int = Field(gt=0)
    needs: set[str] = set()


class Recommendation(BaseModel):
    course: Course
    reason: str


CATALOGUE = [
    Course(code="PY1", level=Level.BEGINNER, topic="python", hours=30),
    Course(code="PY2", level=Level.ADVANCED, topic="python", hours=40, needs={"PY1"}),
    Course(code="DB1", level=Level.BEGINNER, topic="databases", hours=20),
    Course(code="DB2", level=Level.ADVANCED, topic="databases", hours=60, needs={"DB1"}),
    Course(code="AI2", level=Level.ADVANCED, topic="learning machines", hours=50, needs={"PY1"}),
]


@hub.activity
async def find_courses(level: Level, *, most_hours: int) -> list[Course]:
    return [course for course in CATALOGUE if course.level is level and course.hours <= most_hours]


@hub.activity
async def recommend_one(student: Student, course: Course, interests: list[str]) -> Recommendation | None:
    if course.code in student.passed or not course.needs <= student.passed:
        return None
    reason = f"{student.name} likes {course.topic}" if course.topic in interests else f"{student.name} may take it"
    return Recommendation(course=course, reason=reason)


@hub.orchestrator
async def recommend_courses(
    ctx: OrchestrationContext, student: Student, interests: list[str], *, most_hours: int = 100, limit: int = 3
) -> list[Recommendation]:
    courses = await find_courses(student.level, most_hours=most_hours)
    found = await asyncio.gather(*(recommend_one(student, course, interests) for course in courses))
    fitting = [one for one in found if one is not None]
    fitting.sort(key=lambda one: one.course.topic not in interests)  # what the student likes first
    return fitting[:limit]


async def main() -> bool:
    student = Student("Ann", Level.ADVANCED, {"PY1", "DB1"})
    async with hub.worker():
        handle = await hub.start(recommend_courses, student, ["learning machines"], most_hours=50)
        recommended = await handle.result(timeout=30)  # a list[Recommendation], also for the type checker
        for one in recommended:
            print(f"{one.course.code} ({one.course.level.value}, {one.course.hours} hours): {one.reason}")
        try:
            await hub.start(recommend_courses, student, "learning machines")  # not a list
        except PayloadError as error:
            print(f"Refused: {str(error).splitlines()[0]}")
            return [one.course.code for one in recommended] == ["AI2", "PY2"]
    return False


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
