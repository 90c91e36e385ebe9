"""Publishing a model folder: what goes where, that it goes on, and that it says what went wrong."""

import ast
import hashlib
import json
import re
from pathlib import Path

import datasets
import pytest
from hub_stand_in import BROKEN, Hub
from huggingface_hub import DatasetCard, ModelCard, constants
from huggingface_hub.utils import close_session
from tiny_index import TEXTS, learned_index, names, write_folder

import metrics
from modeling_lmindexer import SemanticIndex
from modeling_lmindexer.document_table import DOCUMENTS_NAME, DocumentTable
from modeling_lmindexer.folder import CorruptedFolderError, update_manifest, write_json
from modeling_lmindexer.hub_upload import UploadError
from trainers.evaluation_results import evaluation_results
from trainers.model_card import CardContent, write_card
from trainers.published_cards import FolderCard
from trainers.publishing import PARTS, PublishingSettings, publish, rehearse

METRICS = {
    "codes": {"lmindexer": {"positions": [{"ami": 0.51234, "perplexity": 3.0}, {"ami": 0.9, "perplexity": 2.0}]}},
    "queries": {"queries": 7, "recall_at_10": 0.25, "recall_at_10_random_ids": None},
}
FOUND = {("ami", 0.5123), ("perplexity", 3.0), ("recall@10", 0.25)}


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    """The Hub that the client of this process talks to; it does not wait before it tries again."""
    with Hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr("time.sleep", lambda seconds: None)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", "hf_token")
        close_session()
        yield hub
    close_session()


@pytest.fixture
def folder(tmp_path):
    """As `run_indexing.py` leaves it, with texts and what training leaves beside."""
    folder = tmp_path / "items"
    write_folder(folder, learned_index())
    card = CardContent(
        name=str(folder), data="a corpus", documents=30, codebook_sizes=[4, 5], positions_table="| p |", queries="-",
        stages_table="| s |", examples="<1><2><0>  doc00: w2 w50", datasets=["some/corpus"], licence="cc-by-4.0",
        results=evaluation_results(METRICS, "some/corpus"),
    )  # fmt: skip
    write_card(card, [], folder / "README.md")
    write_json(folder / "metrics.json", METRICS)
    DocumentTable(names(range(30)), TEXTS[:30]).save_pretrained(folder)
    (folder / "figures").mkdir()
    (folder / "figures" / "losses.png").write_bytes(b"\x89PNG\0\xff")
    update_manifest(folder, ["README.md", "metrics.json", DOCUMENTS_NAME, "figures/losses.png"])
    (folder / "stages").mkdir()
    (folder / "stages" / "model.safetensors").write_text("private")
    return folder


def make_page(tmp_path) -> Path:
    page = tmp_path / "app"
    page.mkdir()
    for name in ("app.py", "requirements.txt"):
        (page / name).write_text(name)
    (page / "README.md").write_text("---\ntitle: Page\nsdk: gradio\n---\n# Page\n")
    return page


def quiet(line: str) -> None:
    """Says nothing."""


def check_manifest(files: dict[str, bytes]) -> None:
    """Every file but the manifest is listed, as it is."""
    listed = json.loads(files["manifest.json"])["files"]
    assert listed.keys() == files.keys() - {"manifest.json"}
    for name, entry in listed.items():
        assert entry == {"size": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}, name


def test_the_hub_gets_what_the_dry_run_wrote(hub, folder, tmp_path):
    requests, said = [], []
    hub.trouble = lambda method, path: requests.append(path)
    settings = PublishingSettings(parts=PARTS, page_folder=str(make_page(tmp_path)))
    folders = rehearse(folder, "org/items", settings, output_dir=tmp_path / "dry", say=said.append)
    assert requests == [], "a dry run asks nobody"
    written = {
        target.relative_to(tmp_path / "dry").as_posix().removeprefix("models/"): {
            path.relative_to(target).as_posix(): path.read_bytes() for path in target.rglob("*") if path.is_file()
        }
        for target in folders
    }
    assert written.keys() == {
        "datasets/org/items-ids", "org/items", "spaces/org/ranking_quality", "spaces/org/semantic_id_quality",
        "spaces/org/items-page",
    }  # fmt: skip
    for kind, name in (("dataset", "org/items-ids"), ("model", "org/items"), ("space", "org/items-page")):
        assert any(re.match(rf"{kind} {name}: \d+ files, [\d.]+ MB", line) for line in said)
    assert any("texts go along" in line and "without_texts" in line for line in said)

    addresses = publish(folder, "org/items", settings, say=quiet)
    assert hub.files == written and hub.unknown == []
    page = ModelCard(hub.files["spaces/org/items-page"]["README.md"].decode())
    assert page.data.to_dict() == {"title": "Page", "sdk": "gradio", "models": ["org/items"]} and "# Page" in page.text
    assert hub.variables == {"spaces/org/items-page": {"LMINDEXER_MODEL": "org/items"}}
    assert [repo for repo, _ in hub.commits] == list(written), "one commit each"
    assert len(addresses) == len(written) and all(address.startswith(hub.url) for address in addresses)
    assert not any(name.startswith("stages") for name in written["org/items"])
    check_manifest(written["org/items"])


