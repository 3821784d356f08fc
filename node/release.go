package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"gw/node/edgestore"
	"gw/node/gateway"
	"gw/node/pluginhost"
	"gw/node/uplink"
	"gw/rpc/gwv1"
	"gw/rpc/resource"
)

// releaseLoader brings releases into the gateway: from the disk at start, from the hubs afterwards. Its methods are
// called one at a time, but for loaded and fault.
type releaseLoader struct {
	gateway *gateway.Gateway
	store   *edgestore.Store
	plugins *pluginhost.Host
	share   func(plugins []uint32) // tells the spool which plugins there are
	log     *slog.Logger
}

// apply compiles a release, probes the table, starts its plugins, saves the release and swaps the table in. Whatever fails before the swap
// leaves the old table serving. A disk that can't save does not keep a release from being served: it is told by fault, and
// the store tries again.
func (l *releaseLoader) apply(ctx context.Context, r uplink.Release) error {
	table, err := gateway.Compile(snapshotOf(r.Target, r.Namespace, r.Blobs))
	if err != nil {
		return compileFailure(err)
	}
	if err := l.gateway.Probe(table); err != nil {
		return &uplink.ApplyFailure{Code: uplink.CodeProbe, Message: err.Error(), Err: err}
	}
	plugins, err := l.plugins.Prepare(ctx, pluginsOf(table))
	if err != nil {
		return pluginFailure(err)
	}
	l.save(ctx, r)
	l.swap(table, plugins, "hub")
	return nil
}

// pluginFailure tells a plugin that is not as its resource says, for which the release is rejected, from one that could
// not be started, which is tried again.
func pluginFailure(err error) error {
	var start *pluginhost.StartError
	if !errors.As(err, &start) {
		return compileFailure(err)
	}
	return &uplink.ApplyFailure{Code: uplink.CodePlugin, Kind: "Plugin", Name: start.Plugin, Message: start.Error(), Err: err}
}

func (l *releaseLoader) save(ctx context.Context, r uplink.Release) {
	if err := l.store.SaveRelease(ctx, r.Stored(), r.Blobs); err != nil {
		l.log.Error("the release is served, but could not be saved yet: a restart without a hub would bring the one before", "error", err)
	}
}

func (l *releaseLoader) swap(table *gateway.Table, plugins *pluginhost.Set, from string) {
	l.gateway.Swap(table, plugins)
	l.adopt(table, plugins)
	l.gateway.SweepUpstreams()
	l.log.Info("release loaded", "from", from, "release", table.Number(), "epoch", table.Epoch(),
		"checksum", table.Checksum().Short(), "resources", table.Len())
}

// loadFromDisk swaps in the newest release on disk that is whole, of the edge's namespace, and loads. Without one the edge
// waits for a hub.
func (l *releaseLoader) loadFromDisk(ctx context.Context, namespace string) {
	l.store.LogTo(l.log.With("room", "edgestore"))
	for generation := range 2 {
		r, blobs, err := l.store.LoadRelease(ctx, generation)
		if errors.Is(err, edgestore.ErrNone) {
			return
		}
		if err == nil && r.Namespace != namespace {
			err = fmt.Errorf("it is of namespace %q, and the edge lives in %q", r.Namespace, namespace)
		}
		if err == nil {
			var table *gateway.Table
			if table, err = gateway.Compile(snapshotOf(r.Target, r.Namespace, blobs)); err == nil {
				err = l.gateway.Probe(table)
			}
			if err == nil {
				plugins := l.plugins.Assemble(pluginsOf(table))
				plugins.Wait(ctx, pluginsWait)
				l.swap(table, plugins, "disk")
				l.store.Serves(r, blobs)
				return
			}
		}
		l.log.Error("a release on disk can't be used", "generation", generation, "error", err)
	}
}

// loaded tells what the serving table holds, computed from its own entries.
func (l *releaseLoader) loaded() uplink.Loaded {
	t := l.gateway.Table()
	if t == nil {
		return uplink.Loaded{Checksum: resource.EmptyChecksum}
	}
	return uplink.Loaded{Epoch: t.Epoch(), Number: t.Number(), Checksum: t.Checksum(), Secrets: t.Secrets()}
}

// fault returns why the serving release, or what else a restart without a hub needs, is not on disk; nil if all is.
func (l *releaseLoader) fault() error { return l.store.Fault() }

func snapshotOf(target *gwv1.Target, namespace string, blobs []*gwv1.Blob) gateway.Snapshot {
	s := gateway.Snapshot{Namespace: namespace, Epoch: target.GetEpoch(), Number: target.GetNumber(), Resources: make([]gateway.Resource, len(blobs))}
	for i, b := range blobs {
		digest, _ := resource.AsDigest(b.Digest) // verified before it came here; a wrong one fails to compile
		s.Resources[i] = gateway.Resource{Kind: b.Kind, Name: b.Name, Digest: digest, Spec: b.Spec}
	}
	return s
}

// compileFailure returns the first thing wrong as the failure that travels to the hub, saying how many there are.
func compileFailure(err error) error {
	var (
		errs  resource.Errors
		first *resource.Error
	)
	switch {
	case errors.As(err, &errs) && len(errs) > 0:
		first = errs[0]
	case !errors.As(err, &first):
		return &uplink.ApplyFailure{Code: uplink.CodeCompile, Message: err.Error(), Err: err}
	}
	f := &uplink.ApplyFailure{Code: uplink.CodeCompile, Kind: first.Kind, Name: first.Name, Field: first.Field, Message: first.Message, Err: err}
	if first.Code == resource.CodeTooOld {
		f.Code = uplink.CodeTooOld
	}
	if first.Expected != "" {
		f.Message += ", expected " + first.Expected
	}
	if len(errs) > 1 {
		f.Message += fmt.Sprintf(" (and %d more)", len(errs)-1)
	}
	return f
}

// secretsOf returns the names of the secrets a release refers to.
func secretsOf(r uplink.Release) ([]string, error) {
	var names []string
	for _, b := range r.Blobs {
		spec, err := resource.Decode(b.Kind, b.Name, b.Spec)
		if err != nil {
			return nil, compileFailure(err)
		}
		names = append(names, resource.Secrets(spec)...)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
