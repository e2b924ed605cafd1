"""Files to values and back: image formats, the layout of a data set, the store of preprocessed cases."""
