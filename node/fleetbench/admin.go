package fleetbench

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"gw/rpc/gwv1"
	"gw/rpc/gwv1/gwv1connect"
)

const (
	// batch is how many resources are saved in one call.
	batch = 500
	// adminTimeout bounds one admin call. A hub holds calls for up to 5 s.
	adminTimeout = 30 * time.Second
)

// admin is the admin API of one hub.
type admin struct {
	base     string
	http     *http.Client
	config   gwv1connect.ConfigServiceClient
	releases gwv1connect.ReleaseServiceClient
	fleet    gwv1connect.FleetServiceClient
	access   gwv1connect.AccessServiceClient
	cluster  gwv1connect.ClusterServiceClient
}

func newAdmin(client *http.Client, base string) *admin {
	return &admin{
		base: base, http: client,
		config:   gwv1connect.NewConfigServiceClient(client, base),
		releases: gwv1connect.NewReleaseServiceClient(client, base),
		fleet:    gwv1connect.NewFleetServiceClient(client, base),
		access:   gwv1connect.NewAccessServiceClient(client, base),
		cluster:  gwv1connect.NewClusterServiceClient(client, base),
	}
}

// app is the name of the app whose tokens are revoked.
const app = "bench"

// setUp saves and pushes a configuration for a namespace of this run's own, and makes a join token for its edges.
func (b *bench) setUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*adminTimeout)
	defer cancel()
	var random [4]byte
	rand.Read(random[:])
	b.namespace = "bench-" + hex.EncodeToString(random[:])
	for from := 0; from < b.Resources; from += batch {
		var part []*gwv1.Resource
		for i := from; i < min(from+batch, b.Resources); i++ {
			part = append(part, api(b.namespace, i, 0))
		}
		if _, err := b.admin.config.ApplyResources(ctx, &gwv1.ApplyResourcesRequest{Resources: part}); err != nil {
			return fmt.Errorf("save resources: %w", err)
		}
	}
	if _, err := b.pushNow(ctx); err != nil {
		return err
	}
	answer, err := b.admin.access.CreateJoinToken(ctx, &gwv1.CreateJoinTokenRequest{
		Namespace: b.namespace, Unlimited: true, Ephemeral: true, Ttl: durationpb.New(24 * time.Hour),
	})
	if err != nil {
		return fmt.Errorf("make a join token: %w", err)
	}
	b.joinToken, b.joinTokenID, b.hubURLs = answer.Credential, answer.JoinToken.GetId(), answer.HubUrls
	_, err = b.admin.access.CreateApp(ctx, &gwv1.CreateAppRequest{App: &gwv1.App{Name: app, Namespace: b.namespace, Targets: []string{"*"}}})
	if err != nil {
		return fmt.Errorf("make an app: %w", err)
	}
	return nil
}

// pushNow pushes the edges' namespace and returns the release's number.
func (b *bench) pushNow(ctx context.Context) (uint64, error) {
	answer, err := b.admin.releases.Push(ctx, &gwv1.PushRequest{Scope: &gwv1.Scope{Namespaces: []string{b.namespace}}, Note: "gw bench fleet"})
	if err != nil {
		return 0, fmt.Errorf("push: %w", err)
	}
	return answer.Number, nil
}

// api is resource i of a namespace. Another revision has other bytes.
func api(namespace string, i, revision int) *gwv1.Resource {
	list := func(v ...*structpb.Value) *structpb.Value {
		return structpb.NewListValue(&structpb.ListValue{Values: v})
	}
	upstream := &structpb.Struct{Fields: map[string]*structpb.Value{
		"url": structpb.NewStringValue(fmt.Sprintf("https://service-%05d.revision-%d.internal.invalid:8443/v1", i, revision)),
	}}
	return &gwv1.Resource{
		Kind: "API", Metadata: &gwv1.ResourceMetadata{Name: fmt.Sprintf("service-%05d", i), Namespace: namespace},
		Spec: &structpb.Struct{Fields: map[string]*structpb.Value{
			"paths":     list(structpb.NewStringValue(fmt.Sprintf("/services/%05d", i)), structpb.NewStringValue(fmt.Sprintf("/internal/services/%05d", i))),
			"upstreams": list(structpb.NewStructValue(upstream)),
		}},
	}
}

