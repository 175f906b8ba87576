"""Recipes of REALM pre-training."""

from __future__ import annotations

from dataclasses import replace

from realm.config import (
    DataConfig,
    EncoderConfig,
    IctConfig,
    LoopConfig,
    OptimConfig,
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

    The retriever is a bag of word pieces: a sentence encoder's embeddings, all trained, with a learned weight each.
    The reader reads the sentence with one layer and points at pieces of the passages, so that 64 candidates cost
    little more than 8 and most sentences find one that helps.
    """
    return PretrainConfig(
        encoder=EncoderConfig(
            layers=0,
            dim=None,
            normalize="l2",
            pooling="weighted-mean",
            frequency_a=1e-4,
            temperature=0.05,
            learn_temperature=True,
            null_bias="learned",
            dropout=0.0,
            backbone_dropout=0.1,
        ),
        reader=ReaderConfig(interaction="late", layers=1, freeze_word_embeddings=True, dropout=0.0),
        data=DataConfig(
            max_query_tokens=64,
            max_passage_tokens=288,
            min_span_documents=2,
            exclude="document",
            held_out_fraction=0.2,
        ),
        ict=IctConfig(
            steps=100,
            batch_size=256,
            learning_rate=5e-4,
            projection_learning_rate=1e-3,
            token_weight_learning_rate=3e-3,
        ),
        realm=RealmConfig(
            steps=300,
            batch_size=64,
            num_candidates=65,
            learning_rate=1e-3,
            token_weight_learning_rate=3e-3,
            reader_learning_rate=5e-4,
            head_learning_rate=2e-3,
        ),
        refresh=RefreshConfig(every_steps=50),
        optim=OptimConfig(weight_decay=0.0),
        loop=LoopConfig(log_every=5, checkpoint_every=100),
        probe=ProbeConfig(size=6000),
    )


def quick() -> PretrainConfig:
    """The same on a slice, in about a minute: every part runs, nothing is learnt that a probe could see."""
    config = small()
    return replace(
        config,
        ict=replace(config.ict, steps=15, batch_size=128),
        realm=replace(config.realm, steps=60, batch_size=16, num_candidates=17),
        refresh=replace(config.refresh, every_steps=20),
        loop=replace(config.loop, log_every=5, checkpoint_every=30),
        probe=replace(config.probe, size=800),
    )