def test_the_cards_say_what_the_hub_shows(folder, tmp_path):
    model, ids = reversed(rehearse(folder, "org/items", output_dir=tmp_path / "dry", say=quiet))
    card = ModelCard.load(model / "README.md")
    assert {(result.metric_type, result.metric_value) for result in card.data.eval_results} == FOUND
    assert {result.dataset_type for result in card.data.eval_results} == {"some/corpus"}
    assert card.data.model_name == "org/items" and card.data.license == "cc-by-4.0"
    assert card.text.lstrip().startswith("# org/items\n") and str(folder) not in card.content
    code = card.text.split("```python\n")[1].split("```")[0]
    ast.parse(code)
    assert 'folder = "org/items"' in code and "/datasets/org/items-ids)" in card.text
    assert card.text.index("## On the Hub") < card.text.index("## Licence")

    card = DatasetCard.load(ids / "README.md")
    assert card.data.license == "cc-by-4.0" and card.data.size_categories == "n<1K"
    assert "/org/items)" in card.text and "AMI of the first code and the categories: 0.5123" in card.text
    assert "each from 0 and below 4 and 5 and 12" in card.text


def test_the_ids_load_as_a_data_set(folder, tmp_path):
    ids, _ = rehearse(folder, "org/items", output_dir=tmp_path / "dry", say=quiet)
    index = SemanticIndex.from_pretrained(folder)
    table = datasets.load_dataset(str(ids), split="train", cache_dir=str(tmp_path / "cache"))
    assert table["id"][:] == index.document_ids and table["codes"][:] == index.codes.tolist()
    assert table["semantic_id"][:] == index.semantic_ids
    texts = datasets.load_dataset(str(ids), "documents", split="train", cache_dir=str(tmp_path / "cache"))
    assert texts["text"][:] == TEXTS[:30]


def test_a_broken_upload_goes_on(hub, folder):
    """Whatever arrived is not sent again, and until everything is there the repository is what it was."""
    arrived = []

    def hang_up(method, path):
        if method != "PUT":
            return None
        if len(hub.objects) < 3:
            return arrived.append(path.rpartition("/")[2])
        return BROKEN

    hub.trouble = hang_up
    with pytest.raises(UploadError, match=r"cannot be reached: .*not sent again"):
        publish(folder, "org/items", say=quiet)
    assert len(hub.objects) >= 3 and "org/items" not in dict(hub.commits) and not hub.files["org/items"]
    hub.trouble = lambda method, path: None
    publish(folder, "org/items", say=quiet)
    assert set(hub.sent.values()) == {1} and set(arrived) <= set(hub.sent)
    check_manifest(hub.files["org/items"])
    # A third time there is nothing left to do.
    commits, files = list(hub.commits), dict(hub.files)
    publish(folder, "org/items", say=quiet)
    assert hub.commits == commits and hub.files == files and set(hub.sent.values()) == {1}


def test_a_connection_that_breaks_once_is_no_matter(hub, folder):
    broken = []

    def hang_up_once(method, path):
        if method == "PUT" and not broken:
            broken.append(path)
            return BROKEN
        return (429, {"Retry-After": "1"}) if method == "POST" and "preupload" in path and len(broken) == 1 else None

    def then_rate_limit(method, path):
        found = hang_up_once(method, path)
        if isinstance(found, tuple):
            broken.append(path)
        return found

    hub.trouble = then_rate_limit
    publish(folder, "org/items", say=quiet)
    assert len(broken) == 2 and set(hub.sent.values()) == {1}


