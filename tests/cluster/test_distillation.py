"""A small model learns from a large one, in a job that waits for the other's model."""

from __future__ import annotations

import pytest

from tests.cluster import jobs


@pytest.mark.long
def test_a_student_waits_for_its_teacher_and_comes_near_it_and_is_compressed(kube, measure):
    kube.apply(jobs.example("student.yaml"))
    kube.wait_for_phase("student", "Queued", limit=30)
    assert kube.status("student")["reason"] == "TrainingJobNotFound"
    kube.apply(jobs.example("digits.yaml"))
    teacher = kube.wait_for_phase("digits", "Succeeded", limit=180)
    student = kube.wait_for_phase("student", "Succeeded", limit=180)
    assert student["initialModel"]["sha256"] == teacher["model"]["sha256"]
    of_teacher, of_student = (float(status["metrics"]["validationAccuracy"]) for status in (teacher, student))
    (quantize,) = student["model"]["compression"]
    measure("digits: accuracy of the teacher", of_teacher, "")
    measure("digits: student of a tenth of its size, points lost", 100 * (of_teacher - of_student), "at most 1.5")
    measure("digits: and in 8 bits, bytes of the weights", quantize["bytesAfter"], "")
    assert of_student >= of_teacher - 0.015
    assert float(quantize["accuracyAfter"]) >= of_student - 0.01