// edit saves another revision of one resource.
func (b *bench) edit(ctx context.Context, i, revision int) error {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	_, err := b.admin.config.ApplyResources(ctx, &gwv1.ApplyResourcesRequest{Resources: []*gwv1.Resource{api(b.namespace, i, revision)}})
	if err != nil {
		return fmt.Errorf("save a resource: %w", err)
	}
	return nil
}

// summary counts the edges of this run, as the leader sees them.
func (a *admin) summary(ctx context.Context, namespace string) (*gwv1.FleetSummary, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	answer, err := a.fleet.ListEdges(ctx, &gwv1.ListEdgesRequest{Namespace: namespace, PageSize: 1})
	if err != nil {
		return nil, fmt.Errorf("list edges: %w", err)
	}
	return answer.Summary, nil
}

// awaitRight waits until the leader sees every edge connected and on its release.
func (b *bench) awaitRight(ctx context.Context) (connected, right time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.Patience)
	defer cancel()
	began, n := time.Now(), uint32(b.Edges)
	said := began
	var last *gwv1.FleetSummary
	for {
		asked := time.Now()
		s, err := b.admin.summary(ctx, b.namespace)
		if err == nil {
			last = s
			if s.Connected == n && connected == 0 {
				connected = time.Since(began)
			}
			if s.Connected == n && s.InSync == n {
				return connected, time.Since(began), nil
			}
		}
		if refused := b.fleet.fault(); refused != nil {
			return 0, 0, refused
		}
		if time.Since(said) >= time.Second {
			said = time.Now()
			b.Progress(fmt.Sprintf("  of %d edges, %d are Connected, %d In sync; %s", n, last.GetConnected(), last.GetInSync(), b.fleet.standing()))
		}
		// A big fleet takes a while to be looked through, and the leader has other things to do. But a call may also have
		// been held until there was a leader.
		pause := time.NewTimer(min(max(50*time.Millisecond, 2*time.Since(asked)), 250*time.Millisecond))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return 0, 0, fmt.Errorf("of %d edges, %d are connected and %d in sync (%w)", n, last.GetConnected(), last.GetInSync(), errors.Join(ctx.Err(), err))
		}
	}
}

// clearUp deletes what setUp saved, and the edges.
func (b *bench) clearUp(ctx context.Context) error {
	a := b.admin
	var mu sync.Mutex // guards errs
	var errs []error
	note := func(err error) {
		if err != nil && connect.CodeOf(err) != connect.CodeNotFound {
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, fmt.Errorf("clear up namespace %s: %w", b.namespace, err))
		}
	}
	if b.joinTokenID != "" {
		_, err := a.access.DeleteJoinToken(ctx, &gwv1.DeleteJoinTokenRequest{Id: b.joinTokenID})
		note(err)
	}
	_, err := a.access.DeleteApp(ctx, &gwv1.DeleteAppRequest{Namespace: b.namespace, Name: app})
	note(err)
	var g errgroup.Group
	g.SetLimit(8)
	for i := range b.Edges {
		g.Go(func() error {
			_, err := a.fleet.RemoveEdge(ctx, &gwv1.RemoveEdgeRequest{Id: fmt.Sprintf("%s-%05d", b.namespace, i)})
			note(err)
			return nil
		})
	}
	_ = g.Wait() // errors are noted
	for from := 0; from < b.Resources; from += batch {
		var keys []*gwv1.ResourceKey
		for i := from; i < min(from+batch, b.Resources); i++ {
			keys = append(keys, &gwv1.ResourceKey{Kind: "API", Namespace: b.namespace, Name: api("", i, 0).Metadata.Name})
		}
		_, err := a.config.DeleteResources(ctx, &gwv1.DeleteResourcesRequest{Keys: keys})
		note(err)
	}
	_, err = a.releases.Push(ctx, &gwv1.PushRequest{
		Scope: &gwv1.Scope{Namespaces: []string{b.namespace}}, Note: "gw bench fleet is over", ConfirmRemoval: true,
	})
	note(err)
	return errors.Join(errs...)
}
