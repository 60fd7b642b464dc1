"""Fan-out and fan-in: back up a directory tree; list the files, copy all of them side by side, add up the bytes.

python examples/fan_out_fan_in.py                  back up a small tree made for the purpose
python examples/fan_out_fan_in.py SOURCE TARGET    back up SOURCE into TARGET, which must not be inside it

What survives a crash: the list of files and every copy that was finished. A worker that takes over copies the rest.
A copy that was interrupted is made again, which does no harm: a file appears under its name only when it is complete.
"""

import asyncio
import filecmp
import os
import shutil
import sys
import tempfile
from pathlib import Path

from durable import InstanceHandle, OrchestrationContext, TaskHub

hub = TaskHub(os.environ.get("DURABLE_URL", "sqlite:///fan_out_fan_in.db"))

AT_ONCE = 8


@hub.activity
def list_files(root: str) -> list[str]:  # a plain function: runs in a thread, so it may block
    return sorted(path.relative_to(root).as_posix() for path in Path(root).rglob("*") if path.is_file())


@hub.activity
def copy_file(source: str, target: str, name: str) -> int:
    copied = Path(target, name)
    copied.parent.mkdir(parents=True, exist_ok=True)
    partial = copied.with_name(f"{copied.name}.partial")
    shutil.copy2(Path(source, name), partial)
    partial.replace(copied)
    return copied.stat().st_size


@hub.orchestrator
async def back_up(ctx: OrchestrationContext, source: str, target: str) -> int:
    names = await list_files(source)
    limit = asyncio.Semaphore(AT_ONCE)

    async def copy(name: str) -> int:
        async with limit:
            return await copy_file(source, target, name)

    total = 0
    for done, size in enumerate(asyncio.as_completed([copy(name) for name in names]), 1):
        total += await size
        ctx.set_custom_status({"copied": done, "of": len(names), "bytes": total})
    return total


async def show_progress(handle: InstanceHandle[int]) -> int:
    """Print the custom status when it has changed, as any other process could, until the instance ends."""
    result = asyncio.create_task(handle.result(timeout=300))
    shown = None
    ended = False
    while not ended:
        await asyncio.wait([result], timeout=0.02)
        ended = result.done()  # asked before the status, so that the last one is shown
        progress = (await handle.status()).custom_status
        if progress != shown:
            print(f"  {progress['copied']} of {progress['of']} files, {progress['bytes']} bytes", flush=True)
            shown = progress
    return await result


def make_tree(root: Path) -> None:
    for number in range(80):
        file = root / f"year-{2020 + number % 4}" / f"month-{number // 4}" / f"report-{number}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"report {number}\n" * 1000 * number)


def verify(source: Path, target: Path, total: int) -> bool:
    names = [path.relative_to(source) for path in source.rglob("*") if path.is_file()]
    _, different, missing = filecmp.cmpfiles(source, target, names, shallow=False)
    print(f"{total} bytes in {len(names)} files copied; {len(different)} differ, {len(missing)} are missing.")
    return not different and not missing and total == sum((source / name).stat().st_size for name in names)


async def main(source: Path, target: Path) -> bool:
    print(f"Backing up {source} to {target}")
    async with hub.worker():
        handle = await hub.start(back_up, str(source), str(target))
        total = await show_progress(handle)
    return verify(source, target, total)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="durable-backup-") as directory:
        if sys.argv[1:]:
            tree, backup = (Path(argument).resolve() for argument in sys.argv[1:])
        else:
            tree, backup = Path(directory, "tree"), Path(directory, "backup")
            make_tree(tree)
        sys.exit(0 if asyncio.run(main(tree, backup)) else 1)
