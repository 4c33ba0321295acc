"""Everything embedded on one machine: Airflow, the worker and the demo, as processes that end with their parent."""
