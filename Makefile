# The two commands: `make book` reads, `make test` checks. `make` lists the rest.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.book
DEV    := $(VENV)/.dev
CLASS  := $(VENV)/.course

# Small matrices: a second BLAS thread gains nothing and takes the core of another process.
export OPENBLAS_NUM_THREADS ?= 1
export OMP_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help book pdf site test-live ledger test lab serve notebooks bench study movielens style requirements clean course grade

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name it with make PYTHON=..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

$(CLASS): $(STAMP) requirements-course.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-course.txt
	@touch $@

$(DEV): $(STAMP) $(CLASS) requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

book: $(STAMP)  ## Build the book into _build/html
	@$(BIN)/python tools/build_book.py

test: $(DEV) style book  ## Run everything: unit tests, notebooks, book, browser, style
	$(BIN)/python -m pytest -n 2 --dist loadfile

style: $(DEV)  ## Check format, lint and the direction of imports
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ."; exit 1; }
	$(BIN)/lint-imports --no-logo > /dev/null || $(BIN)/lint-imports

lab: $(STAMP)  ## Open JupyterLab on the chapters
	$(BIN)/jupyter lab chapters

serve: book  ## Serve the book at http://localhost:8000
	$(BIN)/python -m http.server 8000 --bind localhost --directory _build/html

notebooks: $(STAMP)  ## Execute and normalise the chapters (ONLY="name name" for some)
	$(BIN)/python tools/notebooks.py $(ONLY)

pdf: $(DEV) book  ## Print the whole book into _build/pdf/book.pdf (needs Chromium)
	@$(BIN)/python tools/make_pdf.py

site: $(DEV) book  ## Build the full site, in which each chapter runs, into _build/site
	@$(BIN)/python tools/build_site.py

LIVE := .venv-live
$(LIVE)/.live: requirements.txt pyproject.toml site/requirements-pyodide.txt $(DEV)
	rm -rf $(LIVE) && $(PYTHON) -m venv $(LIVE)
	$(LIVE)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(LIVE)/bin/python -m pip install --quiet --disable-pip-version-check \
		-r site/requirements-pyodide.txt pytest-xdist hypothesis
	$(LIVE)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

test-live: $(LIVE)/.live  ## Run all notebooks with the versions of numpy, scipy and matplotlib of "Run live"
	$(LIVE)/bin/python -m pytest -q -n 2 --dist loadfile -o addopts="" --nbval-lax chapters

ledger: $(DEV)  ## Renew ledger/evidence.json from the tests of numbered results
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -p no:nbval -o addopts="--strict-markers" -m ledger --write-evidence tests

bench: $(DEV)  ## Measure what is fast, side by side, and print the tables
	@for script in benchmarks/bench_*.py; do $(BIN)/python $$script || exit 1; done

movielens: $(STAMP)  ## Rating dynamics at full size (DATA=ml-100k/u.data, from grouplens.org; OUT=folder)
	@test -n "$(DATA)" || { echo "get ml-100k.zip from grouplens.org/datasets/movielens/100k, unpack it,"; \
		echo "then: make movielens DATA=ml-100k/u.data"; exit 1; }
	$(BIN)/python tools/movielens.py "$(DATA)" "$(or $(OUT),_build/movielens)"

study: $(STAMP)  ## Solve the chapter on matrix recovery at full size; go on after an interruption
	$(BIN)/python tools/study.py

course: $(CLASS)  ## Make this year's nbgrader course (COHORT=2027 OUT=../course-2027)
	@$(BIN)/python -m course.generate --cohort "$(COHORT)" --out "$(OUT)"

grade: $(CLASS)  ## Grade what a course has under submitted/ (COURSE=../course-2027 JOBS=2)
	@$(BIN)/python -m course.grade --course "$(COURSE)" $(if $(JOBS),--jobs $(JOBS))

requirements: $(DEV)  ## Renew the three files of exact requirements
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header \
		--extra book pyproject.toml --output-file requirements.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header \
		--extra dev --constraint requirements.txt pyproject.toml --output-file requirements-dev.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --no-header \
		--extra course --constraint requirements.txt --constraint requirements-dev.txt \
		pyproject.toml --output-file requirements-course.txt

clean:  ## Remove everything that was built, the environment included
	rm -rf _build $(VENV) .pytest_cache .ruff_cache .hypothesis *.egg-info
