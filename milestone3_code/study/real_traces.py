"""Gets public traces of services by a list that says what each is, where it comes from and who made it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from vllm_sim.provenance import file_sha256
from vllm_sim.workloads.tables import TEXT, TomlTable, read_toml

SECONDS = 60


def fetch_traces(listed: Path, out: Path, say: Callable[[str], None], names: Sequence[str] = ()) -> list[Path]:
    """Downloads the traces that have an address and are not there; says of the others how they are made.

    Args:
        listed: the TOML file.
        out: folder of the traces.
        say: called with a line on each.
        names: which; none: all.

    Returns:
        The traces that are there.

    Raises:
        ValueError: no such trace, it cannot be got, or its bytes are not those that the list names.
    """
    top = read_toml(listed)
    unknown = set(names) - set(top)
    if unknown:
        raise ValueError(f"no trace {', '.join(sorted(unknown))}; allowed: {', '.join(top)}")
    found = []
    for name in names or list(top):
        table = top.need_table(name)
        path = out / table.need("file", TEXT)
        url = table.get("url", TEXT, "")
        say(f"{name}: {table.need('what', TEXT)} {table.need('cite', TEXT)}; {table.need('licence', TEXT)}")
        if not path.is_file() and url:
            _download(url, path)
        if not path.is_file():
            say(f"{name}: not got; {table.need('from', TEXT)}")
            continue
        _check(path, table)
        found.append(path)
    return found


def _download(url: str, path: Path) -> None:
    try:
        with urlopen(url, timeout=SECONDS) as answer:
            content = answer.read()
    except (URLError, OSError) as error:
        raise ValueError(f"{url} cannot be got: {error}; allowed: put the file to {path} by hand") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(content)
    part.replace(path)


def _check(path: Path, table: TomlTable) -> None:
    wanted, is_there = table.need("sha256", TEXT), file_sha256(path)
    if is_there != wanted:
        raise ValueError(f"{path} has the SHA-256 {is_there}; allowed: {wanted}; delete it, and it is got again")
