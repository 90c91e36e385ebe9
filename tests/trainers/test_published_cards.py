"""Cards under their new names."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_lmindexer import hub_upload
from trainers.model_card import LICENCE, USE, fill, public_names
from trainers.published_cards import FolderCard, IndexShape, Links, relicensed, renamed, size_category


def body_of(name: str) -> str:
    """A card's text."""
    metadata = SimpleNamespace(to_yaml=lambda: "")
    return fill("# {{ name | plain }}\n\n" + USE, metadata, name=name, beams=3, query_code="query = None")


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=30))
def test_a_renamed_card_is_the_one_that_would_have_been_written(name):
    assert renamed(body_of(name), "org/items") == body_of("org/items")


@pytest.mark.parametrize("text", ["", "# Mine\n\nNo code.", '# a\n\nfolder = "a" + "b"\n'])
def test_other_cards_stay(text):
    assert renamed(text, "org/items") == text


def test_sizes_have_the_names_of_the_hub():
    expected = {
        1: "n<1K",
        999: "n<1K",
        1000: "1K<n<10K",
        12_094: "10K<n<100K",
        999_999: "100K<n<1M",
        10**9: "1B<n<10B",
    }
    assert {rows: size_category(rows) for rows in expected} == expected


def test_names_of_models_are_told_from_folders(tmp_path):
    found = public_names(["t5-small", "google-t5/t5-small", str(tmp_path), "a/b/c", "./a", "has space"])
    assert found == ["t5-small", "google-t5/t5-small"]
    assert public_names(None) is None and public_names("org/x") == ["org/x"]


@pytest.mark.parametrize("old", [LICENCE, "apache-2.0"])
def test_the_licence_of_a_publication_is_the_one_on_its_card(old):
    text = f"# A\n\n## Licence\n\n{old}\n"
    assert relicensed(text, "apache-2.0", "mit") == "# A\n\n## Licence\n\nmit\n"


@pytest.mark.parametrize("own", ["Ask me.\n", "apache-2.0, but for the pictures.\n"])
def test_what_somebody_wrote_of_a_licence_stays(own):
    text = f"## Licence\n\n{own}"
    assert relicensed(text, "apache-2.0", "mit") == text


def test_a_card_that_was_published_before_links_to_the_new_parts_alone():
    shape = IndexShape(3, "int64", [4, 2], True, [1, 0])
    card = "---\ndatasets: org/corpus\n---\n# A\n\n## Licence\n\nmit\n"
    found = FolderCard(card, {}, shape)
    assert found.data.datasets == "org/corpus" and found.data.eval_results is None
    again = FolderCard(found.model_card(Links("org/a", ids="org/a-ids", page="org/a-page")), {}, shape)
    text = again.model_card(Links("org/b", ids="org/b-ids"))
    assert text.count("## On the Hub") == 1 and "org/b-ids" in text and "org/a" not in text
    assert "## On the Hub" not in again.model_card(Links("org/b"))


@given(st.lists(st.integers(0, 12)))
def test_parts_hold_all_files_in_order_and_no_more_than_they_may(sizes):
    files = [SimpleNamespace(upload_info=SimpleNamespace(size=size), number=i) for i, size in enumerate(sizes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_upload, "PART_BYTES", 10)
        parts = list(hub_upload.parts(files))
    assert [file for part in parts for file in part] == files
    assert all(len(part) == 1 or sum(file.upload_info.size for file in part) <= 10 for part in parts)
