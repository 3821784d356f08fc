# Shows the recipes.
default:
    @just --list

# Regenerates protobuf, connect and templ code.
gen:
    cd rpc/proto && go run github.com/bufbuild/buf/cmd/buf@v1.71.0 generate
    cd rpc/proto && go run github.com/bufbuild/buf/cmd/buf@v1.71.0 generate --template buf.gen.plugin.yaml
    go tool templ generate ./ui/page

# What CI checks, without the tests.
check:
    test -z "$(gofmt -l $(git ls-files '*.go'))"
    go vet ./...
    go run honnef.co/go/tools/cmd/staticcheck@v0.6.1 ./...

# Runs the tests.
test:
    go test ./...

# One hub, one edge and a sample upstream in one process.
dev *args:
    go run . dev {{args}}

# Three hubs and three edges on loopback.
cluster *args:
    go run . dev --hubs 3 --edges 3 --data "$(mktemp -d)" {{args}}

# Kills, pauses, cuts off and fills the disks of hubs and edges, in virtual time and with real processes, for long.
chaos seeds='1000':
    GW_CHAOS_SEEDS={{seeds}} go test -count=1 -timeout 4h -run '^TestVirtual' ./raftstore
    GW_CHAOS=long go test -count=1 -timeout 1h -run '^TestChaos' ./node

# Builds the static, stripped binary.
build:
    CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o gw .

# Measures, each claim beside its reference in one run.
bench *args:
    go run . bench proxy {{args}}
    go run . bench raft
    go run . bench fleet --edges 1000
    go run . bench plugins
    go test -run '^$' -bench . ./rpc/resource ./raftstore/... ./node/edgestore

# Fuzzes every decoder for a while.
fuzz time='30s':
    go list ./... | xargs -I{} sh -c 'for f in $(go test -list "^Fuzz" {} | grep ^Fuzz); do go test -run "^$" -fuzz "^$f\$" -fuzztime {{time}} {} || exit 1; done'

# Writes a picture of every console page into a folder.
screenshots dir='screenshots':
    GW_SCREENSHOTS={{justfile_directory()}}/{{dir}} go test -count=1 -run '^TestScreenshots$' ./ui
