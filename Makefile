# make run   builds stile, installs what is missing, boots a VM and runs a command in it
# make test  does the same for the whole test suite
# make soak  long runs; make fuzz; make race  the race detector; make bench  measurements; see CONTRIBUTING.md

GO      ?= go
BIN     := bin/stile
AGENT   := bin/stile-agent
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo devel)

export CGO_ENABLED = 0

.PHONY: all run test check race soak bench fuzz clean deps build

all: build

# Guests get the agent on its own. stile takes the one beside it if it is the one that it was built with.
build:
	$(GO) build -trimpath -ldflags '-s -w' -o $(AGENT) ./images/agent/cmd/stile-agent
	$(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION) \
		-X github.com/stile-vmm/stile/images.agentHash=$$(sha256sum $(AGENT) | cut -d' ' -f1)" -o $(BIN) ./cmd/stile

# What a machine lacks is told by stile itself.
deps: build
	hack/deps $(BIN)

run: deps
	$(BIN) run -- uname -a

check:
	hack/check

test: deps check
	hack/test

# The race detector is C's, and its programs are linked with the C library.
race: export CGO_ENABLED = 1
race:
	$(GO) test -race -short ./...

soak: deps
	hack/soak

bench: deps
	hack/bench

fuzz:
	hack/fuzz

clean:
	rm -rf bin
