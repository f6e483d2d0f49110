"""The data sets as data, one file per family; `jaxqa.data.registry` puts them together."""
