"""Recipes of REALM pre-training."""

from __future__ import annotations

from realm.config import (
    DataConfig,
    EncoderConfig,
    IctConfig,
    LoopConfig,
    PretrainConfig,
    ProbeConfig,
    ReaderConfig,
    RealmConfig,
    RefreshConfig,
)


def paper() -> PretrainConfig:
    """Guu et al. 2020, section 4.3: BERT-base, 288 word pieces, 8 candidates, batch 512, 200,000 steps.

    Made for a cluster. The retriever's dropout and [CLS] pooling follow the released code.
    """
    return PretrainConfig(
        encoder=EncoderConfig(model="bert-base-uncased", pooling="cls-tanh", init="random", segments=True),
        reader=ReaderConfig(model="bert-base-uncased", copy_head=False),
        data=DataConfig(max_query_tokens=96, exclude_duplicates=False),
    )


def small() -> PretrainConfig:
    """What two cores learn from in some minutes: one layer of a sentence encoder with weighted pooling, short texts."""
    return PretrainConfig(
        encoder=EncoderConfig(
            layers=1,
            pooling="weighted-mean",
            frequency_a=1e-4,
            whiten=0.5,
            temperature=4.0,
            null_bias="learned",
            dropout=0.0,
            backbone_dropout=0.0,
            freeze_word_embeddings=True,
        ),
        reader=ReaderConfig(layers=2, freeze_word_embeddings=True, dropout=0.0),
        data=DataConfig(max_query_tokens=64, max_passage_tokens=64, exclude="document", held_out_fraction=0.1),
        ict=IctConfig(
            steps=40, batch_size=48, learning_rate=1e-4, projection_learning_rate=1e-3, token_weight_learning_rate=2e-2
        ),
        realm=RealmConfig(
            steps=200,
            batch_size=16,
            num_candidates=6,
            learning_rate=1e-4,
            projection_learning_rate=1e-3,
            token_weight_learning_rate=2e-2,
            reader_learning_rate=2e-4,
            head_learning_rate=1e-3,
        ),
        refresh=RefreshConfig(every_steps=50),
        loop=LoopConfig(log_every=5, checkpoint_every=50, threads=1),
        probe=ProbeConfig(size=1000),
    )


def quick() -> PretrainConfig:
    """The same on a slice, in about a minute."""
    return small()
