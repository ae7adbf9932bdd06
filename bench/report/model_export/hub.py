"""Uploads an export to the Hugging Face Hub."""

import os
from pathlib import Path
from textwrap import shorten

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from bench.errors import BenchError


def check_repository(name: str) -> None:
    """Raise BenchError if ``name`` is not OWNER/NAME as the Hub takes it."""
    try:
        validate_repo_id(name)
        fault = "" if name.count("/") == 1 else "the owner is missing"
    except HFValidationError as error:
        fault = str(error).strip().partition("\n")[0]
    if fault:
        raise BenchError(
            f"--push-to-hub {name!r}: {fault}. Type OWNER/NAME of letters, digits, '-', '_' and '.', such as "
            "--push-to-hub my-name/deacl-cifar10"
        )


def check_token() -> None:
    """Raise BenchError if there is no token of the Hub on this machine."""
    if not get_token():
        raise BenchError("no token of the Hugging Face Hub was found. Type: hf auth login, or set HF_TOKEN.")


def push(folder: Path, repository: str) -> str:
    """Upload all files of ``folder`` to the model ``repository``, made if it does not exist; return its address.

    Raises:
        BenchError: no token, no network, or what the Hub refuses; ``folder`` stays.
    """
    check_token()
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        made = api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Exported by ssl-robustness-bench")
    except Exception as error:  # of the network, of its libraries, of the Hub
        reason = shorten(str(error), 300, placeholder=" ...")
        raise BenchError(
            f"{repository} was not uploaded to {api.endpoint} ({type(error).__name__}: {reason}). The export is "
            f"complete in {folder}. Check the network, the name and that the token may write; then type: hf upload "
            f"{repository} {folder}"
        ) from None
    return str(made)