@pytest.mark.parametrize(
    ("request_", "answer", "message"),
    [
        ("/api/repos/create", 401, "does not know your token: run `hf auth login`, or set HF_TOKEN"),
        ("/api/validate-yaml", 400, "refuses the metadata at the beginning of README.md of org/items-ids: .*licence"),
        (
            "/api/models/org/items/preupload/main",
            403,
            "does not let you write to org/items: .*an organisation of yours",
        ),
        ("/api/datasets/org/items-ids/preupload/main", 404, "items-ids .* taken by a repository of another kind"),
        ("/api/models/org/items/commit/main", (429, {"Retry-After": "60"}), "again in 60 seconds. .*goes on"),
        ("/api/models/org/items/commit/main", 503, r"trouble of its own \(503\): .*goes on"),
        ("/api/models/org/items/commit/main", BROKEN, "cannot be reached: .*goes on"),
    ],
)
def test_what_the_hub_refuses_is_said_plainly(hub, folder, request_, answer, message):
    refusal = (404, {"X_Error_Code": "RepoNotFound"}) if answer == 404 else answer
    hub.trouble = lambda method, path: refusal if path == request_ else None
    with pytest.raises(UploadError, match=message):
        publish(folder, "org/items", say=quiet)
    assert not hub.files.get("org/items"), "nothing shows"


def test_a_file_that_stops_on_its_way_names_the_cause(hub, folder, monkeypatch):
    """As hf_xet says it, which this stand-in does not speak."""

    def stop(self, **where):
        raise RuntimeError("Data processing error: connection reset\n  at line 1")

    publish(folder, "org/items", say=quiet)
    monkeypatch.setattr("huggingface_hub.HfApi.create_commit", stop)
    with pytest.raises(UploadError, match="items-ids stopped: Data processing error: connection reset. The"):
        publish(folder, "org/items", say=quiet)


def test_no_login_and_no_network(hub, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "none"))
    hub.trouble = lambda method, path: 401
    for name in ("org/items", "items"):
        with pytest.raises(UploadError, match="does not know who you are: run `hf auth login`"):
            publish(folder, name, say=quiet)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # where nobody listens
    with pytest.raises(UploadError, match=r"Hub at http://127\.0\.0\.1:9 cannot be reached"):
        publish(folder, "org/items", say=quiet)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    with pytest.raises(UploadError, match=r"cannot be reached: .*HF_HUB_OFFLINE"):
        publish(folder, "org/items", say=quiet)


def test_other_peoples_work_and_secrets_are_left_alone(hub, folder):
    hub.files["org/bert"] = {"pytorch_model.bin": b"", "config.json": b"{}"}
    with pytest.raises(UploadError, match=r"holds something else, such as \['config.json', 'pytorch_model.bin'\]"):
        publish(folder, "org/bert", say=quiet)
    publish(folder, "org/items", say=quiet)
    with pytest.raises(UploadError, match="is there and public"):
        publish(folder, "org/items", PublishingSettings(private=True), say=quiet)
    publish(folder, "org/hidden", PublishingSettings(private=True), say=quiet)
    assert hub.private == {"org/hidden", "datasets/org/hidden-ids"}
    with pytest.raises(UploadError, match="'org/a b' is no name of a repository"):
        publish(folder, "org/a b", say=quiet)


def test_a_name_alone_is_one_of_ones_own(hub, folder, tmp_path):
    publish(folder, "items", PublishingSettings(revision="v2", ids_repo="someone/codes"), say=quiet)
    assert hub.files.keys() == {"someone/items", "datasets/someone/codes"}
    assert hub.branches == [("datasets/someone/codes", "v2"), ("someone/items", "v2")]
    with pytest.raises(ValueError, match="give OWNER/items"):
        rehearse(folder, "items", output_dir=tmp_path / "dry")


def test_what_a_folder_has_no_longer_goes(hub, folder):
    """Texts that are left out, and files of an earlier version; what somebody added on the Hub stays."""
    publish(folder, "org/items", say=quiet)
    assert DOCUMENTS_NAME in hub.files["org/items"] and DOCUMENTS_NAME in hub.files["datasets/org/items-ids"]
    hub.files["org/items"]["picture.png"] = b"mine"
    (folder / "figures" / "losses.png").unlink()
    update_manifest(folder, [])
    publish(folder, "org/items", PublishingSettings(without_texts=True), say=quiet)
    files = hub.files["org/items"]
    assert files.pop("picture.png") == b"mine" and "figures/losses.png" not in files
    check_manifest(files)
    for repo in ("org/items", "datasets/org/items-ids"):
        assert DOCUMENTS_NAME not in hub.files[repo]
        assert b"documents.parquet" not in hub.files[repo]["README.md"]
    assert b"w2 w50" not in files["README.md"] and b"## Licence" in files["README.md"]


def test_the_folder_that_a_run_began_from_is_no_base_model(folder, tmp_path):
    path, t5 = folder / "README.md", "google-t5/t5-small"
    text = path.read_text()
    for number, (name, expected) in enumerate([(tmp_path, None), ("outputs/a/b", None), (t5, [t5])]):
        path.write_text(text.replace("datasets:", f"base_model: {name}\ndatasets:", 1))
        _, model = rehearse(folder, "org/items", output_dir=tmp_path / f"dry{number}", say=quiet)
        assert ModelCard.load(model / "README.md").data.base_model == expected


