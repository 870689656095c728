"""The datasets: one module a cluster, one YAML file of templates a dataset. Data about data, no pipeline code."""
