"""Publishes a model folder on the Hub: model, index and card, the IDs as a data set, metrics and page as Spaces.

    python examples/push_to_hub.py outputs/items org/items --dry_run published
    python examples/push_to_hub.py outputs/items org/items --private
    python examples/push_to_hub.py outputs/items org/items --parts model ids page

`--dry_run DIR` writes to a new folder what would be sent, and says what would go where; it needs neither network nor
account. Without it, log in first (`hf auth login`, or a token in `HF_TOKEN`). Stopped, the same command goes on.
"""

import sys
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from trainers.publishing import PARTS, PublishingSettings, publish, rehearse


@dataclass
class PushArguments:
    """What is published, and where."""

    parts: list[str] = field(
        default_factory=lambda: ["model", "ids"],
        metadata={"help": "Of the folder, the IDs as a data set, and Spaces.", "choices": PARTS},
    )
    ids_repo: str | None = field(default=None, metadata={"help": "Name of the data set; default REPO_ID-ids."})
    page_repo: str | None = field(default=None, metadata={"help": "Name of the page; default REPO_ID-page."})
    page_folder: str = field(default="app", metadata={"help": "Folder of the page."})
    private: bool = field(default=False, metadata={"help": "Make private repositories; public ones are refused."})
    revision: str | None = field(default=None, metadata={"help": "Branch of model and data set."})
    without_texts: bool = field(default=False, metadata={"help": "Leave the documents' texts out."})
    licence: str | None = field(default=None, metadata={"help": "Licence of the result; default the folder's."})
    dry_run: str | None = field(default=None, metadata={"help": "New folder to write to in the place of the Hub."})


def main() -> None:
    """Parses the arguments and publishes."""
    parser = HfArgumentParser(PushArguments, description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="The model folder.")
    parser.add_argument("repo_id", help="Owner and name on the Hub.")
    arguments = vars(parser.parse_args())
    folder, repo_id, dry_run = (arguments.pop(name) for name in ("folder", "repo_id", "dry_run"))
    arguments["private"] = arguments["private"] or None
    try:
        settings = PublishingSettings(**arguments)
        if dry_run is None:
            publish(folder, repo_id, settings)
        else:
            for target in rehearse(folder, repo_id, settings, output_dir=dry_run):
                print(f"Written: {target}")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