def test_a_card_keeps_what_was_written_into_it(folder, tmp_path):
    path = folder / "README.md"
    path.write_text(
        path.read_text().replace(f"# {folder}", "# Shoes").replace("## Data", "## Mine\n\nHello.\n\n## Data")
    )
    _, model = rehearse(folder, "org/items", PublishingSettings(licence="mit"), output_dir=tmp_path / "dry", say=quiet)
    card = ModelCard.load(model / "README.md")
    assert "\n# Shoes\n" in card.text and "## Mine\n\nHello." in card.text and card.data.license == "mit"
    check_manifest({p.relative_to(model).as_posix(): p.read_bytes() for p in model.rglob("*") if p.is_file()})


def test_an_index_without_model_and_card_gets_one(tmp_path):
    """As `run_two_stage.py` leaves it: the figures are those of its last method."""
    folder = tmp_path / "micro"
    learned_index().save_pretrained(folder)
    described = {
        name: {"positions": [{"ami": ami, "perplexity": 2.0}]} for name, ami in (("micro", 0.1), ("moved", None))
    }
    write_json(folder / "metrics.json", {"codes": described})
    update_manifest(folder, ["semantic_ids.parquet", "prefix_tree.safetensors", "metrics.json"])
    ids, index = rehearse(folder, "org/micro", output_dir=tmp_path / "dry", say=quiet)
    card = ModelCard.load(index / "README.md")
    assert [(r.metric_type, r.metric_value) for r in card.data.eval_results] == [("perplexity", 2.0)]
    assert "AutoModel" not in card.text and 'folder = "org/micro"' in card.text
    ast.parse(card.text.split("```python\n")[1].split("```")[0])
    assert SemanticIndex.from_pretrained(index).semantic_ids == learned_index().semantic_ids
    assert "documents" not in {config["config_name"] for config in DatasetCard.load(ids / "README.md").data.configs}


def test_figures_of_a_task(tmp_path):
    found = evaluation_results(
        {"task": "retrieval", "documents": 3, "stages": {"x": {"loss": 1.0}},
         "test": {"queries": 2, "figures": {"recall@10": 0.12345, "ndcg@10": None}, "intervals": {}}}, "squad",
    )  # fmt: skip
    assert [(r.task_name, r.dataset_split, r.metric_type, r.metric_value) for r in found] == [
        ("retrieval", "test", "recall@10", 0.1235)
    ]
    assert evaluation_results({"documents": 3}, "none") == []


def test_a_damaged_folder_is_not_published(hub, folder, tmp_path):
    figure, content = folder / "figures" / "losses.png", (folder / "figures" / "losses.png").read_bytes()
    figure.write_bytes(b"x")
    with pytest.raises(CorruptedFolderError, match="losses.png has 1 bytes"):
        publish(folder, "org/items", say=quiet)
    figure.write_bytes(content)
    (folder / "prefix_tree.safetensors").write_bytes(b"x")
    with pytest.raises(CorruptedFolderError, match="prefix_tree.safetensors has 1 bytes"):
        publish(folder, "org/items", say=quiet)
    (folder / "prefix_tree.safetensors").unlink()
    with pytest.raises(CorruptedFolderError, match=r"lacks \['prefix_tree.safetensors'\]"):
        publish(folder, "org/items", say=quiet)
    with pytest.raises(FileNotFoundError, match="holds no semantic_ids.parquet"):
        publish(tmp_path / "none", "org/items", say=quiet)
    with pytest.raises(ValueError, match=r"parts are \['modle'\], expected some of model, ids, metrics, page"):
        PublishingSettings(parts=["modle"])
    assert hub.files == {}


@pytest.mark.parametrize("name", ["notes.txt", "README.md", "metrics.json"])
def test_a_link_out_of_the_folder_is_not_followed(hub, folder, tmp_path, name):
    (tmp_path / "secret").write_text("secret")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "secret")
    with pytest.raises(UploadError, match=re.escape(f"{folder / name} is a link to {tmp_path / 'secret'}")):
        rehearse(folder, "org/items", output_dir=tmp_path / "dry", say=quiet)
    with pytest.raises(UploadError, match="is a link to"):
        publish(folder, "org/items", say=quiet)
    assert hub.files == {} and not (tmp_path / "dry").exists()


