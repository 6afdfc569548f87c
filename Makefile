# istio-hostagent: `make help` lists what is supported; anything else may change without notice.
# Every target but help and install brings what it needs (apt, a virtual environment), so that each
# works as root on a bare Debian 12 machine.

PYTHON := /usr/bin/python3
BUILD := .build
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Tests wait more than they work: two at once for each processor, up to eight. In conftest.py is
# what belongs together; long waits come first.
PARALLEL := -n $(shell echo $$(($$(nproc) < 4 ? $$(nproc) * 2 : 8))) --dist loadgroup --no-loadscope-reorder
SOURCES := istio_hostagent tests debian/man

# What the program needs at run time, and what the checks, the namespaces and the test machines need.
RUNTIME_PACKAGES := python3 python3-pyroute2 python3-iptables python3-cryptography python3-requests \
	python3-sdnotify python3-watchdog python3-pycurl python3-yaml iproute2 nftables util-linux
NETNS_PACKAGES := python3-venv python3-setuptools python3-wheel python3-h2 conntrack tcpdump openssl curl dnsmasq-base
BOOTED_PACKAGES := systemd-container mmdebstrap apt-utils gnupg zstd debian-archive-keyring openssh-client strace

.PHONY: help
help:
	@echo 'make check        format, lint, types, unit, golden and contract tests'
	@echo 'make test         everything: check, namespaces, Envoy, istiod, booted Debian 12 and 13'
	@echo 'make test-unit    tests that need nothing, and no privilege'
	@echo 'make test-netns   tests with packets, in network namespaces of their own, and with Envoy'
	@echo 'make test-booted  the package on booted Debian 12 and 13 machines'
	@echo 'make test-interop tests with a real istiod, pilot-agent, API server and Consul'
	@echo 'make peers        build those of Istio, Kubernetes and Consul (minutes, once)'
	@echo 'make soak         kills at random moments, random inputs, 1 000 reloads under load: an hour'
	@echo 'make coexistence  booted machines beside firewalls and network programs, as a table'
	@echo 'make golden       rewrite the expected rule sets, and what documents take from tables'
	@echo 'make demo         two hosts, a CA and real Envoys on this machine (KEEP=1 leaves it running)'
	@echo 'make bench        measure the budgets, beside the peers'
	@echo 'make deb          build and lint the package, into $(BUILD)/deb'
	@echo 'make repo         a signed apt repository with it, into $(BUILD)/repo (REPO_URL=, REPO_KEYS=)'
	@echo 'make install      copy the program to DESTDIR (what debian/rules calls)'
	@echo 'make clean        remove what the other targets made here'

$(BUILD)/apt-%.stamp:
	@mkdir -p $(BUILD)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES)
	@touch $@

$(BUILD)/apt-runtime.stamp: PACKAGES = $(RUNTIME_PACKAGES)
$(BUILD)/apt-netns.stamp: PACKAGES = $(RUNTIME_PACKAGES) $(NETNS_PACKAGES)
$(BUILD)/apt-booted.stamp: PACKAGES = $(BOOTED_PACKAGES)

# The environment sees Debian's packages: product and tests run with the libraries users have.
$(BUILD)/venv.stamp: tests/requirements.txt $(BUILD)/apt-netns.stamp
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r tests/requirements.txt
	@touch $@

# The second reader has to read the same with another version of its library.
OTHER_PYROUTE2 := $(BUILD)/pyroute2
$(OTHER_PYROUTE2): $(BUILD)/venv.stamp
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --target $@ pyroute2==0.8.1
export HOSTAGENT_OTHER_PYROUTE2 ?= $(abspath $(OTHER_PYROUTE2))

.PHONY: check
check: $(BUILD)/venv.stamp
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/codespell README.md Makefile debian docs etc istio_hostagent systemd tests
	$(PYTEST) -q $(PARALLEL) tests/unit tests/golden tests/agent

.PHONY: test-unit
test-unit: $(BUILD)/venv.stamp
	$(PYTEST) -q $(PARALLEL) tests/unit tests/golden tests/agent

.PHONY: test-netns
test-netns: $(BUILD)/venv.stamp $(OTHER_PYROUTE2)
	$(PYTEST) -q $(PARALLEL) tests/conformance tests/netns tests/contract tests/envoy tests/worker tests/lifecycle

.PHONY: test-booted
test-booted: $(BUILD)/venv.stamp $(BUILD)/apt-booted.stamp
	$(PYTEST) -q $(PARALLEL) tests/booted

# The programs of others, into the cache of the user; nothing of theirs is kept here.
.PHONY: peers
peers: $(BUILD)/venv.stamp
	@$(BIN)/python -m tests.peers.build

