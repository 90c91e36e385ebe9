"""One's own tables as a BEIR folder, with a user's arguments."""

from functools import partial

import pytest
from data.beir import BeirFolder

PRODUCTS = 'id,title,description\n1,Red kettle,"of steel, 2 l"\n2,,for tea\n30,Blue mug,\n'
JUDGEMENTS = "query,document_id,gain\nkettle,1,3\nkettle,30,0\nmug,30,2\ntea,2,1\ncup,30,1\n"


@pytest.fixture
def run(run_script, tmp_path):
    """The script on two tables; what it prints."""

    def call(judgements: str, *more, products: str = PRODUCTS, ok: bool = True) -> str:
        (tmp_path / "products.csv").write_text(products)
        (tmp_path / "judgements.csv").write_text(judgements)
        files = ["--train_file", tmp_path / "products.csv", "--judgements_file", tmp_path / "judgements.csv"]
        return partial(run_script, "make_beir", ok=ok)(*files, "--output_dir", tmp_path / "shop", *more)

    return call


def by_text(folder: BeirFolder, split: str) -> dict[str, dict[str, int]]:
    return {folder.queries[query]: judged for query, judged in folder.qrels(split).items()}


def test_a_folder_of_two_tables(run, tmp_path):
    assert "3 documents, 3 train, 1 test queries" in run(JUDGEMENTS)
    folder = BeirFolder(tmp_path / "shop")
    assert folder.documents["id"][:] == ["1", "2", "30"] and folder.titles == ["Red kettle", "", "Blue mug"]
    assert folder.documents["text"][:] == ["Red kettle\nof steel, 2 l", "for tea", "Blue mug"]
    train, test = by_text(folder, "train"), by_text(folder, "test")
    assert train | test == {"kettle": {"1": 3, "30": 0}, "mug": {"30": 2}, "tea": {"2": 1}, "cup": {"30": 1}}
    assert len(test) == 1 and not train.keys() & test.keys()
    run(JUDGEMENTS, "--test_share", 1)
    assert len(by_text(BeirFolder(tmp_path / "shop"), "test")) == 4
    assert BeirFolder(tmp_path / "shop").splits() == ["test"], "queries of an old split would be others now"


def test_splits_of_ones_own(run, tmp_path):
    judgements = "query,document_id,split\nkettle,1,train\nkettle,2,train\nmug,30,test_new\n"
    printed = run(judgements, products="id,text\n1,a\n2,b\n30,c\n")
    assert "2 train" not in printed and "1 train, 1 test_new queries" in printed
    folder = BeirFolder(tmp_path / "shop")
    assert by_text(folder, "train") == {"kettle": {"1": 1, "2": 1}} and folder.titles == ["", "", ""]
    assert folder.splits() == ["test_new", "train"]


@pytest.mark.parametrize(
    ("judgements", "message"),
    [
        ("query,product\na,1\n", "no column document_id; it has query, product"),
        ("query,document_id\na,1\n,2\n", "row 2: query '', document '2'"),
        ("query,document_id\na,7\n", "row 1: query 'a', document '7'; expected a query and a known document"),
        ("query,document_id,gain\na,1,good\n", "row 1: gain 'good'"),
        ("query,document_id\na,1\na,1\n", "row 2: query 'a' has document 1 twice"),
        ("query,document_id,split\na,1,train\na,2,test\n", "row 2: query 'a' is in test and in train"),
        ("query,document_id,split\na,1,train\nb,2,\n", "row 2: split ''"),
        ("query,document_id,split\na,1,../train\n", "row 1: split '../train'"),
        ("query,document_id\na,1\n", "There are 1 training queries"),
    ],
)
def test_judgements_that_cannot_be_used(run, judgements, message):
    assert message in run(judgements, ok=False)
    assert "test_share is 2.0" in run(judgements, "--test_share", 2, ok=False)