def test_a_page_with_a_link_out_of_its_folder_is_not_published(hub, folder, tmp_path):
    page = make_page(tmp_path)
    (page / "key").symlink_to(folder / "config.json")
    with pytest.raises(UploadError, match="key is a link to"):
        publish(folder, "org/items", PublishingSettings(parts=["page"], page_folder=str(page)), say=quiet)
    assert hub.files == {}


def test_figures_that_are_none_are_named(folder):
    write_json(folder / "metrics.json", {"codes": {"lmindexer": {"positions": []}}})
    with pytest.raises(CorruptedFolderError, match=r"metrics\.json does not hold what was written there"):
        FolderCard.of(folder)


def test_a_folder_that_changes_meanwhile_is_not_published_half(hub, folder):
    def change(line):
        (folder / "metrics.json").write_text("{}")

    with pytest.raises(UploadError, match=r"\['metrics.json'\] changed while org/items was prepared; none of"):
        publish(folder, "org/items", say=change)
    assert hub.files["org/items"] == {}


def test_a_page_that_is_none_stops_everything(hub, folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is no folder of a Space, it lacks \['app.py', 'requirements.txt'"):
        publish(folder, "org/items", PublishingSettings(parts=PARTS, page_folder=str(tmp_path)), say=quiet)
    assert hub.files == {}


def test_a_dry_run_writes_over_nothing(folder, tmp_path):
    with pytest.raises(FileExistsError, match="is not empty"):
        rehearse(folder, "org/items", output_dir=folder, say=quiet)


def test_a_dry_run_does_not_become_a_part_of_the_folder(folder):
    with pytest.raises(ValueError, match="would be published with it"):
        rehearse(folder, "org/items", output_dir=folder / "published", say=quiet)
    assert not (folder / "published").exists()


def test_texts_in_folders_within_are_left_out_too(folder, tmp_path):
    rehearse(folder, "org/items", output_dir=tmp_path / "first", say=quiet)
    (tmp_path / "first").rename(folder / "mine")
    folders = rehearse(
        folder, "org/items", PublishingSettings(without_texts=True), output_dir=tmp_path / "dry", say=quiet
    )
    assert len(folders) == 2 and (folder / "mine").exists()
    assert not [path for path in (tmp_path / "dry").rglob("*") if path.name == DOCUMENTS_NAME]


def test_names_without_an_owner_are_the_model_s(folder, tmp_path):
    settings = PublishingSettings(
        parts=PARTS, ids_repo="codes", page_repo="shop", page_folder=str(make_page(tmp_path))
    )
    rehearse(folder, "org/items", settings, output_dir=tmp_path / "dry", say=quiet)
    assert (tmp_path / "dry/datasets/org/codes").is_dir() and (tmp_path / "dry/spaces/org/shop").is_dir()
    card = (tmp_path / "dry/models/org/items/README.md").read_text()
    assert "/datasets/org/codes)" in card and "/spaces/org/shop)" in card


@pytest.mark.parametrize("name", ["../../escaped", "a/b/c", "-/x", "org/.."])
@pytest.mark.parametrize("kind", ["ids_repo", "page_repo"])
def test_names_that_are_none_write_nothing(folder, tmp_path, kind, name):
    with pytest.raises(UploadError, match=re.escape(name)):
        rehearse(folder, "org/items", PublishingSettings(**{kind: name}), output_dir=tmp_path / "dry", say=quiet)
    assert not (tmp_path / "dry").exists()


def test_a_page_has_no_branch():
    with pytest.raises(ValueError, match="shows the main branch"):
        PublishingSettings(parts=("model", "page"), revision="v2")


def test_a_base_model_in_the_folder_that_one_was_in_then_is_no_name(tmp_path, monkeypatch):
    """A card is written where the run was; it is published from anywhere."""
    (tmp_path / "outputs" / "warm").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    content = CardContent(
        name="items", data="a corpus", documents=30, codebook_sizes=[4], positions_table="", stages_table="",
        queries="", examples="", base_model="outputs/warm",
    )  # fmt: skip
    write_card(content, [], tmp_path / "README.md")
    assert ModelCard.load(tmp_path / "README.md").data.base_model is None


@pytest.mark.parametrize("name", ["ranking_quality", "semantic_id_quality"])
def test_a_metric_says_what_a_space_needs(name):
    room = Path(metrics.__file__).parent / name
    header = ModelCard.load(room / "README.md").data.to_dict()
    assert header["sdk"] == "gradio" and header["app_file"] == "app.py" and header["tags"] == ["evaluate", "metric"]
    example = json.loads((room / "example.json").read_text())
    assert (room / example["module"]).is_file() and f'evaluate.load("OWNER/{name}")' in (
        room / "README.md"
    ).read_text()
