# Every target does its own set-up: Node 24 comes from npm with the other packages, programs from Debian.
# Without root, demo, test and bench run in namespaces of their own, where they are root.

export PATH := $(CURDIR)/node_modules/.bin:$(PATH):/usr/sbin:/sbin

AS_ROOT := $(if $(filter-out 0,$(shell id -u)),unshare --user --map-root-user --net --mount \
	sh -c 'mount -t tmpfs run /run && ip link set lo up && exec "$$@"' sh)
MODULES := node_modules/.package-lock.json

.PHONY: build binary dist test demo bench lint check clean

build: $(MODULES)
	node scripts/build.ts

test: setup-test build
	$(AS_ROOT) vitest run

# One self-contained executable for each of $(ARCHS), and out/flanneld for this machine.
ARCHS ?= amd64 arm64
binary: setup-binary build
	node scripts/binary.ts $(ARCHS)

# Archives as flannel's releases have them, with checksums, licences and bills of materials.
dist: binary
	node scripts/dist.ts $(ARCHS)

demo: setup-demo build
	@$(AS_ROOT) node test/demo.ts

# FLANNEL_PEER=/path/to/another/flanneld measures side by side; BENCH_PEERS="100 1000" chooses the sizes.
bench: setup-bench build
	$(AS_ROOT) node test/bench/daemon.ts

lint: $(MODULES)
	tsc --noEmit
	biome check .

check: lint test

clean:
	rm -rf build dist out

$(MODULES): package.json package-lock.json | setup-build
	npm ci
	@touch $@

.PHONY: setup-build setup-test setup-demo setup-bench setup-binary
setup-build setup-test setup-demo setup-bench setup-binary: setup-%:
	@scripts/setup.sh $*
