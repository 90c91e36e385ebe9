"""The card of a fine-tuned model: readable, with figures where the Hub looks for them."""

import ast

from huggingface_hub import ModelCard

from trainers.task_card import TaskCard, write_task_card


def test_the_card_says_how_to_ask_and_how_well_it_answers(tmp_path):
    content = TaskCard(
        name="org/recommender", task="recommendation", documents=4344, pairs=33541, sizes=[128, 128, 128],
        reading="The last 10 items, the newest first.", query_code='query = tokenizer("<p_1>", return_tensors="pt")',
        example="<p_1><p_1_2> ```", table="| split | recall@10 |", num_beams=20, dataset="sequences.txt.gz",
        figures={"test": {"recall@10": 0.10824, "ndcg@10": 0.07}, "test_unseen": {"recall@10": 0.5}},
        base_model="google-t5/t5-small", licence="mit",
    )  # fmt: skip
    write_task_card(content, tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    found = {(one.dataset_split, one.metric_type): one.metric_value for one in card.data.eval_results}
    assert found == {("test", "recall@10"): 0.1082, ("test", "ndcg@10"): 0.07, ("test_unseen", "recall@10"): 0.5}
    assert card.data.model_name == "org/recommender" and "recommendation" in card.data.tags
    assert card.data.base_model == ["google-t5/t5-small"] and card.data.license == "mit"
    assert "4,344 documents, 33,541 training pairs" in card.text and "128 x 128 x 128" in card.text
    assert card.text.count("```") % 2 == 0, "a query does not end the block that it stands in"
    code = card.text.split("```python\n")[1].split("```")[0]
    ast.parse(code)
    assert 'folder = "org/recommender"' in code and 'tokenizer("<p_1>"' in code
