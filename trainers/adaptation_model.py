"""An encoder with what its adaptation needs on top: embeddings of two views, a language-model head, a bag of words."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING
from transformers.utils import ModelOutput

from modeling_lmindexer.backbones import encode_text, pool
from modeling_lmindexer.outputs import ReconstructionOutput
from modeling_lmindexer.word_losses import losses_of_scores


@dataclass
class AdaptationOutput(ModelOutput):
    """What the losses of an adaptation need.

    Args:
        views: `(views, batch, hidden)`, embeddings of norm `sqrt(hidden)`.
        tokens: predictions of masked tokens.
        bag: one prediction per document, of its content words.
    """

    views: torch.Tensor | None = None
    tokens: ReconstructionOutput | None = None
    bag: ReconstructionOutput | None = None


class AdaptationModel(nn.Module):
    """Computes in one forward all that is learned from, so that it can be distributed.

    Args:
        encoder: of texts.
        pooling: `mean` or `cls`.
        language_model: the encoder under a head that predicts masked tokens, where they are learned from.
        word_shares: `(tokens,)`, the share of each token id in the corpus's bags of words, where they are learned
            from; 0 for tokens that are not predicted.
    """

    def __init__(
        self,
        encoder: PreTrainedModel,
        pooling: str,
        language_model: PreTrainedModel | None = None,
        word_shares: torch.Tensor | None = None,
    ):
        super().__init__()
        self.encoder, self.pooling, self.language_model, self.words = encoder, pooling, language_model, None
        if word_shares is not None:
            vocabulary = word_shares.nonzero()[:, 0]
            self.words = word_head(encoder.get_input_embeddings().weight[vocabulary], word_shares[vocabulary])
            index = torch.zeros(len(word_shares), dtype=torch.long)
            index[vocabulary] = torch.arange(len(vocabulary))
            # Not saved: it follows from the corpus.
            self.register_buffer("index_in_vocabulary", index, persistent=False)

    def forward(
        self,
        input_ids: torch.Tensor,
        view_masks: torch.Tensor | None = None,
        target_weights: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        masked_input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
    ) -> AdaptationOutput:
        """
        Args:
            input_ids: `(batch, tokens)`.
            view_masks: `(views, batch, tokens)`, the tokens that each view reads.
            target_weights: `(batch, tokens)`, of the words of the bag that the first view predicts.
            attention_mask: `(batch, tokens)`, for the masked tokens.
            masked_input_ids: `(batch, tokens)`.
            labels: `(batch, tokens)`, -100 where no token was masked.
        """
        output = AdaptationOutput()
        if view_masks is not None:
            views, batch, _ = view_masks.shape
            mask = view_masks.flatten(0, 1)
            # All views in one pass: dropout differs between its rows.
            states = encode_text(self.encoder, input_ids.repeat(views, 1), mask, None)
            output.views = pool(states, mask, self.pooling).unflatten(0, (views, batch))
        if target_weights is not None:
            output.bag = self.predict_bag(output.views[0], input_ids, target_weights)
        if labels is not None:
            logits = self.language_model(input_ids=masked_input_ids, attention_mask=attention_mask).logits
            documents, places = (labels != -100).nonzero(as_tuple=True)
            targets = labels[documents, places]
            output.tokens = ReconstructionOutput(
                losses=losses_of_scores(logits[documents, places], targets),
                targets=targets,
                weights=torch.ones_like(documents, dtype=torch.float32),
                documents=documents,
            )
        return output

    def predict_bag(
        self, embeddings: torch.Tensor, input_ids: torch.Tensor, target_weights: torch.Tensor
    ) -> ReconstructionOutput:
        """The words' shares in each document against their prediction from its embedding `(batch, hidden)`."""
        total = target_weights.sum(-1)
        bag = target_weights.new_zeros(len(total), self.words.out_features)
        bag.scatter_add_(1, self.index_in_vocabulary[input_ids], target_weights)
        shares = bag / total.clamp(min=torch.finfo(total.dtype).tiny)[:, None]
        return ReconstructionOutput(
            losses=losses_of_scores(self.words(embeddings), shares),
            targets=shares,
            weights=total,
            documents=torch.arange(len(total), device=total.device),
        )


@torch.no_grad()
def word_head(embeddings: torch.Tensor, shares: torch.Tensor) -> nn.Linear:
    """From a document's embedding to its words; it starts from the words' own embeddings `(words, hidden)`, on length
    1, and from their shares `(words,)`, so that little is left to learn about the words themselves."""
    head = nn.Linear(embeddings.shape[1], len(embeddings))
    head.weight.copy_(F.normalize(embeddings, dim=1))
    head.bias.copy_(shares.log())
    return head


def masked_language_model(model: PreTrainedModel) -> PreTrainedModel:
    """The model if it predicts masked tokens, or else a new head on top of it.

    Raises:
        ValueError: transformers has no masked-language model of its kind.
    """
    kind, known = model.config.model_type, type(model.config) in MODEL_FOR_MASKED_LM_MAPPING
    if model.config.is_encoder_decoder or not known:
        raise ValueError(
            f"mlm needs an encoder of which transformers has a masked-language model, such as BERT or MPNet, and this "
            f"is {kind!r}: leave mlm out of objective, simcse and words learn with any encoder."
        )
    if isinstance(model, MODEL_FOR_MASKED_LM_MAPPING[type(model.config)]):
        return model
    language_model = AutoModelForMaskedLM.from_config(model.config)
    setattr(language_model, language_model.base_model_prefix, model.base_model)
    language_model.tie_weights()
    return language_model
