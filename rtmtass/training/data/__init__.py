"""Training sound: corpora, packs, synthetic banks, augmentation, batches."""
