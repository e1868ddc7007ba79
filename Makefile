# Every target does its own set-up: Node 24 comes from npm with the other packages, programs from Debian.
# Without root, demo, test and bench run in namespaces of their own, where they are root.

export PATH := $(CURDIR)/node_modules/.bin:$(PATH):/usr/sbin:/sbin

AS_ROOT := $(if $(filter-out 0,$(shell id -u)),unshare --user --map-root-user --net --mount \
	sh -c 'mount -t tmpfs run /run && ip link set lo up && exec "$$@"' sh)
MODULES := node_modules/.package-lock.json

.PHONY: build binary dist deb image test units soak vm-test e2e demo bench lint check release-check clean

build: $(MODULES)
	node scripts/build.ts

# Ends with the tutorial on booted machines where that can be done.
test: units
	scripts/e2e.sh

units: setup-test build
	$(AS_ROOT) vitest run

# SOAK_SECONDS (600) of joins, leaves, sabotage, faults of etcd and restarts, chosen by SOAK_SEED, each round checked entry by
# entry; then SOAK_RESTARTS (1000) restarts under new connections. Some 20 minutes.
soak: setup-soak build
	$(AS_ROOT) node test/soak/main.ts

# What this kernel may lack, ipip and WireGuard, under Debian's kernel in a virtual machine; needs neither root nor KVM.
# Four minutes on two cores with nothing else to do, and a minute more the first time. An emulated CPU suffers from other work
# beside it more than anything here, up to a quarter of an hour, so it is no part of `make test`, which takes nine minutes without it.
# Leave the checkout alone meanwhile: the machine reads it.
vm-test: setup-vm build
	node scripts/vm.ts vitest run --config test/vm/vitest.config.ts

# The tutorial on three machines with a real systemd, under root. E2E_WRITE=1 rewrites the outputs in docs/tutorial.md;
# FLANNEL_PEER=/path/to/flannel-v0.11.0/flanneld adds the way from there and back.
e2e: setup-e2e build
	node scripts/binary.ts
	vitest run --config test/e2e/vitest.config.ts

# One self-contained executable for each of $(ARCHS), and out/flanneld for this machine.
ARCHS ?= amd64 arm64
binary: setup-binary build
	node scripts/binary.ts $(ARCHS)

# Archives as flannel's releases have them, with checksums, licences and bills of materials.
dist: binary
	node scripts/dist.ts $(ARCHS)

deb: binary
	node scripts/deb.ts $(ARCHS)

# Without a registry; Dockerfile makes the same with one.
image: setup-image build
	node scripts/binary.ts
	scripts/image.sh

# BACKEND=host-gw shows another backend than vxlan; so it does for the throughput in `bench`.
demo: setup-demo build
	@$(AS_ROOT) node test/demo.ts

# FLANNEL_PEER=/path/to/another/flanneld measures side by side and, when all of it ran, rewrites the figures and plots of
# docs/performance.md: a quarter of an hour. Ours is the executable, as it is released; FLANNELD names another build of it.
# BENCH_ONLY="start cold" chooses parts, BENCH_PEERS="100 1000" sizes.
bench: setup-bench build
	node scripts/binary.ts
	# As an installation does it: what was just linked lies in the page cache in larger pieces, and shows 17 MB more.
	install -D out/flanneld out/bench/flanneld
	$(AS_ROOT) node test/bench/daemon.ts

lint: $(MODULES)
	tsc --noEmit
	biome check .

check: lint test

# What a release has to pass. FLANNEL_PEER adds the way from Go flannel and back.
release-check: setup-release lint units e2e dist deb image
	# A registry that has no such service is no finding.
	npm audit --omit=dev || npm audit --omit=dev 2>&1 | grep -q 'audit endpoint returned an error'
	lintian --fail-on error out/*.deb
	ls -l out
	BENCH_ONLY=start FLANNELD=$(CURDIR)/out/flanneld FLANNEL_PEER=$(CURDIR)/bin/flanneld node test/bench/daemon.ts

clean:
	rm -rf build dist out

$(MODULES): package.json package-lock.json | setup-build
	npm ci
	@touch $@

.PHONY: setup-build setup-test setup-soak setup-vm setup-demo setup-bench setup-binary setup-e2e setup-image setup-release
setup-build setup-test setup-soak setup-vm setup-demo setup-bench setup-binary setup-e2e setup-image setup-release: setup-%:
	@scripts/setup.sh $*
