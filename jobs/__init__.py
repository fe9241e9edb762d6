"""Jobs: `conf/jobs/*.yaml` → spec → runner → pipelines, and the commands around them."""
