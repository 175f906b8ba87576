"""Recipes of REALM pre-training."""

from __future__ import annotations

from dataclasses import replace

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
    """What two cores learn from in some minutes (docs/lab-notes.md tells how it was found).

    The retriever is a sentence encoder's embedding layer with a learned weight a word piece; the reader is one layer
    of it with a copy head. Spans that one document alone holds, or very many, are not masked in
    training.
    """
    return PretrainConfig(
        encoder=EncoderConfig(
            layers=0,
            pooling="weighted-mean",
            frequency_a=1e-4,
            whiten=0.5,
            temperature=4.0,
            null_bias="learned",
            dropout=0.0,
            backbone_dropout=0.0,
            freeze_word_embeddings=True,
        ),
        reader=ReaderConfig(layers=1, freeze_word_embeddings=True, dropout=0.0),
        data=DataConfig(
            max_query_tokens=64,
            max_passage_tokens=64,
            min_span_documents=2,
            max_span_documents=30,
            exclude="document",
            held_out_fraction=0.2,
        ),
        ict=IctConfig(
            steps=60, batch_size=256, learning_rate=1e-4, projection_learning_rate=1e-3, token_weight_learning_rate=1e-2
        ),
        realm=RealmConfig(
            steps=270,
            batch_size=16,
            num_candidates=8,
            learning_rate=1e-5,
            projection_learning_rate=4e-4,
            token_weight_learning_rate=2e-3,
            reader_learning_rate=2e-4,
            head_learning_rate=1e-3,
        ),
        refresh=RefreshConfig(every_steps=30),
        loop=LoopConfig(log_every=5, checkpoint_every=60),
        probe=ProbeConfig(size=6000),
    )


def quick() -> PretrainConfig:
    """The same on a slice, in about a minute: every part runs, nothing is learnt that a probe could see."""
    config = small()
    return replace(
        config,
        ict=replace(config.ict, steps=15, batch_size=128),
        realm=replace(config.realm, steps=24, batch_size=8, num_candidates=8),
        refresh=replace(config.refresh, every_steps=8),
        loop=replace(config.loop, log_every=2, checkpoint_every=12),
        probe=replace(config.probe, size=800),
    )
