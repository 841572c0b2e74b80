"""Images and labels: data sets by name, folders, splits, the cache of decoded images."""
