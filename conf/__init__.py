"""The operator's YAML as shipped: defaults that `--conf-dir`, `LAKEMILL_CONF` or `./conf` replace file by file."""