.PHONY: test-interop
test-interop: peers
	$(PYTEST) -q $(PARALLEL) tests/interop

# One run; if a few tests fail, their files are run again, with nothing beside them. Where no peer
# can be built its tests say so: they skip, or fail if HOSTAGENT_REQUIRE names their layer.
.PHONY: test
test: $(BUILD)/venv.stamp $(BUILD)/apt-booted.stamp $(OTHER_PYROUTE2)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/codespell README.md Makefile debian docs etc istio_hostagent systemd tests
	-@$(BIN)/python -m tests.peers.build
	$(BIN)/python -m tests.suite $(PARALLEL) --durations=25 tests

# What make test repeats a few times, many times: kills at random moments, properties of any input.
.PHONY: soak
soak: $(BUILD)/venv.stamp $(BUILD)/apt-booted.stamp
	HOSTAGENT_SOAK=1 $(PYTEST) -q $(PARALLEL) -m 'soak or hypothesis' tests/unit tests/conformance tests/netns tests/lifecycle tests/agent tests/worker tests/envoy tests/booted

# After every step of each program; make test goes as far as their reloads.
.PHONY: coexistence
coexistence: $(BUILD)/venv.stamp $(BUILD)/apt-booted.stamp
	HOSTAGENT_SOAK=1 $(PYTEST) -q $(PARALLEL) tests/booted/test_coexistence.py

.PHONY: golden
golden: $(BUILD)/venv.stamp
	HOSTAGENT_GOLDEN=rewrite $(PYTEST) -q tests/golden

.PHONY: demo
demo: $(BUILD)/venv.stamp
	@$(PYTHON) -m tests.demo --envoy $(VENV)/lib/python3*/site-packages/envoy/_bin/envoy $(if $(KEEP),--keep)

# Where no peer can be built the rows beside it say so.
.PHONY: bench
bench: $(BUILD)/venv.stamp
	-@$(BIN)/python -m tests.peers.build istio
	@$(PYTHON) -m tests.bench --envoy $(VENV)/lib/python3*/site-packages/envoy/_bin/envoy

.PHONY: deb
deb: $(BUILD)/apt-booted.stamp
	rm -f $(BUILD)/deb/*.deb
	$(PYTHON) -m tests.package.build $(BUILD)/deb

# Signed by the key of REPO_KEYS, a GNUPGHOME; hosts will find it at REPO_URL.
REPO_KEYS ?= $(BUILD)/repo-keys
REPO_URL ?= https://packages.example.org/istio-hostagent
.PHONY: repo
repo: deb
	@$(PYTHON) -m tests.package.archive $(BUILD)/repo --package $(BUILD)/deb/istio-hostagent_*_all.deb \
		--url $(REPO_URL) --keys $(REPO_KEYS)

.PHONY: install
install:
	install -d $(DESTDIR)/usr/share/istio-hostagent $(DESTDIR)/usr/sbin \
		$(DESTDIR)/usr/lib/systemd/system $(DESTDIR)/etc/istio-hostagent \
		$(DESTDIR)/usr/share/bash-completion/completions
	cd istio_hostagent && find . -name '*.py' -exec \
		install -D -m 644 {} $(abspath $(DESTDIR)/)/usr/share/istio-hostagent/istio_hostagent/{} \;
	install -m 755 systemd/istio-hostagent $(DESTDIR)/usr/sbin/istio-hostagent
	install -D -m 755 systemd/legacy-rules $(DESTDIR)/usr/lib/istio-hostagent/legacy-rules
	install -m 755 systemd/load-guard $(DESTDIR)/usr/lib/istio-hostagent/load-guard
	install -D -m 755 systemd/istio-hostagent-generator \
		$(DESTDIR)/usr/lib/systemd/system-generators/istio-hostagent-generator
	install -m 644 systemd/*.service systemd/*.socket systemd/*.target $(DESTDIR)/usr/lib/systemd/system/
	install -m 755 systemd/firewall-openings $(DESTDIR)/usr/lib/istio-hostagent/firewall-openings
	install -m 644 etc/hostagent.env $(DESTDIR)/etc/istio-hostagent/hostagent.env
	install -D -m 644 etc/needrestart.conf $(DESTDIR)/etc/needrestart/conf.d/istio-hostagent.conf
	install -m 644 etc/istio-hostagent.bash \
		$(DESTDIR)/usr/share/bash-completion/completions/istio-hostagent

.PHONY: clean
clean:
	# The key of a repository stays: hosts know no other one.
	find $(BUILD) -mindepth 1 -maxdepth 1 ! -name repo-keys -exec rm -rf {} + 2>/dev/null || true
	rm -rf $(VENV) .mypy_cache .ruff_cache
