package fleetbench

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"gw/rpc/gwv1"
)

// restart kills the leader with kill -9, which sends every edge elsewhere, or, if it is the only hub, back to it.
func (b *bench) restart(ctx context.Context) error {
	var elected, streaming, right, waits []time.Duration
	for range b.Restarts {
		runtime.GC() // there is time now
		leader, err := b.hubs.leader(ctx)
		if err != nil {
			return err
		}
		if leader == b.hubs.list[0] && len(b.hubs.list) > 1 {
			b.admin, b.hubs.admin = b.hubs.list[1].api, b.hubs.list[1].api
		} else {
			b.admin, b.hubs.admin = b.hubs.list[0].api, b.hubs.list[0].api
		}
		o, err := b.oneRestart(ctx, leader)
		if err != nil {
			return err
		}
		elected, streaming, right = append(elected, o.accepted), append(streaming, o.streaming), append(right, o.right)
		waits = append(waits, o.waits...)
	}
	what := "leader killed"
	if len(b.hubs.list) == 1 {
		what = "hub killed and started again"
	}
	b.report.times(Restart, what+" → an admin write is accepted", elected)
	b.report.times(Restart, what+" → all edges follow a hub", streaming)
	b.report.times(Restart, what+" → and all are Connected and In sync at the leader", right)
	b.report.times(Restart, "how long admin calls waited meanwhile, failed ones too", waits)
	slow := 0
	for _, w := range waits {
		if w > adminLimit {
			slow++
		}
	}
	b.report.value(Restart, fmt.Sprintf("admin calls that waited for more than %s", adminLimit), unitCount, float64(slow))
	if away, err := b.sentAway(ctx); err == nil {
		b.report.value(Restart, "calls of edges that were told to come again later", unitCount, away)
	}
	return nil
}

// adminLimit is what a hub promises of admin calls: it serves one or says why not.
const adminLimit = 5 * time.Second

// sentAway returns how many calls the hubs that run have refused because too many edges came at once.
func (b *bench) sentAway(ctx context.Context) (n float64, err error) {
	for _, k := range b.hubs.list {
		if !k.running() {
			continue
		}
		values, err := k.api.metrics(ctx)
		if err != nil {
			return 0, err
		}
		for name, v := range values {
			if strings.HasPrefix(name, "gw_rpc_overloaded_total") {
				n += v
			}
		}
	}
	return n, nil
}

// outage is what was seen of one.
type outage struct {
	accepted, streaming, right time.Duration // since the kill
	waits                      []time.Duration
}

func (b *bench) oneRestart(ctx context.Context, leader *hub) (o outage, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.Patience)
	defer cancel()
	began := time.Now()
	leader.kill()
	if len(b.hubs.list) == 1 {
		if err := leader.start(ctx); err != nil {
			return o, err
		}
	}
	probing, stop := context.WithCancel(ctx)
	var probes sync.WaitGroup
	defer func() { stop(); probes.Wait() }()
	probe := &probe{began: began}
	for i, k := range b.hubs.list {
		if k.running() {
			probes.Go(func() { probe.run(probing, k.api, b.namespace, i) })
		}
	}
	followed := make(chan time.Duration, 1)
	probes.Go(func() {
		parted := false // all of them are, soon: each followed the leader
		err := poll(probing, b.Patience, func() error {
			n := b.fleet.followers()
			parted = parted || n < b.Edges
			if n < b.Edges || !parted {
				return fmt.Errorf("%d of %d edges follow a hub", n, b.Edges)
			}
			return nil
		})
		if err == nil {
			followed <- time.Since(began)
		}
	})
	// A hub that is not told of its edges' absence yet can't call them connected: the leader is a new one or new-born.
	if _, _, err := b.awaitRight(ctx); err != nil {
		return o, err
	}
	o.right = time.Since(began)
	select {
	case o.streaming = <-followed:
	case <-ctx.Done():
		return o, fmt.Errorf("edges follow a hub: %w", ctx.Err())
	}
	o.right = max(o.right, o.streaming) // a heartbeat alone makes an edge Connected
	if o.accepted, err = probe.awaitAccepted(ctx); err != nil {
		return o, err
	}
	stop()
	probes.Wait()
	o.waits = probe.waits
	if leader.running() {
		return o, nil
	}
	if err := leader.start(ctx); err != nil {
		return o, err
	}
	return o, b.hubs.awaitVoters(ctx)
}

// probe is an admin who reads and writes all the time.
type probe struct {
	began time.Time

	mu       sync.Mutex // guards what follows
	accepted time.Duration
	failure  error
	waits    []time.Duration
}

// run alternates between reading the fleet and saving a resource that no edge is to have, until ctx ends.
func (p *probe) run(ctx context.Context, a *admin, namespace string, id int) {
	for n := 0; ctx.Err() == nil; n++ {
		called := time.Now()
		var err error
		write := n%2 == 0
		if write {
			_, err = a.config.ApplyResources(ctx, &gwv1.ApplyResourcesRequest{Resources: []*gwv1.Resource{probeResource(namespace, id, n)}})
		} else {
			_, err = a.summary(ctx, namespace)
		}
		if ctx.Err() != nil {
			return // the call was cut off by the end
		}
		p.note(write, time.Since(called), err)
		pause := time.NewTimer(50 * time.Millisecond)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

// probeResource is in a namespace beside that of the edges, or their leader would call them behind.
func probeResource(namespace string, id, n int) *gwv1.Resource {
	r := api(namespace+"-probe", id, n)
	r.Metadata.Labels = map[string]string{"probe": fmt.Sprint(n)}
	r.Spec.Fields["paths"] = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewStringValue(fmt.Sprintf("/probe/%d", id))}})
	return r
}

func (p *probe) note(write bool, wait time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waits = append(p.waits, wait)
	switch {
	case err != nil:
		p.failure = err
	case write && p.accepted == 0:
		p.accepted = time.Since(p.began)
	}
}

// awaitAccepted waits until a write was accepted and returns when that was.
func (p *probe) awaitAccepted(ctx context.Context) (at time.Duration, err error) {
	err = poll(ctx, startLimit, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if at = p.accepted; at == 0 {
			return fmt.Errorf("no write is accepted: %w", p.failure)
		}
		return nil
	})
	return at, err
}
