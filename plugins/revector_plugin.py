"""For an Airflow that finds revector on its path but not as an installed package; beside that it does nothing.

Airflow takes each plugin name once: where the package's own entry point exists, this file and it are one plugin.
"""

from revector.airflow.plugin import RevectorPlugin

__all__ = ["RevectorPlugin"]
