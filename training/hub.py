"""`--push-to-hub`: an export's folder as a dataset on the Hugging Face Hub."""

from pathlib import Path

from backends.errors import UsageError, extra_missing
from backends.printable import one_line


def push(folder: Path, files: list[Path], name: str) -> str:
    """Create the dataset, private where it is new, and put these files there in one commit; returns its address. Raises
    UsageError when the Hub does not take them.
    """
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
    except ImportError as error:
        raise extra_missing("--push-to-hub", "stores") from error
    added = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
    try:
        api = HfApi()
        address = api.create_repo(name, repo_type="dataset", private=True, exist_ok=True)
        api.create_commit(name, added, commit_message=f"{len(files)} files by trajgraph", repo_type="dataset")
        return str(address)
    except Exception as error:  # a client of others: it fails in many ways
        said = one_line(" ".join(str(error).split()))[:300]
        raise UsageError(f"--push-to-hub {name}: {type(error).__name__}: {said}; the files are in {folder}") from error
