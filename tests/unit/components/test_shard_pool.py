import pytest

from components.shard_pool import raise_cause, reason
from difflm_core.errors import DataError

ray_exceptions = pytest.importorskip("ray.exceptions")

KILLED = """The actor died unexpectedly before finishing this task.
\tclass_name: ShardActor
The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR \
Worker exit detail: Worker unexpectedly exits with a connection error code 2. End of file. Some \
common causes include: (1) the process was killed by the OOM killer."""
NOT_BUILT = """The actor died because of an error raised in its creation task, ray::ShardActor()
Traceback (most recent call last):
  File "x.py", line 1, in <module>
ModuleNotFoundError: No module named 'difflm_core'"""
NODE = "The actor died because its node has died. Node Id: 7f."


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (KILLED, "Worker unexpectedly exits with a connection error code 2"),
        (NOT_BUILT, "ModuleNotFoundError: No module named 'difflm_core'"),
        (NODE, "The actor died because its node has died. Node Id: 7f"),
        ("", "RuntimeError"),
    ],
)
def test_a_death_is_worded_in_one_line(text, words):
    assert reason(RuntimeError(text)) == words


def test_an_explained_error_comes_without_the_wall_of_ray():
    error = ray_exceptions.RayTaskError("do", "a wall of text", DataError("no such column"))
    with pytest.raises(DataError, match=r"^no such column$") as caught:
        raise_cause(error)
    assert caught.value.__cause__ is None


def test_a_defect_keeps_the_traceback_of_its_process():
    error = ray_exceptions.RayTaskError("do", "a wall of text", ZeroDivisionError("a defect"))
    with pytest.raises(ZeroDivisionError) as caught:
        raise_cause(error)
    assert "a wall of text" in str(caught.value.__cause__)
